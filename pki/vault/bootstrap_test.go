package vault

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
	vaulttest "github.com/nodeagent/nodeagent/test/vault"
)

// clusterFile is the cluster.toml of the tests' fleet; extra stands at its end.
const clusterFile = `
[cluster]
name = "mercury"
[kubernetes]
version = "1.36.3"
pod_range = "10.244.0.0/16"
service_range = "10.96.0.0/12"
endpoint = "api.mercury.example.org:6443"
[pki]
issuer = "vault"
lifetime = "24h"
[pki.vault]
address = "https://vault.example.org:8200"
`

// fleetOf is a fleet of two control planes with etcd and a worker, less those
// that are dropped.
func fleetOf(t testing.TB, extra string, dropped ...string) *hosts.Fleet {
	t.Helper()
	files := fstest.MapFS{"cluster.toml": {Data: []byte(clusterFile + extra)}}
	for name, content := range map[string]string{
		"cp1": "[host]\nroles = [\"control-plane\", \"etcd\"]\naddress = \"192.0.2.1\"\n",
		"cp2": "[host]\nroles = [\"control-plane\", \"etcd\"]\naddress = \"192.0.2.2\"\n",
		"w1":  "[host]\nroles = [\"worker\"]\naddress = \"192.0.2.11\"\npod_range = \"10.244.1.0/24\"\n",
		"w2":  "[host]\nroles = [\"worker\"]\naddress = \"192.0.2.12\"\npod_range = \"10.244.2.0/24\"\n",
	} {
		if !slices.Contains(dropped, name) {
			files[name+".toml"] = &fstest.MapFile{Data: []byte(content)}
		}
	}
	fleet, err := hosts.LoadFS(files, ".")
	if err != nil {
		t.Fatal(err)
	}
	return fleet
}

func specOf(t testing.TB, fleet *hosts.Fleet, name string) *hosts.Spec {
	t.Helper()
	spec, err := fleet.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func wantOf(t testing.TB, fleet *hosts.Fleet) State {
	t.Helper()
	want, err := Want(fleet)
	if err != nil {
		t.Fatal(err)
	}
	return want
}

// eachServer runs a test against every version.
func eachServer(t *testing.T, test func(t *testing.T, client *api.Client)) {
	for _, version := range vaulttest.Versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			test(t, vaulttest.Start(t, version).Client())
		})
	}
}

func differs(t testing.TB, client *api.Client, want State) []plan.Change {
	t.Helper()
	have, err := Observe(t.Context(), client, want.Place)
	if err != nil {
		t.Fatal(err)
	}
	return Diff(have, want)
}

// converge makes Vault be as wanted, demands that nothing is left, and answers
// the keys of what was changed.
func converge(t testing.TB, client *api.Client, want State) []string {
	t.Helper()
	changes := differs(t, client, want)
	if err := Apply(t.Context(), client, want.Place, changes, plan.Silent{}); err != nil {
		t.Fatal(err)
	}
	if left := differs(t, client, want); len(left) > 0 {
		t.Fatalf("a second plan is not empty:\n%s", printed(left))
	}
	return keys(changes)
}

func keys(changes []plan.Change) (list []string) {
	for _, c := range changes {
		list = append(list, string(c.Action)+" "+c.Key)
	}
	return list
}

func printed(changes []plan.Change) string {
	var b strings.Builder
	_ = plan.Style{}.Write(&b, plan.Plan{Changes: changes})
	return b.String()
}

