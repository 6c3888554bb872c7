package vault

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
)

// attackCSR asks for everything that a signing request can carry.
func attackCSR(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "kubernetes-super-admin", Organization: []string{"system:masters"}},
		DNSNames: []string{"kubernetes", "cp1"}, IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)},
		EmailAddresses: []string{"root@example.org"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "example.org"}},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func requestOf(t testing.TB, spec *hosts.Spec, name string) pki.Request {
	t.Helper()
	for _, r := range pki.Requests(spec) {
		if r.Name == name {
			return r
		}
	}
	t.Fatalf("host %s has no certificate %s", spec.Name, name)
	return pki.Request{}
}

// attack is what a stolen token of host w1 is used for.
type attack struct {
	name, path string
	method     string // PUT where empty
	data       map[string]any
}

// attacks are what a thief of a worker's token would try.
func attacks(t testing.TB, fleet *hosts.Fleet, csr string) []attack {
	t.Helper()
	const p = "nodeagent/mercury"
	w1, w2, cp1 := specOf(t, fleet, "w1"), specOf(t, fleet, "w2"), specOf(t, fleet, "cp1")
	kubelet, server := requestOf(t, w1, "kubelet-client"), requestOf(t, w1, "kubelet-server")
	own, ownServer := p+"/k8s-client/sign/w1.kubelet-client", p+"/k8s-server/sign/w1.kubelet-server"
	with := func(r pki.Request, more map[string]any) map[string]any {
		data := SignParameters(r)
		data["csr"] = csr
		maps.Copy(data, more)
		return data
	}
	without := func(r pki.Request, name string) map[string]any {
		data := with(r, nil)
		delete(data, name)
		return data
	}
	as := func(more map[string]any) map[string]any { return with(kubelet, more) }
	list := []attack{
		// Other identities.
		{name: "kube-apiserver's certificate", path: p + "/k8s-server/sign/cp1.kube-apiserver", data: with(requestOf(t, cp1, "kube-apiserver"), nil)},
		{name: "another host's kubelet, by its role", path: p + "/k8s-client/sign/w2.kubelet-client", data: with(requestOf(t, w2, "kubelet-client"), nil)},
		{name: "another host's kubelet, by its own role", path: own, data: as(map[string]any{"common_name": "system:node:w2"})},
		{name: "an administrator", path: p + "/k8s-client/sign/cp1.admin", data: with(requestOf(t, cp1, "admin"), nil)},
		{name: "system:masters", path: p + "/k8s-client/sign/cp1.ephemeral", data: with(pki.Ephemeral("cp1"), nil)},
		{name: "system:masters for itself", path: p + "/k8s-client/sign/w1.ephemeral", data: with(pki.Ephemeral("w1"), nil)},
		{name: "system:masters by parameter", path: own, data: as(map[string]any{"organization": "system:masters"})},
		{name: "an etcd client", path: p + "/etcd-server/sign/cp1.apiserver-etcd-client", data: with(requestOf(t, cp1, "apiserver-etcd-client"), nil)},
		{name: "another host's login", path: p + "/nodeagent/sign/w2.nodeagent", data: with(requestOf(t, w2, "nodeagent"), nil)},
		{name: "another host's login, by its own role", path: p + "/nodeagent/sign/w1.nodeagent", data: with(requestOf(t, w1, "nodeagent"), map[string]any{"common_name": "w2"})},
		{name: "no common name", path: own, data: as(map[string]any{"common_name": ""})},
		{name: "no common name at all", path: own, data: without(kubelet, "common_name")},
		{name: "a list of common names", path: own, data: as(map[string]any{"common_name": []string{"system:node:w1", "system:node:w2"}})},
		// Names and addresses.
		{name: "an address that is not its own", path: ownServer, data: with(server, map[string]any{"ip_sans": "192.0.2.1"})},
		{name: "one address more", path: ownServer, data: with(server, map[string]any{"ip_sans": "192.0.2.11,192.0.2.1"})},
		{name: "a list of addresses", path: ownServer, data: with(server, map[string]any{"ip_sans": []string{"192.0.2.11", "192.0.2.1"}})},
		{name: "one name more", path: ownServer, data: with(server, map[string]any{"alt_names": "w1,kubernetes"})},
		{name: "another name", path: ownServer, data: with(server, map[string]any{"alt_names": "kubernetes"})},
		{name: "names for a client", path: own, data: as(map[string]any{"alt_names": "kubernetes"})},
		{name: "addresses for a client", path: own, data: as(map[string]any{"ip_sans": "192.0.2.1"})},
		{name: "no addresses", path: ownServer, data: without(server, "ip_sans")},
		{name: "a URI", path: own, data: as(map[string]any{"uri_sans": "spiffe://example.org/admin"})},
		{name: "another kind of name", path: own, data: as(map[string]any{"other_sans": "1.3.6.1.4.1.311.20.2.3;utf8:root"})},
		{name: "the common name as a DNS name", path: own, data: as(map[string]any{"exclude_cn_from_sans": false})},
		{name: "a user id", path: own, data: as(map[string]any{"user_ids": "root"})},
		{name: "a serial number", path: own, data: as(map[string]any{"serial_number": "1"})},
		// Times, keys and form.
		{name: "a longer life", path: own, data: as(map[string]any{"ttl": "87600h"})},
		{name: "a later end", path: own, data: as(map[string]any{"not_after": time.Now().AddDate(9, 0, 0).UTC().Format(time.RFC3339)})},
		{name: "an earlier beginning", path: own, data: as(map[string]any{"not_before_duration": "8760h"})},
		{name: "another form", path: own, data: as(map[string]any{"format": "pem_bundle"})},
		{name: "another usage", path: own, data: as(map[string]any{"ext_key_usage": "CodeSigning", "key_usage": "CertSign"})},
		// Other endpoints of its own engines.
		{name: "issue instead of sign", path: p + "/k8s-client/issue/w1.kubelet-client", data: map[string]any{"common_name": "system:node:w1"}},
		{name: "sign by the issuer's path", path: p + "/k8s-client/issuer/default/sign/w1.kubelet-client", data: with(kubelet, nil)},
		{name: "sign-verbatim", path: p + "/k8s-client/sign-verbatim", data: map[string]any{"csr": csr}},
		{name: "sign-verbatim by role", path: p + "/k8s-client/sign-verbatim/w1.kubelet-client", data: map[string]any{"csr": csr}},
		{name: "sign-intermediate", path: p + "/k8s-client/root/sign-intermediate", data: map[string]any{"csr": csr, "common_name": "ca"}},
		{name: "sign-self-issued", path: p + "/k8s-client/root/sign-self-issued", data: map[string]any{"certificate": csr}},
		{name: "root/rotate", path: p + "/k8s-client/root/rotate/internal", data: map[string]any{"common_name": "ca"}},
		{name: "root/replace", path: p + "/k8s-client/root/replace", data: map[string]any{"default": "x"}},
		{name: "root/generate", path: p + "/k8s-client/root/generate/exported", data: map[string]any{"common_name": "ca"}},
		{name: "root deletion", path: p + "/k8s-client/root", method: http.MethodDelete},
		{name: "import of a CA", path: p + "/k8s-client/issuers/import/bundle", data: map[string]any{"pem_bundle": csr}},
		{name: "issuer deletion", path: p + "/k8s-client/issuer/default", method: http.MethodDelete},
		{name: "issuer settings", path: p + "/k8s-client/config/issuers", data: map[string]any{"default": "x"}},
		{name: "revocation of others", path: p + "/k8s-client/revoke", data: map[string]any{"serial_number": "00"}},
		{name: "writing its own role", path: p + "/k8s-client/roles/w1.kubelet-client", data: map[string]any{"allow_any_name": true}},
		{name: "patching its own role", path: p + "/k8s-client/roles/w1.kubelet-client", method: http.MethodPatch, data: map[string]any{"allow_any_name": true}},
		{name: "reading roles", path: p + "/k8s-client/roles/w2.kubelet-client", method: http.MethodGet},
		{name: "listing roles", path: p + "/k8s-client/roles", method: "LIST"},
		{name: "tidy", path: p + "/k8s-client/tidy", data: map[string]any{"tidy_cert_store": true}},
		// Secrets.
		{name: "the service account key", path: p + "/secrets/data/service-account", method: http.MethodGet},
		{name: "the encryption key", path: p + "/secrets/data/encryption", method: http.MethodGet},
		{name: "writing the encryption key", path: p + "/secrets/data/encryption", data: map[string]any{"data": map[string]any{"value": "x"}, "options": map[string]any{"cas": 0}}},
		{name: "what secrets there are", path: p + "/secrets/metadata", method: "LIST"},
		{name: "another host's report", path: p + "/secrets/data/hosts/w2", data: map[string]any{"data": map[string]any{"value": "x"}, "options": map[string]any{"cas": 0}}},
		{name: "removing a secret", path: p + "/secrets/metadata/encryption", method: http.MethodDelete},
		// Vault itself.
		{name: "policies", path: "sys/policies/acl/nodeagent:mercury:w1", data: map[string]any{"policy": `path "*" { capabilities = ["sudo"] }`}},
		{name: "reading policies", path: "sys/policies/acl/nodeagent:mercury:cp1", method: http.MethodGet},
		{name: "mounts", path: "sys/mounts/x", data: map[string]any{"type": "kv"}},
		{name: "a token of its own making", path: "auth/token/create", data: map[string]any{"policies": []string{"root"}}},
		{name: "an orphan token", path: "auth/token/create-orphan", data: map[string]any{}},
		{name: "another host's secret id", path: "auth/" + p + "/approle/role/w2/secret-id", data: map[string]any{}},
		{name: "its own secret id, where it logs in by certificate", path: "auth/" + p + "/approle/role/w1/secret-id", data: map[string]any{}},
		{name: "its login's policies", path: "auth/" + p + "/approle/role/w1", data: map[string]any{"token_policies": "root"}},
		{name: "its certificate login", path: "auth/" + p + "/cert/certs/w1", data: map[string]any{"token_policies": "root"}},
		{name: "audit devices", path: "sys/audit", method: http.MethodGet},
		// Another cluster of the same Vault.
		{name: "another cluster's worker of the same name", path: "nodeagent/venus/k8s-client/sign/w1.kubelet-client", data: with(kubelet, nil)},
		{name: "another cluster's secrets", path: "nodeagent/venus/secrets/data/encryption", method: http.MethodGet},
		{name: "another cluster's roles", path: "nodeagent/venus/k8s-client/roles/w1.kubelet-client", data: map[string]any{"allow_any_name": true}},
	}
	return list
}

