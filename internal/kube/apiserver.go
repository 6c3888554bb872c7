package kube

import (
	"path/filepath"
	"strconv"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/internal/units"
)

func apiServer(spec *hosts.Spec, root layout.Root) component {
	dir := root.Component(layout.APIServer)
	authentication := filepath.Join(dir, "authentication.yaml")
	audit := filepath.Join(dir, "audit-policy.yaml")
	needs := []string(nil)
	if spec.Has(hosts.RoleEtcd) {
		needs = []string{layout.Etcd}
	}
	return component{
		name:        layout.APIServer,
		description: "Kubernetes API server of cluster " + spec.Cluster,
		flags:       apiServerFlags(spec, root, authentication, audit),
		files: []units.File{
			yamlFile(audit, 0o600, auditPolicy()),
			yamlFile(authentication, 0o600, anonymousHealth()),
		},
		hardening: hardening{on: true, capabilities: lowPort(spec.Kubernetes.APIPort)},
		service: append(
			held(root, spec.Kubernetes.APIPort),
			"LogsDirectory=kubernetes",
			"LogsDirectoryMode=0700",
			"Type=notify",
			"TimeoutStartSec=6min", // a minute of it until it is ready
			"TimeoutStopSec=90s",
			"OOMScoreAdjust=-997",
			"LimitNOFILE=65536",
		),
		after: needs,
		needs: needs,
		ready: &units.Probe{
			URL: apiServerURL(spec) + "/readyz",
			CA:  root.Trust(layout.CAK8sServer),
			// Any client may read /readyz; this certificate lives as long as
			// the server's, unlike the administrator's.
			Cert:    root.Certificate(layout.CertControllerManagerClient).Cert,
			Key:     root.Certificate(layout.CertControllerManagerClient).Key,
			Timeout: 5 * time.Minute,
		},
		effect:  plan.Restart,
		restart: apiServerRestart(root),
	}
}

// held keeps other machines away from the server's port until it is ready: it
// listens a second or more before it has read the roles, and denies everything
// meanwhile. A failure of that is in the journal and nothing more, hence the "-";
// the "+" is for the firewall's capability, which the server has not.
func held(root layout.Root, port int) []string {
	hold := "-+" + quote(root.Program(), arguments) + " hold "
	return []string{
		"ExecStartPre=" + hold + "start " + strconv.Itoa(port),
		"ExecStartPost=" + hold + "ready " + strconv.Itoa(port),
		"ExecStopPost=" + hold + "end",
	}
}

// apiServerRestart: leaf pairs and the client and request-header CAs are watched,
// the encryption configuration is polled; these are read once, or, the kubelets'
// CA from 1.36 on, again after five minutes only, for which no log could be read.
func apiServerRestart(root layout.Root) []string {
	return []string{root.Trust(layout.CAEtcdServer), root.Trust(layout.CAK8sServer), root.ServiceAccountKey(), root.ServiceAccountPublic()}
}

