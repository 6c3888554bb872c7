package e2e

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/nodeagent/nodeagent/test/lab"
)

// oldHost is a host as people have built them by hand: `vault agent` renders
// certificates, keys and what else Vault keeps, and units that somebody has written
// run etcd and Kubernetes with that. Its names are those of
// docs/guides/vault-agent.md.
type oldHost struct{ *trio }

const (
	oldPKI    = "/etc/kubernetes/pki"
	oldAdmin  = "/etc/kubernetes/admin.kubeconfig"
	oldIssuer = "https://kubernetes.default.svc"
	oldSink   = "/run/vault-agent-token"
)

// oldCert is a certificate that the agent renders, by a role of the same name.
type oldCert struct {
	name, engine string
	subject      string // common name
	group        string // organisation, of the role
	names, ips   string
}

var oldCerts = []oldCert{
	{"etcd", "pki-etcd", "n1", "", "n1,localhost", "127.0.0.1,192.0.2.11"},
	{"apiserver-etcd-client", "pki-etcd", "kube-apiserver", "", "", ""},
	{"kube-apiserver", "pki-k8s", "kube-apiserver", "", "n1,kubernetes,kubernetes.default,kubernetes.default.svc,localhost", "127.0.0.1,192.0.2.11,10.96.0.1"},
	{"apiserver-kubelet-client", "pki-k8s", "kube-apiserver-kubelet-client", "system:masters", "", ""},
	{"kubelet", "pki-k8s", "system:node:n1", "system:nodes", "n1", "192.0.2.11"},
	{"kube-controller-manager", "pki-k8s", "system:kube-controller-manager", "", "", ""},
	{"kube-scheduler", "pki-k8s", "system:kube-scheduler", "", "", ""},
	{"kube-proxy", "pki-k8s", "system:kube-proxy", "", "", ""},
	{"admin", "pki-k8s", "admin", "system:masters", "", ""},
}

// newOld boots such a host, and the Vault that its certificates come from.
func newOld(t *testing.T) oldHost {
	t.Helper()
	l := lab.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	t.Cleanup(cancel)
	c := oldHost{&trio{t: t, ctx: ctx, lab: l}}
	if err := l.AddSwitch(ctx, "lan", netip.MustParsePrefix("192.0.2.254/24")); err != nil {
		t.Fatal(err)
	}
	ca := c.startVault(newestVault)
	program, err := l.Builder.VaultAgent(ctx)
	if err != nil {
		t.Fatal(err)
	}
	h, err := l.AddMember(ctx, "n1", "lan")
	if err != nil {
		t.Fatal(err)
	}
	c.hosts = []*lab.Mercury{h}
	if err := h.PutCopy(program, "/usr/local/bin/vault"); err != nil {
		t.Fatal(err)
	}
	c.put(c.vault, "/etc/nodeagent/vault-ca.crt", ca)
	c.put(h, "/etc/nodeagent/vault-ca.crt", ca)
	c.putOld()
	if err := h.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	c.on(h, "systemctl", "enable", "--quiet", "--now", "lan.service")
	t.Cleanup(func() {
		if t.Failed() {
			c.explain()
			c.explainOld()
		}
	})
	return c
}