// TestLeastPrivilege uses a worker's token as a thief would. Beside a refusal
// there is one more good end: a certificate that is exactly the host's own.
func TestLeastPrivilege(t *testing.T) {
	eachServer(t, func(t *testing.T, client *api.Client) {
		fleet := fleetOf(t, "")
		want := wantOf(t, fleet)
		converge(t, client, want)
		venus := fleetOf(t, "")
		for _, spec := range venus.Hosts {
			spec.Cluster, spec.PKI.Vault.Mount = "venus", "nodeagent/venus"
		}
		converge(t, client, wantOf(t, venus))
		// What must not be read is there to be read.
		for _, p := range []string{want.Place.Secret("encryption"), want.Place.Secret("service-account"), "nodeagent/venus/secrets/data/encryption"} {
			vaultWrite(t, client, p, map[string]any{"data": map[string]any{"value": "c2VjcmV0"}, "options": map[string]any{"cas": 0}})
		}
		thief := hostToken(t, client, specOf(t, fleet, "w1"))
		csr := attackCSR(t)
		for _, a := range attacks(t, fleet, csr) {
			secret, err := send(t, thief, a)
			var answer *api.ResponseError
			if err == nil || !errors.As(err, &answer) || answer.StatusCode != http.StatusForbidden && answer.StatusCode != http.StatusBadRequest {
				t.Errorf("%s: %s answered %v, %v; want a refusal", a.name, a.path, secret, err)
			}
		}
		// The same token and the same greedy CSR: its own certificate, and
		// nothing of what the CSR asks for.
		r := requestOf(t, specOf(t, fleet, "w1"), "kubelet-server")
		data := SignParameters(r)
		data["csr"] = csr
		signed := vaultWrite(t, thief, "nodeagent/mercury/k8s-server/sign/w1.kubelet-server", data)
		chain, err := parseChain(signed.Data["certificate"].(string))
		if err != nil {
			t.Fatal(err)
		}
		c := chain[0]
		if c.Subject.String() != "CN=system:node:w1,O=system:nodes" || !slices.Equal(c.DNSNames, []string{"w1"}) ||
			len(c.IPAddresses) != 1 || !c.IPAddresses[0].Equal(net.IPv4(192, 0, 2, 11)) || len(c.EmailAddresses)+len(c.URIs) > 0 || c.IsCA ||
			!slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) || c.NotAfter.After(time.Now().Add(r.Lifetime+time.Minute)) {
			t.Errorf("with a greedy request it got subject %s, names %v %v %v %v, usage %v, until %s", c.Subject, c.DNSNames, c.IPAddresses, c.EmailAddresses, c.URIs, c.ExtKeyUsage, c.NotAfter)
		}
		// Vault 1.21 lets an empty list pass where a value is pinned: what comes
		// of it must not be more than the host has.
		for _, empty := range []any{"", []string{}} {
			data := SignParameters(r)
			data["csr"], data["ip_sans"], data["alt_names"] = csr, empty, empty
			secret, err := thief.Logical().WriteWithContext(t.Context(), "nodeagent/mercury/k8s-server/sign/w1.kubelet-server", data)
			if err != nil {
				continue
			}
			chain, err := parseChain(secret.Data["certificate"].(string))
			if err != nil || chain[0].Subject.String() != "CN=system:node:w1,O=system:nodes" || len(chain[0].DNSNames)+len(chain[0].IPAddresses)+len(chain[0].URIs)+len(chain[0].EmailAddresses) > 0 {
				t.Errorf("with %#v for names and addresses it got %v, %v", empty, chain, err)
			}
		}
		// None of it has changed anything.
		if left := differs(t, client, want); len(left) > 0 {
			t.Errorf("after the attacks a plan has:\n%s", printed(left))
		}
	})
}