func apiServerFlags(spec *hosts.Spec, root layout.Root, authentication, audit string) flags {
	serving := root.Certificate(layout.CertAPIServer)
	etcdClient := root.Certificate(layout.CertAPIServerEtcdClient)
	kubeletClient := root.Certificate(layout.CertAPIServerKubeletClient)
	proxyClient := root.Certificate(layout.CertFrontProxyClient)
	f := flags{
		{"advertise-address", spec.Address.String()},
		{"bind-address", anyAddress(spec)},
		{"secure-port", strconv.Itoa(spec.Kubernetes.APIPort)},
		{"etcd-servers", etcdServers(spec)},
		{"etcd-cafile", root.Trust(layout.CAEtcdServer)},
		{"etcd-certfile", etcdClient.Cert},
		{"etcd-keyfile", etcdClient.Key},
		{"client-ca-file", root.Trust(layout.CAK8sClient)},
		{"tls-cert-file", serving.Cert},
		{"tls-private-key-file", serving.Key},
		{"tls-min-version", "VersionTLS13"},
		{"kubelet-certificate-authority", root.Trust(layout.CAK8sServer)},
		{"kubelet-client-certificate", kubeletClient.Cert},
		{"kubelet-client-key", kubeletClient.Key},
		{"kubelet-preferred-address-types", "InternalIP,Hostname,ExternalIP"},
		{"requestheader-client-ca-file", root.Trust(layout.CAFrontProxy)},
		{"requestheader-allowed-names", "front-proxy-client"},
		{"requestheader-username-headers", "X-Remote-User"},
		{"requestheader-group-headers", "X-Remote-Group"},
		{"requestheader-extra-headers-prefix", "X-Remote-Extra-"},
		{"proxy-client-cert-file", proxyClient.Cert},
		{"proxy-client-key-file", proxyClient.Key},
		{"service-account-issuer", "https://kubernetes.default.svc." + spec.Domain},
		{"service-account-key-file", root.ServiceAccountPublic()},
		{"service-account-signing-key-file", root.ServiceAccountKey()},
		{"service-cluster-ip-range", spec.Kubernetes.ServiceRange.String()},
		{"authorization-mode", "Node,RBAC"},
		{"enable-admission-plugins", "NodeRestriction"},
		{"allow-privileged", "true"},
		{"authentication-config", authentication},
		{"encryption-provider-config", root.EncryptionConfig()},
		{"encryption-provider-config-automatic-reload", "true"},
		{"audit-policy-file", audit},
		{"audit-log-path", auditLog(root)},
		{"audit-log-maxage", "30"},
		{"audit-log-maxbackup", "10"},
		{"audit-log-maxsize", "100"},
		{"profiling", "false"},
		{"shutdown-watch-termination-grace-period", "10s"},
	}
	if !spec.Has(hosts.RoleWorker) {
		// Without kube-proxy beside it the server cannot reach an aggregated
		// API by its Service address.
		f = append(f, option{"enable-aggregator-routing", "true"})
	}
	return f
}

// auditLog is below the folder that the unit's LogsDirectory makes.
func auditLog(root layout.Root) string {
	return filepath.Join(string(root)+"/", "var/log/kubernetes/audit.log")
}

// anyAddress makes the server listen on loopback and on every address of the
// host; who may reach it is the firewall's part.
func anyAddress(spec *hosts.Spec) string {
	if spec.Address.Is4() {
		return "0.0.0.0"
	}
	return "::"
}

// anonymousHealth lets clients without a certificate ask whether the server
// lives, as load balancers do, and nothing else.
func anonymousHealth() map[string]any {
	return object{
		"apiVersion": "apiserver.config.k8s.io/v1",
		"kind":       "AuthenticationConfiguration",
		"jwt":        []any{},
		"anonymous": object{
			"enabled": true,
			"conditions": []any{
				object{"path": "/livez"},
				object{"path": "/readyz"},
				object{"path": "/healthz"},
			},
		},
	}
}

// auditPolicy keeps who did what, without the content of secrets: metadata of
// every request, whole bodies only where permissions change, nothing of what
// the components ask each other every few seconds.
func auditPolicy() map[string]any {
	return object{
		"apiVersion": "audit.k8s.io/v1",
		"kind":       "Policy",
		"omitStages": []any{"RequestReceived"},
		"rules": []any{
			object{"level": "None", "nonResourceURLs": []any{"/healthz*", "/livez*", "/readyz*", "/version", "/metrics"}},
			object{"level": "None", "resources": []any{
				object{"group": "coordination.k8s.io", "resources": []any{"leases"}},
				object{"group": "", "resources": []any{"events"}},
				object{"group": "events.k8s.io", "resources": []any{"events"}},
			}},
			object{
				"level": "None", "verbs": []any{"get", "list", "watch"},
				"userGroups": []any{"system:nodes"},
			},
			object{
				"level": "None", "verbs": []any{"get", "list", "watch"},
				"users": []any{
					"system:kube-proxy", "system:kube-scheduler", "system:kube-controller-manager", "system:apiserver",
				},
			},
			object{
				"level": "RequestResponse",
				"verbs": []any{"create", "update", "patch", "delete", "deletecollection"},
				"resources": []any{
					object{"group": "rbac.authorization.k8s.io"},
				},
			},
			object{"level": "Metadata"},
		},
	}
}