func vaultWrite(t testing.TB, client *api.Client, path string, data map[string]any) *api.Secret {
	t.Helper()
	secret, err := client.Logical().WriteWithContext(t.Context(), path, data)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// TestBootstrap makes everything from nothing, finds nothing to do then, and
// has the authorities keep their keys whatever is bootstrapped again.
func TestBootstrap(t *testing.T) {
	eachServer(t, func(t *testing.T, client *api.Client) {
		want := wantOf(t, fleetOf(t, ""))
		made := converge(t, client, want)
		for _, key := range []string{
			"create engine nodeagent/mercury/etcd-peer", "create authority nodeagent/mercury/etcd-peer",
			"create role nodeagent/mercury/k8s-client/w1.kubelet-client", "create policy nodeagent:mercury:w1",
			"create login nodeagent/mercury/cert/w1", "create login nodeagent/mercury/approle/w1",
			"create settings nodeagent/mercury/secrets", "create tidy nodeagent/mercury/front-proxy",
		} {
			if !slices.Contains(made, key) {
				t.Errorf("%s is not among the changes", key)
			}
		}
		before, err := Observe(t.Context(), client, want.Place)
		if err != nil {
			t.Fatal(err)
		}
		converge(t, client, want)
		after, err := Observe(t.Context(), client, want.Place)
		if err != nil {
			t.Fatal(err)
		}
		for i, a := range after.Authorities {
			if a.Condition != Signing || a.bundle() != before.Authorities[i].bundle() || len(a.Issuers) != 1 {
				t.Errorf("authority %s: condition %d with %d issuers, before and after another converge", a.Name, a.Condition, len(a.Issuers))
			}
		}
		if findings := Lint(after, want, time.Now()); len(findings) > 0 {
			t.Errorf("findings in what was just made: %+v", findings)
		}
	})
}

// TestDrift changes by hand what bootstrap made, one thing a case: it is told,
// and put right.
func TestDrift(t *testing.T) {
	const place = "nodeagent/mercury"
	cases := []struct {
		name, path string
		data       map[string]any // nil deletes
		key        string
		told       string // in a finding
	}{
		{"any name", place + "/k8s-client/roles/w1.kubelet-client", map[string]any{"allow_any_name": true}, "update role nodeagent/mercury/k8s-client/w1.kubelet-client", "any name is signed"},
		{"no validation", place + "/etcd-peer/roles/cp1.etcd-peer", map[string]any{"cn_validations": "disabled"}, "update role nodeagent/mercury/etcd-peer/cp1.etcd-peer", "switches allowed_domains off"},
		{"organisation", place + "/k8s-client/roles/w1.kubelet-client", map[string]any{"organization": "system:masters"}, "update role nodeagent/mercury/k8s-client/w1.kubelet-client", "organization"},
		{"lifetime", place + "/k8s-client/roles/w1.kube-proxy", map[string]any{"max_ttl": "87600h"}, "update role nodeagent/mercury/k8s-client/w1.kube-proxy", "max_ttl"},
		{"policy", "sys/policies/acl/nodeagent:mercury:w1", map[string]any{"policy": `path "*" { capabilities = ["sudo", "read"] }`}, "update policy nodeagent:mercury:w1", `path "*"`},
		{"tidy", place + "/k8s-client/config/auto-tidy", map[string]any{"enabled": false}, "update tidy nodeagent/mercury/k8s-client", "enabled"},
		{"no check and set", place + "/secrets/config", map[string]any{"cas_required": false}, "update settings nodeagent/mercury/secrets", "cas_required"},
		{"mount", "sys/mounts/" + place + "/etcd-peer/tune", map[string]any{"max_lease_ttl": "1h"}, "update engine nodeagent/mercury/etcd-peer", "max_lease_ttl"},
		{"login", "auth/" + place + "/cert/certs/w1", map[string]any{"allowed_common_names": "w1,w2"}, "update login nodeagent/mercury/cert/w1", "allowed_common_names"},
		{"token", "auth/" + place + "/approle/role/w1", map[string]any{"token_policies": "nodeagent:mercury:w1,root-like"}, "update login nodeagent/mercury/approle/w1", "token_policies"},
		{"role id", "auth/" + place + "/approle/role/w1/role-id", map[string]any{"role_id": "other"}, "update login nodeagent/mercury/approle/w1", "role_id"},
		{"role gone", place + "/k8s-client/roles/w1.kube-proxy", nil, "create role nodeagent/mercury/k8s-client/w1.kube-proxy", "missing"},
		{"policy gone", "sys/policies/acl/nodeagent:mercury:w1", nil, "create policy nodeagent:mercury:w1", "missing"},
	}
	eachServer(t, func(t *testing.T, client *api.Client) {
		want := wantOf(t, fleetOf(t, "", "cp2", "w2"))
		converge(t, client, want)
		for _, tc := range cases {
			spoil(t, client, tc.path, tc.data)
			have, err := Observe(t.Context(), client, want.Place)
			if err != nil {
				t.Fatal(err)
			}
			if got := keys(Diff(have, want)); !slices.Equal(got, []string{tc.key}) {
				t.Errorf("%s: the plan has %q, want %q", tc.name, got, tc.key)
			}
			if !slices.ContainsFunc(Lint(have, want, time.Now()), func(f Finding) bool {
				return f.Severity == SeverityError && strings.Contains(f.What, tc.told)
			}) {
				t.Errorf("%s: no error tells of %q: %+v", tc.name, tc.told, Lint(have, want, time.Now()))
			}
			converge(t, client, want)
		}
	})
}

// spoil changes some fields of what is at a path, or removes it.
func spoil(t testing.TB, client *api.Client, path string, data map[string]any) {
	t.Helper()
	if data == nil {
		if _, err := client.Logical().DeleteWithContext(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		return
	}
	if strings.Contains(path, "/roles/") { // of which a write replaces all fields
		have, err := read(t.Context(), client, path)
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range data {
			have[name] = value
		}
		data = have
	}
	vaultWrite(t, client, path, data)
}

// TestDroppedHost: what a host had goes with it; what others made stays.
func TestDroppedHost(t *testing.T) {
	eachServer(t, func(t *testing.T, client *api.Client) {
		converge(t, client, wantOf(t, fleetOf(t, "")))
		vaultWrite(t, client, "nodeagent/mercury/k8s-client/roles/team", map[string]any{"allow_any_name": true, "ttl": "1h"})
		vaultWrite(t, client, "auth/nodeagent/mercury/approle/role/ci", map[string]any{"token_policies": "default"})
		vaultWrite(t, client, "sys/mounts/nodeagent/mercury/extra", map[string]any{"type": "kv"})
		vaultWrite(t, client, "sys/policies/acl/nodeagent:mercury-2:w2", map[string]any{"policy": `path "x" { capabilities = ["read"] }`})

		want := wantOf(t, fleetOf(t, "", "w2"))
		changed := converge(t, client, want)
		for _, key := range []string{
			"delete login nodeagent/mercury/cert/w2", "delete login nodeagent/mercury/approle/w2", "delete policy nodeagent:mercury:w2",
			"delete role nodeagent/mercury/k8s-client/w2.kube-proxy", "delete role nodeagent/mercury/nodeagent/w2.nodeagent",
		} {
			if !slices.Contains(changed, key) {
				t.Errorf("%s is not among %q", key, changed)
			}
		}
		for _, key := range changed {
			if !strings.HasPrefix(key, "delete ") || !strings.Contains(key, "w2") {
				t.Errorf("%s has nothing to do with the host that left", key)
			}
		}
		have, err := Observe(t.Context(), client, want.Place)
		if err != nil {
			t.Fatal(err)
		}
		var others []string
		for _, o := range have.Others {
			others = append(others, o.Key())
		}
		if w := []string{"engine nodeagent/mercury/extra", "role nodeagent/mercury/k8s-client/team", "login nodeagent/mercury/approle/ci"}; !slices.Equal(others, w) {
			t.Errorf("others are %q, want %q", others, w)
		}
		if p, err := client.Sys().GetPolicyWithContext(t.Context(), "nodeagent:mercury-2:w2"); err != nil || p == "" {
			t.Errorf("the policy of another cluster's host is gone: %v", err)
		}
		if !slices.ContainsFunc(Lint(have, want, time.Now()), func(f Finding) bool {
			return f.Severity == SeverityError && strings.HasSuffix(f.Where, "/team") && strings.Contains(f.What, "any name is signed")
		}) {
			t.Error("nothing is told of a foreign role that signs any name")
		}
	})
}

// TestOfflineRoot has the CAs signed by a root outside of Vault: nothing is
// made beside them meanwhile, wrong certificates change nothing, and the right
// ones make everything complete.
func TestOfflineRoot(t *testing.T) {
	eachServer(t, func(t *testing.T, client *api.Client) {
		want := wantOf(t, fleetOf(t, ""))
		for i := range want.Authorities {
			want.Authorities[i].Offline = true
		}
		converge(t, client, want)
		have, err := Observe(t.Context(), client, want.Place)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(have.Waiting()); n != len(layout.CAs()) {
			t.Fatalf("%d authorities wait for their certificates, want all %d", n, len(layout.CAs()))
		}
		// Without --offline, a waiting authority gets no root behind its back.
		for _, key := range keys(differs(t, client, wantOf(t, fleetOf(t, "")))) {
			if strings.Contains(key, "authority") {
				t.Errorf("a plan without an offline root has %s", key)
			}
		}
		root, sign := offlineRoot(t)
		requests := map[string][]byte{}
		for i, a := range want.Authorities {
			if requests[a.Name], err = SigningRequest(t.Context(), client, a); err != nil {
				t.Fatal(err)
			}
			again, err := SigningRequest(t.Context(), client, a)
			if err != nil || !samePublicKey(t, requests[a.Name], again) {
				t.Errorf("asked again, the request of %s is for another key (%v)", a.Name, err)
			}
			want.Authorities[i].Signed = sign(requests[layout.CAs()[0]], true, 24*365*time.Hour) + root
		}
		changes := differs(t, client, want)
		if err := Apply(t.Context(), client, want.Place, changes, plan.Silent{}); err == nil || strings.Count(err.Error(), "belongs to another key") != len(layout.CAs())-1 {
			t.Errorf("certificates for another key: %v", err)
		}
		for i, a := range want.Authorities {
			want.Authorities[i].Signed = sign(requests[a.Name], true, 24*365*time.Hour) + root
		}
		converge(t, client, want)
		have, err = Observe(t.Context(), client, want.Place)
		if err != nil {
			t.Fatal(err)
		}
		if findings := Lint(have, want, time.Now()); len(findings) > 0 {
			t.Errorf("findings after the import: %+v", findings)
		}
		for _, a := range have.Authorities {
			if s := a.signer(); s == nil || s.Certificate.Issuer.CommonName != "offline root" {
				t.Errorf("authority %s does not sign with the imported certificate", a.Name)
			}
		}
		// The first try with everything wrong in other ways changes nothing.
		for name, bad := range map[string]string{
			"no CA":     sign(requests["etcd-peer"], false, 24*365*time.Hour),
			"too short": sign(requests["etcd-peer"], true, time.Hour),
			"no PEM":    "hello",
			"unrelated": sign(requests["etcd-peer"], true, 24*365*time.Hour) + func() string { other, _ := offlineRoot(t); return other }(),
		} {
			if err := CheckSigned(bad, requests["etcd-peer"], 24*time.Hour, time.Now()); err == nil {
				t.Errorf("a certificate that is wrong (%s) passes", name)
			}
		}
	})
}

func samePublicKey(t *testing.T, a, b []byte) bool {
	t.Helper()
	return csrOf(t, a).PublicKey.(*ecdsa.PublicKey).Equal(csrOf(t, b).PublicKey)
}

func csrOf(t *testing.T, text []byte) *x509.CertificateRequest {
	t.Helper()
	block, _ := pem.Decode(text)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

// offlineRoot is a root, PEM, and what signs requests with it.
func offlineRoot(t *testing.T) (string, func(request []byte, ca bool, life time.Duration) string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "offline root"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	serial := int64(1)
	issue := func(template, parent *x509.Certificate, public any) string {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	rootPEM := issue(root, root, key.Public())
	parsed, err := parseChain(rootPEM)
	if err != nil {
		t.Fatal(err)
	}
	return rootPEM, func(request []byte, ca bool, life time.Duration) string {
		csr := csrOf(t, request)
		serial++
		template := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: csr.Subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
			IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
		if !ca {
			template.KeyUsage = x509.KeyUsageDigitalSignature
		}
		return issue(template, parsed[0], csr.PublicKey)
	}
}

// hostToken is a token as a host's login gives it.
func hostToken(t testing.TB, client *api.Client, spec *hosts.Spec) *api.Client {
	t.Helper()
	enrolment, err := MintEnrolment(t.Context(), client, spec, 5*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	host, err := client.Clone()
	if err != nil {
		t.Fatal(err)
	}
	secret, err := host.Logical().UnwrapWithContext(t.Context(), enrolment.Token)
	if err != nil {
		t.Fatal(err)
	}
	place := Place(spec.PKI.Vault.Mount)
	login := vaultWrite(t, host, "auth/"+place.Auth(authAppRole)+"/login", map[string]any{
		"role_id": place.RoleID(spec.Name), "secret_id": secret.Data["secret_id"],
	})
	host.SetToken(login.Auth.ClientToken)
	return host
}

// trialOf signs with a client's token.
func trialOf(client *api.Client, spec *hosts.Spec, have State) trial {
	return trial{client: client, place: have.Place, host: spec.Name, have: have}
}

// TestHostSigns: with its own token every host gets all of its certificates, of
// every key type, exactly as asked for.
func TestHostSigns(t *testing.T) {
	eachServer(t, func(t *testing.T, client *api.Client) {
		for _, keyType := range []string{"ecdsa-p256", "ecdsa-p384", "ed25519", "rsa-2048"} {
			fleet := fleetOf(t, "", "cp2", "w2")
			for _, spec := range fleet.Hosts {
				spec.PKI.KeyType = keyType
			}
			want := wantOf(t, fleet)
			converge(t, client, want)
			have, err := Observe(t.Context(), client, want.Place)
			if err != nil {
				t.Fatal(err)
			}
			for _, spec := range fleet.Hosts {
				host := hostToken(t, client, spec)
				for _, r := range pki.Requests(spec) {
					if err := pki.Try(context.WithoutCancel(t.Context()), trialOf(host, spec, have), r, time.Now()); err != nil {
						t.Errorf("host %s, %s: %v", spec.Name, r.Name, err)
					}
				}
			}
		}
	})
}

// TestTwoAtOnce has several administrators make one authority at the same time:
// it becomes one, with one key.
func TestTwoAtOnce(t *testing.T) {
	eachServer(t, func(t *testing.T, client *api.Client) {
		want := wantOf(t, twoHosts(t))
		changes := differs(t, client, want)
		made := make(chan error)
		for range 3 {
			go func() { made <- Apply(context.WithoutCancel(t.Context()), client, want.Place, changes, plan.Silent{}) }()
		}
		for range 3 {
			if err := <-made; err != nil {
				t.Logf("one of three is told: %.200s", err.Error())
			}
		}
		converge(t, client, want)
		have, err := Observe(t.Context(), client, want.Place)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range have.Authorities {
			if len(a.Issuers) != 1 || a.Condition != Signing {
				t.Errorf("authority %s has %d issuers", a.Engine, len(a.Issuers))
			}
		}
	})
}

// TestHostCheck: a host that is enrolled checks with its own login, finds
// nothing where nothing is wrong, and otherwise what it lacks.
func TestHostCheck(t *testing.T) {
	for _, version := range vaulttest.Versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			server := vaulttest.Start(t, version)
			client, fleet := server.Client(), twoHosts(t)
			for _, spec := range fleet.Hosts {
				spec.PKI.Vault.Address, spec.PKI.Vault.CAFile = server.Address, server.CAFile
			}
			converge(t, client, wantOf(t, fleet))
			for _, spec := range fleet.Hosts {
				issuer := New(spec, layout.Root(t.TempDir()), slog.New(slog.DiscardHandler))
				t.Cleanup(func() { issuer.Close(context.WithoutCancel(t.Context())) })
				enrolment, err := MintEnrolment(t.Context(), client, spec, time.Minute)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := issuer.Enroll(t.Context(), enrolment.Token); err != nil {
					t.Fatal(err)
				}
				if findings, err := issuer.Check(t.Context(), spec, time.Now()); err != nil || len(findings) > 0 {
					t.Errorf("host %s: %+v, %v; want nothing", spec.Name, findings, err)
				}
				// In ten years the CAs are near their ends.
				findings, err := issuer.Check(t.Context(), spec, time.Now().Add(87000*time.Hour))
				if err != nil || !slices.ContainsFunc(findings, func(f Finding) bool { return strings.HasPrefix(f.Where, "authority ") }) {
					t.Errorf("host %s in ten years: %+v, %v; want CAs that end", spec.Name, findings, err)
				}
				narrowed := strings.ReplaceAll(HostPolicy(spec), `"nodeagent/mercury/nodeagent/sign/`, `"nowhere/`)
				if err := client.Sys().PutPolicyWithContext(t.Context(), "nodeagent:mercury:"+spec.Name, narrowed); err != nil {
					t.Fatal(err)
				}
				findings, err = issuer.Check(t.Context(), spec, time.Now())
				if err != nil || len(findings) != 2 || !strings.Contains(findings[0].What+findings[1].What, "the token may not update nodeagent/mercury/nodeagent/sign/") {
					t.Errorf("host %s without its login's signature: %+v, %v", spec.Name, findings, err)
				}
			}
		})
	}
}

// TestInTheWay: mounts of others where ours would be are told of before
// anything is made, and an Apply all the same says each thing in a line.
func TestInTheWay(t *testing.T) {
	eachServer(t, func(t *testing.T, client *api.Client) {
		want := wantOf(t, twoHosts(t))
		vaultWrite(t, client, "sys/mounts/nodeagent/mercury/etcd-peer", map[string]any{"type": "kv"})
		have, err := Observe(t.Context(), client, want.Place)
		if err != nil {
			t.Fatal(err)
		}
		if o := Obstacles(have, want); len(o) != 1 || !strings.Contains(o[0], "engine nodeagent/mercury/etcd-peer is there with type kv") {
			t.Errorf("obstacles %q, want the engine of another type", o)
		}
		if err := client.Sys().UnmountWithContext(t.Context(), "nodeagent/mercury/etcd-peer"); err != nil {
			t.Fatal(err)
		}
		vaultWrite(t, client, "sys/mounts/nodeagent", map[string]any{"type": "kv"})
		if have, err = Observe(t.Context(), client, want.Place); err != nil {
			t.Fatal(err)
		}
		if o := Obstacles(have, want); len(o) != 1 || !strings.HasPrefix(o[0], "engine nodeagent lies above") {
			t.Errorf("obstacles %q, want the mount above", o)
		}
		err = Apply(t.Context(), client, want.Place, Diff(have, want), plan.Silent{})
		if err == nil {
			t.Fatal("what cannot be mounted was made")
		}
		for line := range strings.SplitSeq(err.Error(), "\n") {
			if !strings.HasPrefix(line, "create ") {
				t.Errorf("a line of its own: %q", line)
			}
		}
		if !strings.Contains(err.Error(), "create role nodeagent/mercury/etcd-peer/cp1.etcd-peer: engine nodeagent/mercury/etcd-peer could not be made") {
			t.Errorf("no word of why a role was not made: %v", err)
		}
	})
}
