package vault

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

// The roles of people are the cluster's and carry no host's name, hence no dot.
// Each has a policy of its own, so that somebody can be let have a kubeconfig
// and nothing else of Vault's.

// personal are the requests for people, as widely as a role signs them: any
// user with the administrators' prefix, and the one break-glass user.
func personal(p hosts.PKI) []pki.Request {
	return []pki.Request{
		{
			Name: pki.PersonalAdmin, CA: layout.CAK8sClient, CommonName: pki.AdminUserPrefix + "*", Organization: layout.AdminGroup,
			Client: true, KeyType: "ecdsa-p256", Lifetime: pki.PersonalMax(p, pki.PersonalAdmin),
		},
		{
			Name: pki.PersonalBreakGlass, CA: layout.CAK8sClient, CommonName: pki.BreakGlassUser, Organization: pki.BreakGlassGroup,
			Client: true, KeyType: "ecdsa-p256", Lifetime: pki.PersonalMax(p, pki.PersonalBreakGlass),
		},
	}
}

// personalRoles are the names of people's roles.
var personalRoles = []string{pki.PersonalAdmin, pki.PersonalBreakGlass}

// PersonalPolicy is the name of the policy that lets somebody have certificates
// of one of people's roles signed: "nodeagent:mercury:role:break-glass".
func (p Place) PersonalPolicy(role string) string { return p.policyPrefix() + personalPolicy + role }

const personalPolicy = "role:"

// people adds what the cluster's administrators need for themselves.
func (w *wanter) people() {
	spec := w.specs[0]
	for _, r := range personal(spec.PKI) {
		fields := roleFields(r)
		if strings.HasSuffix(r.CommonName, "*") {
			fields["allow_glob_domains"] = true
		}
		w.add(KindRole, w.Place.Engine(r.CA), r.Name, fields)
		w.add(KindPolicy, "", w.Place.PersonalPolicy(r.Name), Fields{"policy": personalRules(w.Place, spec.Cluster, r)})
	}
}

// PersonalPolicies are the policies of people's roles, by their names.
func PersonalPolicies(fleet *hosts.Fleet) map[string]string {
	spec := fleet.Hosts[0]
	place, policies := Place(spec.PKI.Vault.Mount), map[string]string{}
	for _, r := range personal(spec.PKI) {
		policies[place.PersonalPolicy(r.Name)] = personalRules(place, spec.Cluster, r)
	}
	return policies
}

// personalRules are the policy of one of people's roles. What is not listed
// cannot be sent: not_after would outlive the role's longest life.
func personalRules(place Place, cluster string, r pki.Request) string {
	parameters := map[string]any{"csr": nil, "common_name": nil, "ttl": nil, "exclude_cn_from_sans": true, "format": "pem"}
	if !strings.HasSuffix(r.CommonName, "*") {
		parameters["common_name"] = r.CommonName
	}
	return render(
		fmt.Sprintf("Whoever may have `nodeagent kubeconfig --group %s` of cluster %s, made by `nodeagent pki bootstrap`.", r.Organization, cluster),
		[]rule{{
			path: place.Engine(r.CA) + "/sign/" + r.Name, capabilities: []string{"update"},
			parameters: parameters, required: []string{"common_name", "csr", "exclude_cn_from_sans", "ttl"},
		}})
}

// ForPeople is the issuer of people's certificates, with the client of the
// person: of requests that pki.PersonalRequest makes, and of no others.
func ForPeople(client *api.Client, spec *hosts.Vault) pki.Issuer {
	return people{client, spec, Place(spec.Mount)}
}

type people struct {
	client *api.Client
	vault  *hosts.Vault
	place  Place
}

// Sign implements pki.Issuer.
func (p people) Sign(ctx context.Context, r pki.Request, csr []byte) ([]byte, error) {
	a := p.asked(fmt.Sprintf("sign %q", r.Name), r.CA)
	a.role = r.Name
	parameters := SignParameters(r)
	parameters["csr"] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))
	parameters["ttl"] = seconds(r.Lifetime)
	answer, err := (&conn{client: p.client}).write(ctx, a.engine+"/sign/"+a.role, parameters)
	if err != nil {
		return nil, p.refuse(a, err)
	}
	chain, err := chainOf(answer)
	if err != nil {
		return nil, refuse(a, err)
	}
	return chain, nil
}

// Bundle implements pki.Issuer.
func (p people) Bundle(ctx context.Context, ca string) ([]byte, error) {
	a := p.asked(fmt.Sprintf("fetch trust bundle %q", ca), ca)
	list, err := issuers(ctx, &conn{client: p.client}, a.engine)
	if err != nil {
		return nil, p.refuse(a, err)
	}
	content, err := encodeBundle(list)
	if err != nil {
		return nil, refuse(a, err)
	}
	return content, nil
}

// Secret implements pki.Issuer; people share none.
func (p people) Secret(context.Context, string, func() ([]byte, error)) ([]byte, error) {
	return nil, errors.New("people's tokens share no secrets")
}

func (p people) asked(what, ca string) asked {
	return asked{vault: p.vault, what: what, engine: p.place.Engine(ca)}
}

// refuse words a refusal for a person, who has another way in than a host.
func (p people) refuse(a asked, err error) error {
	refused := refuse(a, err)
	var r *pki.Refusal
	if errors.As(refused, &r) && r.Cause == pki.CauseDenied {
		r.Remedy = "your token does not allow it, or has ended"
		if a.role != "" {
			r.Remedy += fmt.Sprintf(": the policy %s does (nodeagent pki bootstrap makes it)", p.place.PersonalPolicy(a.role))
		}
	}
	return refused
}
