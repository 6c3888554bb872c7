package vault

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

// rule is what a policy allows at one path.
type rule struct {
	path         string
	capabilities []string
	// parameters that may be sent, each with its only value; nil for any value.
	// A nil map allows every parameter.
	parameters map[string]any
	// required are those of the parameters that must be sent.
	required []string
	// sample is a path that the rule's pattern covers, for asking Vault what a
	// token may do; path itself where empty.
	sample string
	why    string
}

// hostRules are what the tokens of a host may do: sign its own certificates,
// each with its own names, keep the token, and on a control plane share
// secrets. CA chains, issuers and CRLs are public and need no rule.
func hostRules(place Place, spec *hosts.Spec) []rule {
	var rules []rule
	engines := map[string]bool{}
	for _, r := range pki.Requests(spec) {
		rules = append(rules, signRule(place, spec.Name, r))
		engines[r.CA] = true
	}
	for _, ca := range layout.CAs() {
		if engines[ca] {
			rules = append(rules, rule{
				path: place.Engine(ca) + "/revoke-with-key", capabilities: []string{"update"},
				why: "whoever has the key of a certificate may revoke it",
			})
		}
	}
	if spec.Has(hosts.RoleControlPlane) {
		for _, name := range []string{pki.KeyEncryption, pki.KeyServiceAccount} {
			rules = append(rules, rule{
				path: place.Secret(name), capabilities: []string{"create", "read"},
				why: "shared by all control planes; made once and never overwritten",
			})
		}
	}
	if name := spec.Snapshots.VaultKey; name != "" && spec.Has(hosts.RoleEtcd) {
		rules = append(rules, rule{
			path: place.Secret(name), capabilities: []string{"create", "read"},
			why: "encrypts the snapshots of etcd; made once and never overwritten by a host",
		})
	}
	if spec.Has(hosts.RoleEtcd) {
		for _, c := range spec.Snapshots.Copies {
			if c.S3 != nil && c.S3.VaultEntry != "" {
				rules = append(rules, rule{
					path: place.Secret(snapshotEntry(c.S3.VaultEntry)), capabilities: []string{"read"},
					why: "the access key of a store of snapshots",
				})
			}
		}
	}
	if len(spec.Roles) > 0 {
		rules = append(rules, rule{
			path: place.Report(spec.Name), capabilities: []string{"create", "read", "update"},
			why: "how far the host is with its certificates, for changes of a CA",
		})
	}
	if spec.PKI.Vault.Auth == authAppRole {
		own := "auth/" + place.Auth(authAppRole) + "/role/" + spec.Name + "/secret-id"
		rules = append(rules,
			rule{path: own, capabilities: []string{"update"}, why: "the host rotates its own secret id"},
			rule{path: own + "/destroy", capabilities: []string{"update"}},
			rule{path: own + "-accessor/destroy", capabilities: []string{"update"}})
	}
	return append(rules,
		rule{path: "auth/token/lookup-self", capabilities: []string{"read"}, why: "the token itself"},
		rule{path: "auth/token/renew-self", capabilities: []string{"update"}},
		rule{path: "auth/token/revoke-self", capabilities: []string{"update"}},
		rule{path: "sys/capabilities-self", capabilities: []string{"update"}, why: "`nodeagent pki check` on the host"})
}

func signRule(place Place, host string, r pki.Request) rule {
	parameters := SignParameters(r)
	required := slices.Sorted(maps.Keys(parameters))
	parameters["csr"] = nil
	return rule{
		path: signPath(place, host, r), capabilities: []string{"update"},
		parameters: parameters, required: append(required, "csr"),
	}
}

// signPath is where a host's role signs the request.
func signPath(place Place, host string, r pki.Request) string {
	return place.Engine(r.CA) + "/sign/" + place.Role(host, r.Name)
}

// HostPolicy is the policy of a host's tokens as Vault keeps it.
func HostPolicy(spec *hosts.Spec) string {
	place := Place(spec.PKI.Vault.Mount)
	return render(fmt.Sprintf("Host %s of cluster %s, made by `nodeagent pki bootstrap`.", spec.Name, spec.Cluster), hostRules(place, spec))
}

// AdminPolicy is the policy of the token with which `nodeagent pki bootstrap`,
// `check` and `token` work.
func AdminPolicy(fleet *hosts.Fleet) string {
	spec := fleet.Hosts[0]
	return render(fmt.Sprintf("An administrator of cluster %s: `nodeagent pki bootstrap`, `check` and `token`.", spec.Cluster), adminRules(Place(spec.PKI.Vault.Mount)))
}

