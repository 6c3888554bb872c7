package pki

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// The requests for people's client certificates. In Vault each has a role of
// that name, of the cluster and not of a host.
const (
	// PersonalAdmin is for one of the fleet's administrators.
	PersonalAdmin = "admin-kubeconfig"
	// PersonalBreakGlass is for when nothing else lets a person in.
	PersonalBreakGlass = "break-glass"
)

const (
	// AdminUserPrefix begins the names of administrators in Kubernetes, so that
	// none can pass for one of its components.
	AdminUserPrefix = "nodeagent:admin:"
	// BreakGlassUser and BreakGlassGroup are who the break-glass certificate is.
	// kube-apiserver lets the group do everything, before it asks RBAC.
	// See https://kubernetes.io/docs/reference/access-authn-authz/rbac/#user-facing-roles.
	BreakGlassUser  = "kubernetes-super-admin"
	BreakGlassGroup = "system:masters"
	// BreakGlassMax is the longest life of a break-glass certificate: no binding
	// can be taken away to make it worthless.
	BreakGlassMax = 8 * time.Hour
	// personalMin is the shortest life of a person's certificate.
	personalMin = time.Minute
	// personalKeyType is what people's keys are, whatever the fleet's are.
	personalKeyType = "ecdsa-p256"
)

// personalUser is what a person's name may be made of.
var personalUser = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,38}[a-z0-9])?$`)

// PersonalMax is the longest life of the certificate of one of the requests for
// people.
func PersonalMax(p hosts.PKI, name string) time.Duration {
	if name == PersonalBreakGlass {
		return BreakGlassMax
	}
	return p.AdminLifetime
}

// PersonalRequest is the request for a person's client certificate: of group
// layout.AdminGroup for a user, or of BreakGlassGroup, which is one user only.
func PersonalRequest(p hosts.PKI, group, user string, ttl time.Duration) (Request, error) {
	r := Request{
		Name: PersonalAdmin, CA: layout.CAK8sClient, CommonName: AdminUserPrefix + user, Organization: group,
		Client: true, KeyType: personalKeyType, Lifetime: ttl,
	}
	switch group {
	case BreakGlassGroup:
		if user != "" && user != BreakGlassUser {
			return Request{}, fmt.Errorf("user %q: group %s has the one user %s, whoever it is", user, group, BreakGlassUser)
		}
		r.Name, r.CommonName = PersonalBreakGlass, BreakGlassUser
	case layout.AdminGroup:
		if !personalUser.MatchString(user) {
			return Request{}, fmt.Errorf("user %q: a name has up to 40 lower-case letters, digits and . _ - between them", user)
		}
	default:
		return Request{}, fmt.Errorf("group %q: there are %s and, as break-glass, %s", group, layout.AdminGroup, BreakGlassGroup)
	}
	if longest := PersonalMax(p, r.Name); ttl < personalMin || ttl > longest {
		return Request{}, fmt.Errorf("a life of %s: for group %s it is between %s and %s", ttl, group, personalMin, longest)
	}
	return r, nil
}

// Personal is a person's certificate with its key, PEM, in memory.
type Personal struct {
	Request
	Serial   string
	NotAfter time.Time
	// servers is the bundle that checks kube-apiserver.
	chain, key, servers []byte
}

// IssuePersonal makes a key in memory and has it certified.
func IssuePersonal(ctx context.Context, issuer Issuer, r Request, now time.Time) (Personal, error) {
	wrap := func(err error) error { return fmt.Errorf("issue certificate for %q: %w", r.CommonName, err) }
	bundle, err := issuer.Bundle(ctx, r.CA)
	if err != nil {
		return Personal{}, wrap(err)
	}
	servers, err := issuer.Bundle(ctx, layout.CAK8sServer)
	if err != nil {
		return Personal{}, wrap(err)
	}
	p, err := issue(ctx, issuer, r, bundle, now)
	if err != nil {
		return Personal{}, wrap(err)
	}
	chain, err := parseCertificates(p.chain)
	if err != nil {
		return Personal{}, wrap(err)
	}
	return Personal{
		Request: r, Serial: chain[0].SerialNumber.Text(16), NotAfter: chain[0].NotAfter,
		chain: p.chain, key: p.key, servers: servers,
	}, nil
}

// kubeconfigMark is the first line of kubeconfigs that hold a person's key.
const kubeconfigMark = "# made by `nodeagent kubeconfig`"

// Kubeconfig is the file that lets the person in at a server, its https URL. It
// holds the key.
// See https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/.
func (p Personal) Kubeconfig(cluster, server string) []byte {
	quote := func(s string) string {
		text, err := json.Marshal(s) // a JSON string is a YAML one
		if err != nil {
			panic(err) // of a string it cannot fail
		}
		return string(text)
	}
	data := base64.StdEncoding.EncodeToString
	context := p.CommonName + "@" + cluster
	return []byte(strings.NewReplacer(
		"MARK", fmt.Sprintf("%s; ends on %s", kubeconfigMark, p.NotAfter.UTC().Format(time.RFC3339)),
		"CLUSTER", quote(cluster), "SERVER", quote(server), "USER", quote(p.CommonName), "CONTEXT", quote(context),
		"CA-DATA", data(p.servers), "CERTIFICATE-DATA", data(p.chain), "KEY-DATA", data(p.key),
	).Replace(kubeconfigTemplate))
}

const kubeconfigTemplate = `MARK
apiVersion: v1
kind: Config
clusters:
  - name: CLUSTER
    cluster:
      server: SERVER
      certificate-authority-data: CA-DATA
users:
  - name: USER
    user:
      client-certificate-data: CERTIFICATE-DATA
      client-key-data: KEY-DATA
contexts:
  - name: CONTEXT
    context:
      cluster: CLUSTER
      user: USER
current-context: CONTEXT
`
