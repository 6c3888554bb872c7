package vault

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
)

// person is a client whose token has one policy.
func (w *world) person(policies ...string) *api.Client {
	w.t.Helper()
	secret, err := w.client.Auth().Token().Create(&api.TokenCreateRequest{Policies: policies, NoDefaultPolicy: true, TTL: "10m"})
	if err != nil {
		w.t.Fatal(err)
	}
	client, err := w.client.Clone()
	if err != nil {
		w.t.Fatal(err)
	}
	client.SetToken(secret.Auth.ClientToken)
	return client
}

// embedded is a field of a kubeconfig that holds base64.
func embedded(t testing.TB, kubeconfig []byte, field string) []byte {
	t.Helper()
	found := regexp.MustCompile(field + `: (\S+)`).FindSubmatch(kubeconfig)
	if found == nil {
		t.Fatalf("no %s", field)
	}
	content, err := base64.StdEncoding.DecodeString(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// opensslVerifies holds a leaf against a bundle with OpenSSL.
func opensslVerifies(t testing.TB, bundle, chain []byte, purpose string) {
	t.Helper()
	program, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Logf("OpenSSL is not asked: %v", err)
		return
	}
	dir := t.TempDir()
	for name, content := range map[string][]byte{"ca.crt": bundle, "tls.crt": chain} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.CommandContext(t.Context(), program, "verify", "-purpose", purpose, "-CAfile", filepath.Join(dir, "ca.crt"), "-untrusted", filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.crt")).CombinedOutput()
	if err != nil {
		t.Errorf("openssl verify: %v: %s", err, out)
	}
}

// TestPeople: an administrator's own token, with the policy of one role, gives a
// certificate of that role, which Go and OpenSSL verify, and of no other.
func TestPeople(t *testing.T) {
	eachVault(t, trio(""), func(t *testing.T, w *world) {
		spec := w.fleet.Hosts[0]
		for _, tc := range []struct {
			group, user, cn, other string
			ttl                    time.Duration
		}{
			{layout.AdminGroup, "alice", "nodeagent:admin:alice", pki.BreakGlassGroup, 8 * time.Hour},
			{pki.BreakGlassGroup, "", "kubernetes-super-admin", layout.AdminGroup, time.Hour},
		} {
			r, err := pki.PersonalRequest(spec.PKI, tc.group, tc.user, tc.ttl)
			if err != nil {
				t.Fatal(err)
			}
			client := w.person(w.place.PersonalPolicy(r.Name))
			p, err := pki.IssuePersonal(t.Context(), ForPeople(client, spec.PKI.Vault), r, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(p.NotAfter); left > tc.ttl || left < tc.ttl-time.Minute {
				t.Errorf("%s: lives %s, want %s", tc.cn, left, tc.ttl)
			}
			config := p.Kubeconfig(spec.Cluster, "https://"+spec.Kubernetes.Endpoint)
			chain := embedded(t, config, "client-certificate-data")
			pair, err := tls.X509KeyPair(chain, embedded(t, config, "client-key-data"))
			if err != nil {
				t.Fatal(err)
			}
			if s := pair.Leaf.Subject; s.CommonName != tc.cn || len(s.Organization) != 1 || s.Organization[0] != tc.group || len(pair.Leaf.DNSNames) > 0 {
				t.Errorf("subject %s with names %q, want %s of group %s", s, pair.Leaf.DNSNames, tc.cn, tc.group)
			}
			clients := w.bundle(layout.CAK8sClient)
			pool := x509.NewCertPool()
			pool.AppendCertsFromPEM(clients)
			if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
				t.Error(err)
			}
			opensslVerifies(t, clients, chain, "sslclient")
			if !bytes.Equal(embedded(t, config, "certificate-authority-data"), w.bundle(layout.CAK8sServer)) {
				t.Error("kube-apiserver is not checked by the bundle of its own CA")
			}

			otherRequest, err := pki.PersonalRequest(spec.PKI, tc.other, "", time.Hour)
			if tc.other == layout.AdminGroup {
				otherRequest, err = pki.PersonalRequest(spec.PKI, tc.other, "alice", time.Hour)
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err = pki.IssuePersonal(t.Context(), ForPeople(client, spec.PKI.Vault), otherRequest, time.Now())
			if pki.CauseOf(err) != pki.CauseDenied || !strings.Contains(err.Error(), w.place.PersonalPolicy(otherRequest.Name)) {
				t.Errorf("the other group: %v, want a refusal that names the policy", err)
			}
		}
	})
}

// bundle is what is trusted for a CA.
func (w *world) bundle(ca string) []byte {
	w.t.Helper()
	content, err := ForPeople(w.client, w.fleet.Hosts[0].PKI.Vault).Bundle(w.t.Context(), ca)
	if err != nil {
		w.t.Fatal(err)
	}
	return content
}

// TestPeopleCannot: what a person with the policy of a role, or a host, would try
// at people's roles.
func TestPeopleCannot(t *testing.T) {
	eachVault(t, trio(""), func(t *testing.T, w *world) {
		const engine = "nodeagent/small/k8s-client"
		csr := attackCSR(t)
		host := w.person(w.place.Policy("n1"))
		admin := w.person(w.place.PersonalPolicy(pki.PersonalAdmin))
		glass := w.person(w.place.PersonalPolicy(pki.PersonalBreakGlass))
		ask := func(cn string, more ...string) map[string]any {
			data := map[string]any{"csr": csr, "common_name": cn, "ttl": "1h", "exclude_cn_from_sans": true, "format": "pem"}
			for i := 0; i < len(more); i += 2 {
				data[more[i]] = more[i+1]
			}
			return data
		}
		for _, tc := range []struct {
			name   string
			client *api.Client
			path   string
			data   map[string]any
		}{
			{"a host as an administrator", host, engine + "/sign/admin-kubeconfig", ask("nodeagent:admin:alice")},
			{"a host as break-glass", host, engine + "/sign/break-glass", ask("kubernetes-super-admin")},
			{"a component's name", admin, engine + "/sign/admin-kubeconfig", ask("system:kube-scheduler")},
			{"the prefix in the middle", admin, engine + "/sign/admin-kubeconfig", ask("x.nodeagent:admin:alice")},
			{"names", admin, engine + "/sign/admin-kubeconfig", ask("nodeagent:admin:alice", "alt_names", "kubernetes")},
			{"addresses", admin, engine + "/sign/admin-kubeconfig", ask("nodeagent:admin:alice", "ip_sans", "192.0.2.1")},
			{"a later end", admin, engine + "/sign/admin-kubeconfig", ask("nodeagent:admin:alice", "not_after", "2099-01-01T00:00:00Z")},
			{"another user for break-glass", glass, engine + "/sign/break-glass", ask("system:kube-scheduler")},
			{"issue, which sends the key", admin, engine + "/issue/admin-kubeconfig", ask("nodeagent:admin:alice")},
			{"sign-verbatim", admin, engine + "/sign-verbatim/admin-kubeconfig", ask("nodeagent:admin:alice")},
			{"the role itself", admin, engine + "/roles/admin-kubeconfig", map[string]any{"max_ttl": "87600h"}},
			{"a host's role", admin, engine + "/sign/n1.admin", ask("kubernetes-admin")},
		} {
			if answer, err := tc.client.Logical().WriteWithContext(t.Context(), tc.path, tc.data); err == nil {
				t.Errorf("%s: got %v", tc.name, answer)
			}
		}
		// A longer life is cut to the role's.
		answer, err := glass.Logical().WriteWithContext(t.Context(), engine+"/sign/break-glass", ask("kubernetes-super-admin", "ttl", "720h"))
		if err != nil {
			t.Fatal(err)
		}
		content, err := text(answer, "certificate")
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := parseCA(content)
		if err != nil {
			t.Fatal(err)
		}
		if left := time.Until(leaf.NotAfter); left > pki.BreakGlassMax {
			t.Errorf("a break-glass certificate lives %s, at most %s are wanted", left, pki.BreakGlassMax)
		}
	})
}

// TestPeopleLeave: people's roles are ours, so one that was changed is put right
// and is not listed among others'.
func TestPeopleLeave(t *testing.T) {
	eachVault(t, trio(""), func(t *testing.T, w *world) {
		role := w.place.Engine(layout.CAK8sClient) + "/roles/" + pki.PersonalBreakGlass
		vaultWrite(t, w.client, role, map[string]any{"organization": "system:masters", "allow_any_name": true})
		have, err := Observe(t.Context(), w.client, w.place)
		if err != nil {
			t.Fatal(err)
		}
		if len(have.Others) > 0 {
			t.Errorf("others: %v", have.Others)
		}
		want, err := Want(w.fleet)
		if err != nil {
			t.Fatal(err)
		}
		changes := Diff(have, want)
		if len(changes) != 1 || changes[0].Action != plan.ActionUpdate {
			t.Errorf("changes %v, want the role", keys(changes))
		}
		if found := Lint(have, want, time.Now()); len(found) == 0 || found[0].Severity != SeverityError {
			t.Errorf("check finds %v", found)
		}
	})
}
