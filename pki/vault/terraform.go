package vault

import (
	"encoding/json"
	"maps"
	"path"
	"strings"
)

// resources are Terraform's resources by type and name.
type resources map[string]map[string]map[string]any

func (r resources) add(kind, name string, arguments map[string]any) {
	for argument, value := range arguments {
		if value == nil {
			delete(arguments, argument) // its default is nothing, too
		}
	}
	if r[kind] == nil {
		r[kind] = map[string]map[string]any{}
	}
	r[kind][name] = arguments
}

// Terraform is the wanted state in Terraform's JSON syntax, for the provider
// hashicorp/vault, whose arguments have the names of Vault's own fields. The
// authorities are roots made in Vault; nothing in it is secret.
// See https://developer.hashicorp.com/terraform/language/syntax/json.
func Terraform(want State) ([]byte, error) {
	r := resources{}
	for _, o := range want.Objects {
		o.terraform(r)
	}
	for _, a := range want.Authorities {
		r.add("vault_pki_secret_backend_root_cert", identifier(a.Name), map[string]any{
			"backend": mountReference(a.Engine), "type": "internal", "common_name": a.Name, "organization": a.Cluster,
			"ttl": seconds(a.Lifetime), "key_type": "ec", "key_bits": 256, "issuer_name": initialIssuer, "key_name": initialIssuer,
			"exclude_cn_from_sans": true, "max_path_length": 0, "lifecycle": kept,
		})
	}
	return json.MarshalIndent(map[string]any{
		"terraform": map[string]any{"required_providers": map[string]any{"vault": map[string]any{"source": "hashicorp/vault", "version": ">= 5.0"}}},
		"resource":  r,
	}, "", "  ")
}

// kept keeps Terraform from removing what holds a CA's key.
var kept = map[string]any{"prevent_destroy": true}

// identifier is a name that Terraform takes: without dots, and not beginning
// with a digit, which a host's name may.
func identifier(parts ...string) string {
	name := strings.ReplaceAll(strings.Join(parts, "_"), ".", "_")
	if name[0] >= '0' && name[0] <= '9' {
		name = "_" + name
	}
	return name
}

func mountReference(mount string) string {
	return "${vault_mount." + identifier(path.Base(mount)) + ".path}"
}

func methodReference(mount string) string {
	return "${vault_auth_backend." + identifier(path.Base(mount)) + ".path}"
}

// policyIdentifier is the host of a policy, or "role_" and the name of one of
// people's roles, which no host's name has.
func policyIdentifier(policy string) string {
	name := policy[strings.LastIndex(policy, ":")+1:]
	if strings.HasSuffix(policy, ":"+personalPolicy+name) {
		return "role_" + name
	}
	return name
}

func (o Object) terraform(r resources) {
	arguments := maps.Clone(map[string]any(o.Fields))
	short := identifier(path.Base(o.Mount))
	switch o.Kind {
	case KindEngine:
		mount := map[string]any{
			"path": o.Mount, "type": arguments["type"], "description": arguments["description"],
			"max_lease_ttl_seconds": arguments["max_lease_ttl"], "lifecycle": kept,
		}
		if version := arguments["version"]; version != nil {
			mount["options"] = map[string]any{"version": version}
		}
		r.add("vault_mount", short, mount)
	case KindTidy:
		arguments["backend"] = mountReference(o.Mount)
		r.add("vault_pki_secret_backend_config_auto_tidy", short, arguments)
	case KindSettings:
		arguments["mount"] = mountReference(o.Mount)
		r.add("vault_kv_secret_backend_v2", short, arguments)
	case KindRole:
		arguments["backend"], arguments["name"] = mountReference(o.Mount), o.Name
		delete(arguments, "allow_token_displayname") // which cannot be set
		r.add("vault_pki_secret_backend_role", identifier(path.Base(o.Mount), o.Name), arguments)
	case KindPolicy:
		arguments["name"] = o.Name
		r.add("vault_policy", identifier(policyIdentifier(o.Name)), arguments)
	case KindMethod:
		arguments["path"] = o.Mount
		r.add("vault_auth_backend", short, arguments)
	case KindLogin:
		o.terraformLogin(r, arguments)
	}
}

func (o Object) terraformLogin(r resources, arguments map[string]any) {
	method := o.method()
	arguments["backend"] = methodReference(o.Mount)
	switch method {
	case authCert:
		arguments["name"] = o.Name
		arguments["certificate"] = "${vault_pki_secret_backend_root_cert." + identifier(loginAuthority) + ".certificate}"
	default:
		arguments["role_name"] = o.Name
	}
	r.add("vault_"+method+"_auth_backend_role", identifier(o.Name), arguments)
}