func send(t testing.TB, client *api.Client, a attack) (*api.Secret, error) {
	t.Helper()
	switch a.method {
	case http.MethodGet:
		secret, err := client.Logical().ReadWithContext(t.Context(), a.path)
		if err == nil && secret == nil {
			err = errors.New("nothing is there, which proves nothing")
		}
		return secret, err
	case http.MethodDelete:
		return client.Logical().DeleteWithContext(t.Context(), a.path)
	case http.MethodPatch:
		return client.Logical().JSONMergePatch(t.Context(), a.path, a.data)
	case "LIST":
		return client.Logical().ListWithContext(t.Context(), a.path)
	}
	return client.Logical().WriteWithContext(t.Context(), a.path, a.data)
}

// TestControlPlaneSecrets: a control plane makes a shared secret once, reads
// it, and can neither overwrite nor remove it.
func TestControlPlaneSecrets(t *testing.T) {
	eachServer(t, func(t *testing.T, client *api.Client) {
		fleet := fleetOf(t, "")
		want := wantOf(t, fleet)
		converge(t, client, want)
		first, second := hostToken(t, client, specOf(t, fleet, "cp1")), hostToken(t, client, specOf(t, fleet, "cp2"))
		path := want.Place.Secret(pki.KeyEncryption)
		put := func(c *api.Client, value string, options map[string]any) error {
			_, err := c.Logical().WriteWithContext(t.Context(), path, map[string]any{"data": map[string]any{"value": value}, "options": options})
			return err
		}
		if err := put(first, "b25l", nil); err == nil {
			t.Error("a secret was made without check-and-set")
		}
		if err := put(first, "b25l", map[string]any{"cas": 0}); err != nil {
			t.Fatal(err)
		}
		for cas := range 2 {
			if err := put(second, "dHdv", map[string]any{"cas": cas}); err == nil {
				t.Errorf("a secret was overwritten with cas=%d", cas)
			}
		}
		data, err := read(t.Context(), second, path)
		if err != nil || data["data"].(map[string]any)["value"] != "b25l" {
			t.Errorf("the second control plane reads %v, %v", data, err)
		}
		if _, err := second.Logical().DeleteWithContext(t.Context(), path); err == nil {
			t.Error("a secret was removed")
		}
	})
}