// adminRules are what an administrator may do at a place. A pattern with +
// matches what is listed only with the slash at its end that Vault adds.
func adminRules(place Place) []rule {
	all := []string{"create", "read", "update", "delete", "list"}
	write := []string{"create", "read", "update"}
	p, engine := string(place), place.Engine(layout.CAEtcdPeer)
	return []rule{
		{path: "sys/mounts", capabilities: []string{"read"}, why: "engines, methods and audit devices that are there"},
		{path: "sys/auth", capabilities: []string{"read"}},
		{path: "sys/audit", capabilities: []string{"read", "sudo"}},
		{path: "sys/mounts/" + p + "/*", sample: "sys/mounts/" + engine, capabilities: write, why: "the cluster's engines and methods"},
		{path: "sys/auth/" + p + "/*", sample: "sys/auth/" + place.Auth(authCert), capabilities: append([]string{"sudo"}, write...)},
		{path: "sys/policies/acl", capabilities: []string{"list"}, why: "the policies of its hosts"},
		{path: "sys/policies/acl/" + place.policyPrefix() + "*", sample: "sys/policies/acl/" + place.Policy("host"), capabilities: all},
		{path: p + "/+/config/*", sample: engine + "/config/auto-tidy", capabilities: write, why: "inside the engines: settings, authorities, roles"},
		{path: place.Secrets() + "/config", capabilities: write},
		{path: p + "/+/issuers/", sample: engine + "/issuers/", capabilities: []string{"list"}},
		{path: p + "/+/keys/", sample: engine + "/keys/", capabilities: []string{"list"}},
		{path: p + "/+/issuer/+", sample: engine + "/issuer/default", capabilities: []string{"read", "delete"}},
		{path: p + "/+/root/generate/internal", sample: engine + "/root/generate/internal", capabilities: []string{"update"}},
		{path: p + "/+/intermediate/generate/+", sample: engine + "/intermediate/generate/internal", capabilities: []string{"update"}},
		{path: p + "/+/intermediate/set-signed", sample: engine + "/intermediate/set-signed", capabilities: []string{"update"}},
		{path: p + "/+/roles/", sample: engine + "/roles/", capabilities: []string{"list"}},
		{path: p + "/+/roles/*", sample: engine + "/roles/host.certificate", capabilities: all},
		{path: p + "/+/root/rotate/internal", sample: engine + "/root/rotate/internal", capabilities: []string{"update"}, why: "changing a CA: `nodeagent certs rotate-ca`"},
		{path: p + "/+/root/replace", sample: engine + "/root/replace", capabilities: []string{"update"}},
		{path: p + "/+/key/+", sample: engine + "/key/default", capabilities: []string{"read", "delete"}},
		{path: p + "/+/issuers/import/bundle", sample: engine + "/issuers/import/bundle", capabilities: []string{"update"}, why: "taking over from the local issuer: `pki bootstrap --adopt`"},
		{path: place.change("+"), sample: place.change(layout.CAEtcdPeer), capabilities: all},
		{path: strings.Replace(place.change("+"), "/data/", "/metadata/", 1), sample: strings.Replace(place.change(layout.CAEtcdPeer), "/data/", "/metadata/", 1), capabilities: []string{"delete"}},
		{path: place.Secret(pki.KeyEncryption), capabilities: write, why: "changing a key: `nodeagent certs rotate-key`; `pki bootstrap --adopt`"},
		{path: place.Secret(pki.KeyServiceAccount), capabilities: write},
		{path: place.destroyed(pki.KeyServiceAccount), capabilities: []string{"update"}},
		{path: place.Secret("snapshots*"), sample: place.Secret("snapshots"), capabilities: write, why: "a new version of the key that encrypts snapshots (snapshots.vault_key)"},
		{path: strings.Replace(place.Secret(reportFolder), "/data/", "/metadata/", 1), capabilities: []string{"list"}},
		{path: place.Report("+"), sample: place.Report("host"), capabilities: []string{"read"}},
		{path: p + "/+/sign/+", sample: engine + "/sign/host.certificate", capabilities: []string{"update"}, why: "the signing trial of `pki check`"},
		{path: "auth/" + p + "/*", sample: "auth/" + place.Auth(authAppRole) + "/role/host", capabilities: all, why: "who logs in, and enrolment tokens"},
	}
}

// render writes a policy in HCL.
func render(title string, rules []rule) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n", title)
	for _, r := range rules {
		b.WriteByte('\n')
		if r.why != "" {
			fmt.Fprintf(&b, "# %s\n", r.why)
		}
		fmt.Fprintf(&b, "path %s {\n  capabilities = %s\n", strconv.Quote(r.path), words(r.capabilities))
		if r.parameters != nil {
			b.WriteString("  allowed_parameters = {\n")
			for _, name := range slices.Sorted(maps.Keys(r.parameters)) {
				fmt.Fprintf(&b, "    %s = %s\n", strconv.Quote(name), only(r.parameters[name]))
			}
			fmt.Fprintf(&b, "  }\n  required_parameters = %s\n", words(r.required))
		}
		b.WriteString("}\n")
	}
	return b.String()
}

// only is the list of a parameter's one value; Vault takes an empty list for
// any value.
func only(value any) string {
	switch v := value.(type) {
	case nil:
		return "[]"
	case bool:
		return "[" + strconv.FormatBool(v) + "]"
	}
	return "[" + strconv.Quote(fmt.Sprint(value)) + "]"
}

func words(list []string) string {
	quoted := make([]string, len(list))
	for i, w := range list {
		quoted[i] = strconv.Quote(w)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
