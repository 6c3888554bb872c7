package hosts

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// row is one key in the tables of docs/spec.md.
var row = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]+) \\| (cluster|host|any) \\|([^|]*)\\| .+ \\|$")

// The reference has a row for every key that files may hold, and for no other,
// and says of each which file may hold it and what its type is.
func TestReference(t *testing.T) {
	text, err := os.ReadFile("../docs/spec.md")
	if err != nil {
		t.Fatal(err)
	}
	written := map[string][2]string{}
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		if _, twice := written[m[1]]; twice {
			t.Errorf("%s has two rows", m[1])
		}
		written[m[1]] = [2]string{strings.TrimSpace(m[2]), m[3]}
	}
	known := map[string][2]string{}
	describe("", schema(), anyFile, known)
	for key, want := range known {
		got, ok := written[key]
		if !ok {
			t.Errorf("docs/spec.md has no row for %s (%s)", key, want[0])
		} else if got != want {
			t.Errorf("docs/spec.md says of %s %v, the code %v", key, got, want)
		}
	}
	for key := range written {
		if _, ok := known[key]; !ok {
			t.Errorf("docs/spec.md has a row for %s, which the code does not know", key)
		}
	}
}

// describe notes type and file of every key, as the reference has them.
func describe(path string, r *rule, only scope, into map[string][2]string) {
	if r.only != anyFile {
		only = r.only
	}
	note := func(kind string) {
		into[path] = [2]string{kind, [...]string{"any", "cluster", "host"}[only]}
	}
	switch r.form {
	case formLeaf:
		note(r.leaf.shape)
	case formFree:
		note("free-form table")
	case formList:
		if r.each.form == formLeaf {
			note("list of " + r.each.leaf.shape)
			return
		}
		note("list of tables")
		for key, child := range r.each.keys {
			describe(path+"."+key, child, only, into)
		}
	case formNamed, formFlat:
		if !strings.HasSuffix(path, ".NAME") {
			note("table")
		}
		describe(path+".NAME", r.each, only, into)
	case formTable:
		if path != "" && !strings.HasSuffix(path, ".NAME") {
			note("table")
		}
		for key, child := range r.keys {
			describe(strings.TrimPrefix(path+"."+key, "."), child, only, into)
		}
	}
}

