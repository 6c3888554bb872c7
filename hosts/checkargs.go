package hosts

import (
	"slices"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// ownFlags are those that extra_args must not set, each with what would go
// wrong: the rest of nodeagent (the guard of etcd's data, snapshots, restores)
// goes by what it sets itself.
var ownFlags = map[string]map[string]string{
	layout.Etcd: {
		"force-new-cluster":     "each start would throw the other members out; use `nodeagent snapshot restore`",
		"data-dir":              "a restore, and the guard against a second, empty cluster, look at nodeagent's own folder",
		"wal-dir":               "a restore, and the guard against a second, empty cluster, look at nodeagent's own folder",
		"config-file":           "with it etcd reads no other flag",
		"name":                  "it is the host's name",
		"initial-cluster":       "it is derived from the hosts with the role etcd",
		"initial-cluster-state": "it is derived from etcd.existing",
		"initial-cluster-token": "it is the cluster's name",
	},
	layout.APIServer: {
		"encryption-provider-config": "Secrets would be stored in the clear, or those that are stored could not be read",
	},
}

// guardFlags are those by which mTLS and hardening stand. Setting one is
// allowed, and said.
var guardFlags = map[string][]string{
	layout.Etcd: {
		"auto-tls", "peer-auto-tls", "client-cert-auth", "peer-client-cert-auth", "trusted-ca-file", "peer-trusted-ca-file",
		"listen-client-urls", "listen-peer-urls", "listen-metrics-urls", "listen-client-http-urls", "unsafe-no-fsync", "strict-reconfig-check",
	},
	layout.APIServer: {
		"anonymous-auth", "authorization-mode", "authorization-config", "authentication-config", "token-auth-file", "client-ca-file",
		"etcd-servers", "etcd-cafile", "kubelet-certificate-authority", "enable-admission-plugins", "disable-admission-plugins", "tls-min-version", "profiling",
	},
	layout.ControllerManager: {"use-service-account-credentials", "bind-address", "profiling"},
	layout.Scheduler:         {"bind-address", "profiling"},
	layout.Kubelet:           {"anonymous-auth", "authorization-mode", "client-ca-file", "read-only-port", "config", "kubeconfig", "protect-kernel-defaults"},
}

// checkArguments judges extra flags by what they would undo.
func (d *draft) checkArguments() {
	args := d.tree.get("kubernetes.extra_args")
	for _, component := range args.names() {
		set := args.table[component]
		for _, flag := range set.names() {
			n := set.table[flag]
			switch why := ownFlags[component][flag]; {
			case n.bad:
			case why != "":
				d.at(n, "cannot be set: %s", why)
			case slices.Contains(guardFlags[component], flag):
				d.warn(d.file, n, n.path, "replaces what nodeagent sets for mTLS or hardening: make sure that this is meant")
			}
		}
	}
}
