package vault

import (
	"strings"

	"github.com/nodeagent/nodeagent/pki"
)

// SignParameters is exactly what a host sends to the sign endpoint of a
// request's role beside its csr, in Vault's own names and JSON types. The
// host's policy allows these values and no others, which is the only way to pin
// addresses: a role knows but whether any are allowed.
func SignParameters(r pki.Request) map[string]any {
	parameters := map[string]any{
		"common_name":          r.CommonName,
		"exclude_cn_from_sans": true, // else the common name becomes a DNS name
		"format":               "pem",
	}
	if len(r.DNSNames) > 0 {
		parameters["alt_names"] = strings.Join(r.DNSNames, ",")
	}
	if len(r.Addresses) > 0 {
		parameters["ip_sans"] = strings.Join(addresses(r), ",")
	}
	return parameters
}

func addresses(r pki.Request) []string {
	list := make([]string, len(r.Addresses))
	for i, a := range r.Addresses {
		list[i] = a.String()
	}
	return list
}

// keyTypes are Vault's names for key types.
var keyTypes = map[string]struct {
	kind string
	bits int
}{
	"ecdsa-p256": {"ec", 256}, "ecdsa-p384": {"ec", 384}, "ed25519": {"ed25519", 0}, "rsa-2048": {"rsa", 2048},
}

// roleFields are the fields of the role that signs the request. Every field of
// which a certificate's content depends is in it, so that a role that was
// changed by hand is seen to be.
//
// cn_validations is never "disabled": that switches off allowed_domains, and
// any name is signed. Names such as system:node:n1 need enforce_hostnames=false
// instead, beside which allowed_domains still counts.
func roleFields(r pki.Request) Fields {
	key := keyTypes[r.KeyType]
	usage, hash := []string{"DigitalSignature"}, 0
	if key.kind == "rsa" {
		usage, hash = append(usage, "KeyEncipherment"), 256 // which Vault makes of 0
	}
	fields := Fields{
		"allowed_domains": append([]string{r.CommonName}, r.DNSNames...), "allow_bare_domains": true,
		"allow_subdomains": false, "allow_glob_domains": false, "allow_wildcard_certificates": false,
		"allow_any_name": false, "allow_localhost": false, "allow_token_displayname": false,
		"allowed_domains_template": false, "enforce_hostnames": !strings.Contains(r.CommonName, ":"),
		"require_cn": true, "cn_validations": []string{"email", "hostname"},

		"allow_ip_sans":    len(r.Addresses) > 0,
		"allowed_uri_sans": nil, "allowed_uri_sans_template": false, "allowed_other_sans": nil,
		"allowed_serial_numbers": nil, "allowed_user_ids": nil,
		"use_csr_common_name": false, "use_csr_sans": false, "serial_number_source": "json",

		"organization": nil, "ou": nil, "country": nil, "locality": nil, "province": nil,
		"street_address": nil, "postal_code": nil, "policy_identifiers": nil,

		"server_flag": r.Server, "client_flag": r.Client, "code_signing_flag": false, "email_protection_flag": false,
		"key_usage": usage, "ext_key_usage": nil, "ext_key_usage_oids": nil,
		"basic_constraints_valid_for_non_ca": true,

		"key_type": key.kind, "key_bits": key.bits, "signature_bits": hash, "use_pss": false,
		"ttl": r.Lifetime, "max_ttl": r.Lifetime, "not_before_duration": pki.Backdate, "not_after": nil,
		"issuer_ref": "default", "no_store": true, "generate_lease": false,
	}
	if r.Organization != "" {
		fields["organization"] = []string{r.Organization}
	}
	fields["allowed_domains"] = compact(fields["allowed_domains"].([]string))
	return normalFields(fields)
}