// The defaults that the reference names are those of the code.
func TestReferenceDefaults(t *testing.T) {
	text, err := os.ReadFile("../docs/spec.md")
	if err != nil {
		t.Fatal(err)
	}
	f := mustLoad(t, map[string]string{
		"cluster.toml": plainCluster + "[network.floating.f]\naddress = \"192.0.2.9/32\"\ninterface = \"x0\"\nhosts = [\"a\"]\n[network.wireguard]\nrange = \"10.9.0.0/24\"\n[firewall.allow.ssh]\nports = [22]\nlimit = \"1/second\"\n[pki]\nissuer = \"vault\"\n[pki.vault]\naddress = \"https://v.example.org\"\n[kubernetes]\nversion = \"1.36.3\"\npod_range = \"10.244.0.0/16\"\nservice_range = \"10.96.0.0/12\"\n",
		"a.toml": "[host]\nroles = [\"control-plane\", \"etcd\", \"worker\"]\naddress = \"192.0.2.1\"\n[wireguard]\naddress = \"10.9.0.1\"\n" +
			"[network.link.b0]\nkind = \"bond\"\n[network.link.b0.bond]\nmode = \"802.3ad\"\n[network.link.v0]\nkind = \"vlan\"\nparent = \"x0\"\n[network.link.v0.vlan]\nid = 1\n" +
			"[network.link.m0]\nkind = \"macvlan\"\nparent = \"x0\"\n[network.link.x0]\n[network.link.x1]\nkind = \"vxlan\"\n[network.link.x1.vxlan]\nid = 1\n" +
			"[[network.route]]\ndestination = \"default\"\ndevice = \"x0\"\n[[network.rule]]\npriority = 1\ntable = 254\n",
	})
	s := f.Hosts[0]
	local := mustLoad(t, map[string]string{
		"cluster.toml": plainCluster + "[pki.local]\nca_keys = \"credential\"\n",
		"a.toml":       "[host]\nroles = [\"etcd\"]\naddress = \"192.0.2.1\"\n",
	}).Hosts[0].PKI.Local
	for key, value := range map[string]any{
		"pki.local.credential":            local.Credential,
		"cluster.domain":                  s.Domain,
		"network.wireguard.interface":     s.Network.WireGuard.Interface,
		"network.wireguard.port":          s.Network.WireGuard.Port,
		"network.wireguard.mtu":           s.Network.WireGuard.MTU,
		"network.link.NAME.kind":          string(link(s, "x0").Kind),
		"network.link.NAME.bond.miimon":   link(s, "b0").Bond.MIIMon,
		"network.link.NAME.vlan.protocol": link(s, "v0").VLAN.Protocol,
		"network.link.NAME.vxlan.port":    link(s, "x1").VXLAN.Port,
		"network.link.NAME.macvlan.mode":  link(s, "m0").Macvlan.Mode,
		"network.route.type":              string(s.Network.Routes[0].Type),
		"network.rule.action":             s.Network.Rules[0].Action,
		"network.floating.NAME.ttl":       s.Network.Floating[0].TTL,
		"network.probes.within":           s.Network.Probes.Within,
		"firewall.allow.NAME.protocol":    s.Firewall.Allow[0].Protocol,
		"firewall.allow.NAME.burst":       s.Firewall.Allow[0].Limit.Burst,
		"pki.lifetime":                    s.PKI.Lifetime,
		"pki.ca_lifetime":                 s.PKI.CALifetime,
		"pki.admin_lifetime":              s.PKI.AdminLifetime,
		"pki.key_type":                    s.PKI.KeyType,
		"pki.vault.auth":                  s.PKI.Vault.Auth,
		"kubernetes.api_port":             s.Kubernetes.APIPort,
		"kubernetes.cni":                  s.Kubernetes.CNI,
		"kubernetes.pod_mtu":              s.Kubernetes.PodMTU,
		"kubernetes.binaries":             s.Kubernetes.Binaries,
		"kubernetes.cni_binaries":         s.Kubernetes.CNIBinaries,
		"kubernetes.pause_image":          s.Kubernetes.PauseImage,
		"etcd.client_port":                s.Etcd.ClientPort,
		"etcd.peer_port":                  s.Etcd.PeerPort,
		"etcd.heartbeat_interval":         s.Etcd.HeartbeatInterval,
		"etcd.election_timeout":           s.Etcd.ElectionTimeout,
		"snapshots.schedule":              s.Snapshots.Schedule,
		"snapshots.by":                    s.Snapshots.By,
		"snapshots.spread":                s.Snapshots.Spread,
		"snapshots.drill":                 s.Snapshots.Drill,
		"snapshots.drill_spread":          s.Snapshots.DrillSpread,
		"snapshots.compression":           s.Snapshots.Compression,
		"snapshots.recipients":            s.Snapshots.Recipients,
		"snapshots.identity_file":         s.Snapshots.IdentityFile,
		"snapshots.vault_key":             s.Snapshots.VaultKey,
		"snapshots.public_keys":           s.Snapshots.PublicKeys,
		"snapshots.certificates":          s.Snapshots.Certificates,
		"snapshots.keep":                  s.Snapshots.Keep.Last,
		"snapshots.keep_hourly":           s.Snapshots.Keep.Hourly,
		"snapshots.keep_daily":            s.Snapshots.Keep.Daily,
		"snapshots.keep_weekly":           s.Snapshots.Keep.Weekly,
		"snapshots.keep_monthly":          s.Snapshots.Keep.Monthly,
		"snapshots.keep_within":           s.Snapshots.Keep.Within,
		"snapshots.keep_longest":          s.Snapshots.Keep.Longest,
		"snapshots.destination":           s.Snapshots.Destination,
	} {
		i := slices.IndexFunc(row.FindAllStringSubmatch(string(text), -1), func(m []string) bool {
			return m[1] == key && strings.HasPrefix(strings.TrimSpace(m[4]), written(value))
		})
		if i < 0 {
			t.Errorf("docs/spec.md does not have %s as the default of %s", written(value), key)
		}
	}
	for name, value := range workerSysctls {
		if !strings.Contains(string(text), "`"+name+" = "+value+"`") {
			t.Errorf("docs/spec.md does not name the default %s = %s", name, value)
		}
	}
}

func link(s *Spec, name string) Link {
	return s.Network.Links[slices.IndexFunc(s.Network.Links, func(l Link) bool { return l.Name == name })]
}

// written is a value as the reference writes it.
func written(value any) string {
	switch v := value.(type) {
	case int:
		return "`" + strconv.Itoa(v) + "`"
	case bool:
		return "`" + strconv.FormatBool(v) + "`"
	case time.Duration:
		return "`\"" + hours(v) + "\"`"
	}
	return fmt.Sprintf("`%q`", value)
}