// TestAdministrator does everything with a token that has the printed policy
// and no other.
func TestAdministrator(t *testing.T) {
	eachServer(t, func(t *testing.T, root *api.Client) {
		fleet := fleetOf(t, "")
		if err := root.Sys().PutPolicyWithContext(t.Context(), "pki-admin", AdminPolicy(fleet)); err != nil {
			t.Fatal(err)
		}
		token := vaultWrite(t, root, "auth/token/create", map[string]any{"policies": []string{"pki-admin"}, "no_default_policy": false})
		admin, err := root.Clone()
		if err != nil {
			t.Fatal(err)
		}
		admin.SetToken(token.Auth.ClientToken)
		converge(t, admin, wantOf(t, fleet))
		hostToken(t, admin, specOf(t, fleet, "w1"))
		findings, err := Check(t.Context(), admin, fleet, time.Now())
		if err != nil || len(findings) > 0 {
			t.Errorf("check: %+v, %v; want nothing", findings, err)
		}
		converge(t, admin, wantOf(t, fleetOf(t, "", "w2")))
		for _, path := range []string{"nodeagent/venus/secrets/data/encryption", "nodeagent/mercury/secrets/data/other", "sys/policies/acl/other", "sys/mounts/other", "nodeagent/venus/k8s-client/roles/x", "auth/token/create"} {
			if _, err := admin.Logical().WriteWithContext(t.Context(), path, map[string]any{"type": "kv", "policy": ""}); err == nil || !strings.Contains(err.Error(), "permission denied") {
				t.Errorf("the administrator of one cluster may write %s: %v", path, err)
			}
		}
	})
}

