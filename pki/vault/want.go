package vault

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

// The ways in which hosts log in, as hosts.Vault.Auth names them.
const (
	authCert    = "cert"
	authAppRole = "approle"
	authJWT     = "jwt"
)

const (
	// tokenTTL is how long a host's token lives, and maxTokenTTL how long it can
	// be renewed.
	tokenTTL    = time.Hour
	maxTokenTTL = 24 * time.Hour
	// EnrolmentMax is how long an enrolment token can be made to live.
	EnrolmentMax = 24 * time.Hour
	// keptVersions is how many versions of a shared secret Vault keeps.
	keptVersions = 10
)

// mark is the description of what bootstrap mounts.
func mark(cluster, what string) string {
	return fmt.Sprintf("cluster %s: %s (nodeagent pki bootstrap)", cluster, what)
}

// Want is what the fleet needs in Vault. It is pure. An error names a fleet
// whose issuer is not Vault.
func Want(fleet *hosts.Fleet) (State, error) {
	w := wanter{}
	for _, spec := range fleet.Hosts {
		if spec.PKI.Issuer != pki.IssuerVault || spec.PKI.Vault == nil {
			return State{}, fmt.Errorf("prepare Vault for fleet %q: its issuer is %q: set pki.issuer = %q and [pki.vault]", fleet.Dir, spec.PKI.Issuer, pki.IssuerVault)
		}
		if len(spec.Roles) > 0 {
			w.specs = append(w.specs, spec)
		}
	}
	if len(w.specs) == 0 {
		return State{}, fmt.Errorf("prepare Vault for fleet %q: no host of it has a role", fleet.Dir)
	}
	w.Place = Place(w.specs[0].PKI.Vault.Mount)
	w.engines()
	w.people()
	w.methods()
	for _, spec := range w.specs {
		w.host(spec)
	}
	slices.SortFunc(w.Objects, compareObjects)
	return w.State, nil
}

type wanter struct {
	State
	specs []*hosts.Spec // that have roles, at least one
}

func (w *wanter) add(kind Kind, mount, name string, fields Fields) {
	w.Objects = append(w.Objects, Object{Kind: kind, Mount: mount, Name: name, Fields: normalFields(fields)})
}

func (w *wanter) engines() {
	spec := w.specs[0] // what is the cluster's is the same in all specs
	for _, ca := range layout.CAs() {
		engine := w.Place.Engine(ca)
		w.add(KindEngine, engine, "", Fields{
			"type": typePKI, "description": mark(spec.Cluster, "authority "+ca), "max_lease_ttl": spec.PKI.CALifetime,
		})
		w.add(KindTidy, engine, "", Fields{
			"enabled": true, "interval_duration": 12 * time.Hour, "safety_buffer": 72 * time.Hour,
			"tidy_cert_store": true, "tidy_revoked_certs": true,
			// Issuers go when their CA is changed, by a person's command.
			"tidy_expired_issuers": false,
		})
		w.Authorities = append(w.Authorities, Authority{
			Name: ca, Engine: engine, Cluster: spec.Cluster, Lifetime: spec.PKI.CALifetime, Leaf: w.longest(ca),
		})
	}
	secrets := w.Place.Secrets()
	w.add(KindEngine, secrets, "", Fields{"type": typeKV, "version": "2", "description": mark(spec.Cluster, "what its control planes share")})
	w.add(KindSettings, secrets, "", Fields{"cas_required": true, "max_versions": keptVersions})
}

// longest is the longest lifetime of what an authority signs.
func (w *wanter) longest(ca string) time.Duration {
	var longest time.Duration
	for _, spec := range w.specs {
		for _, r := range pki.Requests(spec) {
			if r.CA == ca {
				longest = max(longest, r.Lifetime)
			}
		}
	}
	return longest
}

// methodsOf are the auth methods by which hosts come in: with certificates, the
// first login is by AppRole.
func methodsOf(auth string) []string {
	if auth == authCert {
		return []string{authAppRole, authCert}
	}
	return []string{auth}
}

func (w *wanter) methods() {
	spec := w.specs[0]
	for _, method := range methodsOf(spec.PKI.Vault.Auth) {
		w.add(KindMethod, w.Place.Auth(method), "", Fields{"type": method, "description": mark(spec.Cluster, "its hosts' login")})
	}
}

// host is everything of one host.
func (w *wanter) host(spec *hosts.Spec) {
	for _, r := range pki.Requests(spec) {
		w.add(KindRole, w.Place.Engine(r.CA), w.Place.Role(spec.Name, r.Name), roleFields(r))
	}
	w.add(KindPolicy, "", w.Place.Policy(spec.Name), Fields{"policy": HostPolicy(spec)})
	for _, method := range methodsOf(spec.PKI.Vault.Auth) {
		w.add(KindLogin, w.Place.Auth(method), spec.Name, w.login(spec, method))
	}
}

// login lets a host log in by a method and gives it its policy alone.
func (w *wanter) login(spec *hosts.Spec, method string) Fields {
	fields := Fields{
		"token_policies": []string{w.Place.Policy(spec.Name)}, "token_no_default_policy": true,
		"token_ttl": tokenTTL, "token_max_ttl": maxTokenTTL, "token_explicit_max_ttl": 0, "token_period": 0,
		"token_num_uses": 0, "token_type": "service", "token_bound_cidrs": nil,
	}
	switch method {
	case authCert:
		fields["allowed_common_names"] = []string{spec.Name}
		fields["certificate"] = loginAuthority // the CA's own, once it is known
		for _, other := range []string{"allowed_names", "allowed_dns_sans", "allowed_email_sans", "allowed_uri_sans", "allowed_organizational_units", "required_extensions"} {
			fields[other] = nil
		}
	case authAppRole:
		fields["bind_secret_id"], fields["secret_id_bound_cidrs"] = true, nil
		fields["role_id"] = w.Place.RoleID(spec.Name)
		fields["secret_id_num_uses"], fields["secret_id_ttl"] = 1, EnrolmentMax
		if spec.PKI.Vault.Auth == authAppRole {
			// The secret id is the host's lasting way in, which it replaces in
			// time; enrolment tokens are of one use all the same.
			fields["secret_id_num_uses"], fields["secret_id_ttl"] = 0, spec.PKI.Lifetime
		}
	case authJWT:
		fields["role_type"], fields["user_claim"] = authJWT, "sub"
		fields["bound_subject"] = strings.ReplaceAll(spec.PKI.Vault.JWTSubject, "{host}", spec.Name)
		fields["bound_audiences"] = nil
		if a := spec.PKI.Vault.JWTAudience; a != "" {
			fields["bound_audiences"] = []string{a}
		}
		fields["bound_claims"] = nil
	}
	return fields
}

func compact(words []string) []string {
	words = slices.Clone(words)
	slices.Sort(words)
	return slices.Compact(words)
}