// engines makes in Vault what such a host's administrator once has: a CA for etcd
// and one for Kubernetes, a role for each certificate, the keys that control planes
// share, and the host's login.
func (c oldHost) engines() {
	c.t.Helper()
	client := c.vaultClient(c.token)
	write := func(path string, data map[string]any) map[string]any {
		c.t.Helper()
		answer, err := client.Logical().WriteWithContext(c.ctx, path, data)
		if err != nil {
			c.t.Fatalf("write %s: %v", path, err)
		}
		if answer == nil {
			return nil
		}
		return answer.Data
	}
	policy := `path "kv/data/k8s/lone" { capabilities = ["read"] }` + "\n"
	for _, engine := range []string{"pki-etcd", "pki-k8s"} {
		write("sys/mounts/"+engine, map[string]any{"type": "pki", "config": map[string]any{"max_lease_ttl": "87600h"}})
		write(engine+"/root/generate/internal", map[string]any{"common_name": engine, "ttl": "87600h", "key_type": "ec"})
	}
	for _, o := range oldCerts {
		write(o.engine+"/roles/"+o.name, map[string]any{
			"allow_any_name": true, "enforce_hostnames": false, "organization": o.group, "key_type": "ec", "key_bits": 256,
			"server_flag": true, "client_flag": true, "ttl": "24h", "max_ttl": "48h",
		})
		policy += fmt.Sprintf("path %q { capabilities = [\"update\"] }\n", o.engine+"/issue/"+o.name)
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		c.t.Fatal(err)
	}
	write("sys/mounts/kv", map[string]any{"type": "kv", "options": map[string]any{"version": "2"}})
	// The form that most such keys are in.
	signer := c.on(c.vault, "openssl", "genrsa", "-traditional", "2048")
	c.until(time.Minute, "the KV engine", func() error { // it upgrades itself first
		_, err := client.Logical().WriteWithContext(c.ctx, "kv/data/k8s/lone", map[string]any{
			"data": map[string]any{"sa_key": signer, "encryption_key": base64.StdEncoding.EncodeToString(key)},
		})
		return err
	})
	write("sys/policies/acl/n1", map[string]any{"policy": policy})
	write("sys/auth/approle", map[string]any{"type": "approle"})
	write("auth/approle/role/n1", map[string]any{"token_policies": "n1", "role_id": "n1"})
	secret := write("auth/approle/role/n1/secret-id", nil)
	h := c.hosts[0]
	c.put(h, "/etc/vault-agent/role-id", "n1")
	if err := h.PutFile("/etc/vault-agent/secret-id", []byte(secret["secret_id"].(string)), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// putOld writes the host's files, everything but the login.
func (c oldHost) putOld() {
	c.t.Helper()
	h := c.hosts[0]
	c.put(h, "/etc/vault-agent/agent.hcl", oldAgent())
	for component, cert := range map[string]string{
		"kube-controller-manager": "kube-controller-manager", "kube-scheduler": "kube-scheduler",
		"kubelet": "kubelet", "kube-proxy": "kube-proxy", "admin": "admin",
	} {
		c.put(h, "/etc/kubernetes/"+component+".kubeconfig", oldKubeconfig(cert))
	}
	settings := labSettings(c.t)
	c.put(h, "/etc/kubernetes/kubelet.json", laidOver(c.t, oldKubelet, settings.Kubernetes.Config["kubelet"]))
	c.put(h, "/etc/kubernetes/kube-proxy.json", laidOver(c.t, oldProxy, settings.Kubernetes.Config["kube-proxy"]))
	var containerd strings.Builder
	containerd.WriteString("version = 3\n")
	if err := toml.NewEncoder(&containerd).Encode(settings.Kubernetes.Config["containerd"]); err != nil {
		c.t.Fatal(err)
	}
	c.put(h, "/etc/containerd/config.toml", containerd.String()+fmt.Sprintf(oldPlugins, settings.Kubernetes.CNIBinaries))
	c.put(h, "/etc/cni/net.d/10-lone.conflist", oldNetwork)
	for name, unit := range oldUnits {
		c.put(h, "/etc/systemd/system/"+name+".service", oldUnit(name, unit))
	}
	c.put(h, "/etc/systemd/system/lan.service", oldLAN)
	// What root has in his shell, and the administrator of Vault.
	c.put(h, "/etc/profile.d/old.sh", oldProfile)
}

// labSettings is what a host needs in the lab, as a fleet would say it.
func labSettings(t *testing.T) (s struct {
	Kubernetes struct {
		CNIBinaries string `toml:"cni_binaries"`
		Config      map[string]map[string]any
	}
},
) {
	t.Helper()
	text, err := lab.WithDifferences("")
	if err == nil {
		err = toml.Unmarshal([]byte(text), &s)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// laidOver is a JSON object with further fields.
func laidOver(t *testing.T, base string, over map[string]any) string {
	t.Helper()
	var all map[string]any
	err := json.Unmarshal([]byte(base), &all)
	for key, value := range over {
		all[key] = value
	}
	content, failed := json.MarshalIndent(all, "", "  ")
	if err := errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// oldAgent is the agent's configuration.
func oldAgent() string {
	var b strings.Builder
	b.WriteString(`vault {
  address = "https://192.0.2.5:8200"
  ca_cert = "/etc/nodeagent/vault-ca.crt"
}
auto_auth {
  method "approle" {
    config = {
      role_id_file_path = "/etc/vault-agent/role-id"
      secret_id_file_path = "/etc/vault-agent/secret-id"
      remove_secret_id_file_after_reading = false
    }
  }
  sink "file" {
    config = { path = "` + oldSink + `" }
  }
}
template_config {
  exit_on_retry_failure = true
}
template {
  destination = "/etc/kubernetes/sa.key"
  perms = "0600"
  contents = "{{ with secret \"kv/data/k8s/lone\" }}{{ .Data.data.sa_key }}{{ end }}"
}
template {
  destination = "/etc/kubernetes/encryption.yaml"
  perms = "0600"
  contents = <<EOT
`)
	b.WriteString(`apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources:
      - secrets
    providers:
      - secretbox:
          keys:
            - name: first
              secret: {{ with secret "kv/data/k8s/lone" }}{{ .Data.data.encryption_key }}{{ end }}
      - identity: {}
EOT
}
`)
	for _, o := range oldCerts {
		base := path.Join(oldPKI, o.name)
		words := []string{o.engine + "/issue/" + o.name, "common_name=" + o.subject}
		if o.names != "" {
			words = append(words, "alt_names="+o.names)
		}
		if o.ips != "" {
			words = append(words, "ip_sans="+o.ips)
		}
		// All of it in the destination, too: the agent looks for the pair there when it
		// starts again, and knows no key of one that it only finds in part.
		contents := fmt.Sprintf(`{{ with pkiCert "%s" }}{{ .Data.Key }}{{ .Data.Cert }}{{ .Data.CA }}`, strings.Join(words, `" "`))
		for ending, field := range map[string]string{".key": "Key", ".crt": "Cert", ".ca": "CA"} {
			contents += fmt.Sprintf(`{{ .Data.%s | writeToFile %q "" "" "0600" }}`, field, base+ending)
		}
		fmt.Fprintf(&b, "template {\n  destination = %q\n  perms = \"0600\"\n  contents = %q\n", base+".pem", contents+"{{ end }}")
		if o.name == "etcd" {
			b.WriteString("  exec {\n    command = [\"systemctl\", \"try-restart\", \"etcd.service\"]\n  }\n")
		}
		b.WriteString("}\n")
	}
	return b.String()
}

func oldKubeconfig(cert string) string {
	base := path.Join(oldPKI, cert)
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: lone, cluster: {server: "https://192.0.2.11:6443", certificate-authority: %[1]s.ca}}]
users: [{name: me, user: {client-certificate: %[1]s.crt, client-key: %[1]s.key}}]
contexts: [{name: lone, context: {cluster: lone, user: me}}]
current-context: lone
`, base)
}

// oldUnits are the commands of the units.
var oldUnits = map[string]string{
	"vault-agent": `/usr/local/bin/vault agent -config=/etc/vault-agent/agent.hcl`,
	"etcd": `/opt/kubernetes/bin/etcd --name=n1 --data-dir=/var/lib/etcd
 --listen-client-urls=https://127.0.0.1:2379,https://192.0.2.11:2379 --advertise-client-urls=https://192.0.2.11:2379
 --listen-peer-urls=https://192.0.2.11:2380 --initial-advertise-peer-urls=https://192.0.2.11:2380 --initial-cluster=n1=https://192.0.2.11:2380
 --client-cert-auth --trusted-ca-file=PKI/etcd.ca --cert-file=PKI/etcd.crt --key-file=PKI/etcd.key
 --peer-client-cert-auth --peer-trusted-ca-file=PKI/etcd.ca --peer-cert-file=PKI/etcd.crt --peer-key-file=PKI/etcd.key`,
	"kube-apiserver": `/opt/kubernetes/bin/kube-apiserver --advertise-address=192.0.2.11 --allow-privileged
 --etcd-servers=https://127.0.0.1:2379 --etcd-cafile=PKI/etcd.ca --etcd-certfile=PKI/apiserver-etcd-client.crt --etcd-keyfile=PKI/apiserver-etcd-client.key
 --client-ca-file=PKI/kube-apiserver.ca --tls-cert-file=PKI/kube-apiserver.crt --tls-private-key-file=PKI/kube-apiserver.key
 --kubelet-certificate-authority=PKI/kube-apiserver.ca --kubelet-client-certificate=PKI/apiserver-kubelet-client.crt --kubelet-client-key=PKI/apiserver-kubelet-client.key
 --service-account-issuer=` + oldIssuer + ` --service-account-key-file=/etc/kubernetes/sa.key --service-account-signing-key-file=/etc/kubernetes/sa.key
 --encryption-provider-config=/etc/kubernetes/encryption.yaml --service-cluster-ip-range=10.96.0.0/12 --authorization-mode=Node,RBAC`,
	"kube-controller-manager": `/opt/kubernetes/bin/kube-controller-manager --kubeconfig=/etc/kubernetes/kube-controller-manager.kubeconfig --bind-address=127.0.0.1
 --root-ca-file=PKI/kube-apiserver.ca --service-account-private-key-file=/etc/kubernetes/sa.key --use-service-account-credentials --service-cluster-ip-range=10.96.0.0/12`,
	"kube-scheduler": `/opt/kubernetes/bin/kube-scheduler --kubeconfig=/etc/kubernetes/kube-scheduler.kubeconfig --bind-address=127.0.0.1`,
	"containerd":     `/opt/kubernetes/bin/containerd --config=/etc/containerd/config.toml`,
	"kubelet":        `/opt/kubernetes/bin/kubelet --config=/etc/kubernetes/kubelet.json --kubeconfig=/etc/kubernetes/kubelet.kubeconfig --node-ip=192.0.2.11`,
	"kube-proxy":     `/opt/kubernetes/bin/kube-proxy --config=/etc/kubernetes/kube-proxy.json`,
}

// oldUnit tries again for as long as what the agent renders is not there.
func oldUnit(name, command string) string {
	command = strings.NewReplacer("\n", " \\\n", "PKI/", oldPKI+"/").Replace(command)
	return fmt.Sprintf(`[Unit]
Description=%s
After=lan.service
StartLimitIntervalSec=0

[Service]
Environment=PATH=/opt/kubernetes/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
ExecStart=%s
Restart=always
RestartSec=1
KillMode=%s
Delegate=yes

[Install]
WantedBy=multi-user.target
`, name, command, map[bool]string{true: "process", false: "mixed"}[name == "containerd"])
}

const (
	// The address is the host's own matter: the fleet has no network.
	oldLAN = `[Unit]
Description=Address and route of the host
Before=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=ip address add 192.0.2.11/24 dev eth0
ExecStart=ip link set eth0 up
ExecStart=ip route add default via 192.0.2.254

[Install]
WantedBy=multi-user.target
`
	oldProfile = `export PATH="$PATH:/opt/kubernetes/bin"
export ETCDCTL_ENDPOINTS=https://127.0.0.1:2379
export ETCDCTL_CACERT=` + oldPKI + `/etcd.ca
export ETCDCTL_CERT=` + oldPKI + `/apiserver-etcd-client.crt
export ETCDCTL_KEY=` + oldPKI + `/apiserver-etcd-client.key
export VAULT_ADDR=https://192.0.2.5:8200
export VAULT_CACERT=/etc/nodeagent/vault-ca.crt
unset KUBECONFIG
`
	oldKubelet = `{
  "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
  "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": "` + oldPKI + `/kubelet.ca"}},
  "authorization": {"mode": "Webhook"},
  "tlsCertFile": "` + oldPKI + `/kubelet.crt", "tlsPrivateKeyFile": "` + oldPKI + `/kubelet.key",
  "clusterDomain": "cluster.local", "clusterDNS": ["10.96.0.10"],
  "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock"
}`
	oldProxy = `{
  "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
  "mode": "nftables", "hostnameOverride": "n1", "clusterCIDR": "10.244.0.0/16",
  "clientConnection": {"kubeconfig": "/etc/kubernetes/kube-proxy.kubeconfig"}
}`
	oldPlugins = `
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = [%q]
conf_dir = "/etc/cni/net.d"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "registry.k8s.io/pause:3.10.1"
`
	oldNetwork = `{"cniVersion": "1.0.0", "name": "lone", "plugins": [{
  "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}
}]}`
)

// explainOld logs how the old units are.
func (c oldHost) explainOld() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for name := range oldUnits {
		out, err := c.hosts[0].Exec(ctx, "journalctl", "-u", name, "-n", "6", "--no-pager", "-o", "cat")
		c.t.Logf("%s (%v):\n%s", name, err, out)
	}
}