// TestMethods bootstraps the other ways to log in, and tells what they lack.
func TestMethods(t *testing.T) {
	eachServer(t, func(t *testing.T, client *api.Client) {
		approle := fleetOf(t, "auth = \"approle\"\n")
		converge(t, client, wantOf(t, approle))
		host := hostToken(t, client, specOf(t, approle, "w1"))
		rotated := vaultWrite(t, host, "auth/nodeagent/mercury/approle/role/w1/secret-id", map[string]any{})
		if rotated.Data["secret_id"] == nil {
			t.Error("a host cannot rotate its secret id")
		}
		if _, err := host.Logical().WriteWithContext(t.Context(), "auth/nodeagent/mercury/approle/role/w2/secret-id", nil); err == nil {
			t.Error("a host gets another one's secret id")
		}

		jwt := fleetOf(t, "auth = \"jwt\"\njwt_file = \"/run/token\"\njwt_subject = \"spiffe://example.org/{host}\"\njwt_audience = \"vault\"\n")
		want := wantOf(t, jwt)
		changed := converge(t, client, want)
		if !slices.Contains(changed, "delete login nodeagent/mercury/approle/w1") {
			t.Errorf("the login of another method stays: %q", changed)
		}
		findings, err := Check(t.Context(), client, jwt, time.Now())
		if err != nil || len(findings) != 1 || findings[0].Where != "method nodeagent/mercury/jwt" {
			t.Errorf("check: %+v, %v; want a method without keys", findings, err)
		}
		fields := want.object(Object{Kind: KindLogin, Mount: "nodeagent/mercury/jwt", Name: "w1"}).Fields
		if fields["bound_subject"] != "spiffe://example.org/w1" {
			t.Errorf("subject %v", fields["bound_subject"])
		}
	})
}

// TestPlanningWritesNothing reads with a token that may write nothing.
func TestPlanningWritesNothing(t *testing.T) {
	eachServer(t, func(t *testing.T, client *api.Client) {
		fleet := fleetOf(t, "")
		want := wantOf(t, fleet)
		policy := `path "*" { capabilities = ["read", "list", "sudo"] }`
		if err := client.Sys().PutPolicyWithContext(t.Context(), "reader", policy); err != nil {
			t.Fatal(err)
		}
		token := vaultWrite(t, client, "auth/token/create", map[string]any{"policies": []string{"reader"}})
		reader, err := client.Clone()
		if err != nil {
			t.Fatal(err)
		}
		reader.SetToken(token.Auth.ClientToken)
		all := len(differs(t, reader, want))
		changes := differs(t, client, want)
		if all != len(changes) {
			t.Errorf("a reader's plan has %d changes, root's %d", all, len(changes))
		}
		// Cut off after each change, the next run goes on from there.
		for left := len(changes); left > 0; {
			n := min(37, left)
			if err := Apply(t.Context(), client, want.Place, changes[:n], plan.Silent{}); err != nil {
				t.Fatal(err)
			}
			changes = differs(t, client, want)
			if len(changes) != left-n {
				t.Fatalf("after %d of %d changes %d are left", n, left, len(changes))
			}
			left = len(changes)
		}
	})
}
