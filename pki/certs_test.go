package pki

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// fresh is the host after its certificates were issued.
func freshHost(t *testing.T) *host {
	h := newHost(t, mercury())
	h.converge()
	return h
}

func TestDetails(t *testing.T) {
	h := freshHost(t)
	list := Details(h.root, h.observe(), Want(h.spec), h.now.Add(time.Hour))
	if len(list) != len(Want(h.spec).Certificates) {
		t.Fatalf("%d details", len(list))
	}
	for _, d := range list {
		if d.State != StateOK || d.Serial == "" || !d.Trusted || len(d.Signers) != 1 || d.Usage == "none" || !d.Issued.Equal(h.now) {
			t.Errorf("%+v", d)
		}
		if d.Name == layout.CertKubeletClient && (d.CommonName != "system:node:mercury" || d.Organization != "system:nodes" || len(d.Names) > 0) {
			t.Errorf("%+v", d)
		}
		if _, err := os.Stat(d.Files.Key); err != nil {
			t.Error(err)
		}
	}
	// One that is missing is described as it is wanted.
	if err := os.RemoveAll(filepath.Dir(h.root.Certificate(layout.CertKubeProxy).Dir)); err != nil {
		t.Fatal(err)
	}
	for _, d := range Details(h.root, h.observe(), Want(h.spec), h.now) {
		if d.Name == layout.CertKubeProxy && (d.State != StateMissing || d.CommonName != userProxy || d.Serial != "" || d.Trusted) {
			t.Errorf("%+v", d)
		}
	}
}

// TestPowersGolden prints what each key of a host could be used for.
func TestPowersGolden(t *testing.T) {
	h := freshHost(t)
	worker := newHost(t, trio()[2])
	worker.spec.PKI.Vault = &hosts.Vault{Address: "https://vault.example.org:8200", Mount: "nodeagent/k8s-235", Auth: "approle"}
	worker.pretend(layout.CertNodeagent, layout.CertKubeletClient)
	var b strings.Builder
	print := func(h *host) {
		fmt.Fprintf(&b, "host %s\n\n", h.spec.Name)
		for _, p := range Powers(h.root, h.spec, h.observe(), h.now) {
			file, err := filepath.Rel(string(h.root), p.File)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "%s (%s)\n  file: %s\n", p.Key, p.Reach, file)
			for _, line := range [][2]string{{"as", p.As}, {"can", p.Can}, {"signs", p.Signs}, {"accepted by", p.AcceptedBy}, {"ending", p.Ending}} {
				if line[1] != "" {
					fmt.Fprintf(&b, "  %s: %s\n", line[0], line[1])
				}
			}
			if !p.Until.IsZero() {
				fmt.Fprintf(&b, "  until: %s\n", date(p.Until))
			}
		}
		b.WriteByte('\n')
	}
	print(h)
	print(worker)
	golden.Check(t, "testdata/powers.txt", b.String())
	for _, p := range Powers(h.root, h.spec, h.observe(), h.now.Add(100*day)) {
		if ended := !p.Until.IsZero() && p.Until.Before(h.now.Add(100*day)); ended != (p.Reach == ReachNone) {
			t.Errorf("%s: reach %s, ended %v", p.Key, p.Reach, ended)
		}
	}
}

// pretend gives a host whose issuer is Vault some of its certificates, from a
// local authority, and the other keys that lie on such a host.
func (h *host) pretend(names ...string) {
	h.t.Helper()
	issuer := *h.spec
	issuer.PKI.Issuer = IssuerLocal
	other := newHost(h.t, &issuer)
	other.spec.Roles = []hosts.Role{hosts.RoleControlPlane}
	other.converge()
	for _, a := range []string{layout.CANodeagent, layout.CAK8sClient, layout.CAK8sServer} {
		if err := makeAuthority(h.t.Context(), disk{}, other.root, nil, Authority{Name: a, Cluster: "x", Lifetime: 3650 * day}, h.now); err != nil {
			h.t.Fatal(err)
		}
	}
	h.issuer = &Local{Root: other.root, Now: func() time.Time { return h.now }}
	for _, name := range names {
		if err := h.apply(Obtain(Want(h.spec), name, "a test")); err != nil {
			h.t.Fatal(err)
		}
	}
	for _, path := range []string{filepath.Join(h.root.Enrolment(), "approle.json"), filepath.Join(h.root.State(), "wireguard", "private.key")} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			h.t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			h.t.Fatal(err)
		}
	}
}

// renewal is one whose issuer and proof are watched.
func (h *host) renewal() (*Renewal, *renewalWatch) {
	w := &renewalWatch{}
	return &Renewal{
		Applier: &Applier{
			Root: h.root, Now: func() time.Time { return h.now }, step: h.step,
			Issuer: func(context.Context) (Issuer, error) {
				return &Local{Root: h.root, Now: func() time.Time { return h.now }}, nil
			},
		},
		Want:  Want(h.spec),
		Prove: func(context.Context) error { w.proved++; return w.prove },
		Revoke: func(_ context.Context, ca string, chain, key []byte) error {
			if w.revoke == nil {
				w.revoked = append(w.revoked, ca)
				w.chain, w.key = chain, key
			}
			return w.revoke
		},
	}, w
}

type renewalWatch struct {
	prove, revoke error
	proved        int
	revoked       []string
	chain, key    []byte
}

func (h *host) serial(name string) string {
	s := h.observe()
	return s.Pair(name).Serial
}

func TestRenewalIssuesThoseNamedAlone(t *testing.T) {
	h := freshHost(t)
	r, w := h.renewal()
	before := h.observe()
	list, err := r.Run(t.Context(), []string{layout.CertAdmin, layout.CertEtcdPeer}, false, plan.Silent{})
	if err != nil {
		t.Fatal(err)
	}
	after := h.observe()
	for _, c := range before.Certificates {
		named := c.Name == layout.CertAdmin || c.Name == layout.CertEtcdPeer
		if renewed := after.Pair(c.Name).Serial != c.Found.Serial; renewed != named {
			t.Errorf("%s: renewed %v", c.Name, renewed)
		}
	}
	if len(list) != 2 || !list[0].Proven || list[0].Serial != after.Pair(layout.CertAdmin).Serial || w.proved != 1 || len(w.revoked) > 0 {
		t.Errorf("%+v, proved %d times, revoked %q", list, w.proved, w.revoked)
	}
	if left := h.diff(); len(left) > 0 {
		t.Errorf("left:\n%s", printed(left))
	}
}

func TestRenewalRevokesWhatIsOutOfUse(t *testing.T) {
	h := freshHost(t)
	r, w := h.renewal()
	at := h.root.Certificate(layout.CertAdmin)
	chain, key := content(t, at.Cert), content(t, at.Key)
	old := h.serial(layout.CertAdmin)
	list, err := r.Run(t.Context(), []string{layout.CertAdmin}, true, plan.Silent{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || len(list[0].Revoked) != 1 || list[0].Revoked[0] != old || len(w.revoked) != 1 || w.revoked[0] != layout.CAK8sClient {
		t.Errorf("%+v, revoked at %q", list, w.revoked)
	}
	if !bytes.Equal(w.chain, chain) || !bytes.Equal(w.key, key) {
		t.Error("something else than the old pair was revoked")
	}
	if owed, err := owedRevocations(h.root); err != nil || len(owed) > 0 {
		t.Errorf("still owed: %v, %v", owed, err)
	}
	if previousCertificate(h.root, layout.CertAdmin) != nil {
		t.Error("a revoked pair could be put back")
	}
}

func content(t testing.TB, path string) []byte {
	t.Helper()
	c, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestRenewalGoesOn: what was not proven, or could not be revoked, stays noted,
// and the next run ends it without issuing again.
func TestRenewalGoesOn(t *testing.T) {
	h := freshHost(t)
	old := h.serial(layout.CertAdmin)
	r, w := h.renewal()
	w.prove = errors.New("kube-apiserver does not answer")
	list, err := r.Run(t.Context(), []string{layout.CertAdmin}, true, plan.Silent{})
	if !errors.Is(err, w.prove) || len(list) != 1 || list[0].Proven || len(w.revoked) > 0 {
		t.Fatalf("%+v, %v; revoked %q", list, err, w.revoked)
	}
	issued := h.serial(layout.CertAdmin)
	if issued == old {
		t.Fatal("nothing was issued")
	}
	for _, d := range Details(h.root, h.observe(), Want(h.spec), h.now) {
		if d.Name == layout.CertAdmin && d.Revoke != old {
			t.Errorf("to be revoked: %q, want %q", d.Revoke, old)
		}
	}
	w.prove, w.revoke = nil, &Refusal{Cause: CauseUnreachable, What: "revoke", Err: errors.New("sealed")}
	if list, err = r.Run(t.Context(), []string{layout.CertAdmin}, true, plan.Silent{}); CauseOf(err) != CauseUnreachable || len(list[0].Revoked) > 0 {
		t.Fatalf("%+v, %v", list, err)
	}
	w.revoke = nil
	list, err = r.Run(t.Context(), []string{layout.CertAdmin}, true, plan.Silent{})
	if err != nil || list[0].Revoked[0] != old || h.serial(layout.CertAdmin) != issued {
		t.Errorf("%+v, %v; serial %s, want %s", list, err, h.serial(layout.CertAdmin), issued)
	}
}

// TestRenewalKilled: what lies on disk at each step is what a run finds that
// comes after one that was killed there. It revokes the leaked pair and no
// other, and issues no second one.
func TestRenewalKilled(t *testing.T) {
	h := freshHost(t)
	old := h.serial(layout.CertAdmin)
	type point struct {
		name    string
		root    layout.Root
		revoked bool
	}
	var points []point
	var w *renewalWatch
	h.step = func(name string) {
		p := point{name, layout.Root(folder(t)), len(w.revoked) > 0}
		if out, err := exec.CommandContext(t.Context(), "cp", "-a", string(h.root)+"/.", string(p.root)).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		points = append(points, p)
	}
	r, watch := h.renewal()
	w = watch
	if _, err := r.Run(t.Context(), []string{layout.CertAdmin}, true, plan.Silent{}); err != nil {
		t.Fatal(err)
	}
	if last := points[len(points)-1]; points[0].name != "revocation noted" || last.name != "revocation forgotten" {
		t.Fatalf("the points are %v", points)
	}
	for _, p := range points[:len(points)-1] {
		again := &host{t: t, root: p.root, spec: h.spec, now: h.now}
		issued := again.serial(layout.CertAdmin)
		r, w := again.renewal()
		list, err := r.Run(t.Context(), []string{layout.CertAdmin}, true, plan.Silent{})
		if err != nil || len(w.revoked) != 1 || len(list[0].Revoked) != 1 || list[0].Revoked[0] != old {
			t.Errorf("killed when %q: %+v, %v, revoked %q", p.name, list, err, w.revoked)
		}
		if now := again.serial(layout.CertAdmin); now == old || issued != old && now != issued {
			t.Errorf("killed when %q: serial %s is in use; it was %s before, %s is revoked", p.name, now, issued, old)
		}
		if left := again.diff(); len(left) > 0 {
			t.Errorf("killed when %q, left:\n%s", p.name, printed(left))
		}
	}
}

// TestRenewalRefuses what cannot be done, before anything is done.
func TestRenewalRefuses(t *testing.T) {
	h := freshHost(t)
	before := h.observe()
	r, _ := h.renewal()
	if _, err := r.Run(t.Context(), []string{layout.CertAdmin, "nonsense"}, false, plan.Silent{}); err == nil || !strings.Contains(err.Error(), `"nonsense"`) {
		t.Errorf("an unknown name: %v", err)
	}
	r.Revoke = nil
	if _, err := r.Run(t.Context(), []string{layout.CertAdmin}, true, plan.Silent{}); !errors.Is(err, ErrNoRevocation) {
		t.Errorf("an issuer without revocation: %v", err)
	}
	after := h.observe()
	for _, c := range before.Certificates {
		if after.Pair(c.Name).Serial != c.Found.Serial {
			t.Errorf("%s was issued", c.Name)
		}
	}
	if _, err := os.Stat(owedFolder(h.root)); err == nil {
		t.Error("a note was made")
	}
}

func TestPersonalRequest(t *testing.T) {
	p := mercury().PKI
	for _, tc := range []struct {
		group, user string
		ttl         time.Duration
		cn, wrong   string
	}{
		{layout.AdminGroup, "alice", 8 * time.Hour, "nodeagent:admin:alice", ""},
		{layout.AdminGroup, "alice.b-c_d", 7 * day, "nodeagent:admin:alice.b-c_d", ""},
		{layout.AdminGroup, "alice", 7*day + 1, "", "between 1m0s and 168h0m0s"},
		{layout.AdminGroup, "alice", time.Second, "", "between"},
		{layout.AdminGroup, "", time.Hour, "", `user ""`},
		{layout.AdminGroup, "system:node:n1", time.Hour, "", `user "system:node:n1"`},
		{layout.AdminGroup, "a,b", time.Hour, "", `user "a,b"`},
		{layout.AdminGroup, "Alice", time.Hour, "", "lower-case"},
		{BreakGlassGroup, "", 8 * time.Hour, "kubernetes-super-admin", ""},
		{BreakGlassGroup, "kubernetes-super-admin", time.Hour, "kubernetes-super-admin", ""},
		{BreakGlassGroup, "alice", time.Hour, "", "the one user"},
		{BreakGlassGroup, "", 9 * time.Hour, "", "between 1m0s and 8h0m0s"},
		{"system:nodes", "alice", time.Hour, "", `group "system:nodes"`},
		{"", "alice", time.Hour, "", `group ""`},
	} {
		r, err := PersonalRequest(p, tc.group, tc.user, tc.ttl)
		if tc.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), tc.wrong) {
				t.Errorf("%s %s %s: %v, want %q", tc.group, tc.user, tc.ttl, err, tc.wrong)
			}
			continue
		}
		if err != nil || r.CommonName != tc.cn || r.Organization != tc.group || r.Lifetime != tc.ttl || r.Server || !r.Client {
			t.Errorf("%s %s: %+v, %v", tc.group, tc.user, r, err)
		}
	}
}

func TestPersonalFromTheLocalIssuer(t *testing.T) {
	h := freshHost(t)
	r, err := PersonalRequest(h.spec.PKI, layout.AdminGroup, "alice", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	p, err := IssuePersonal(t.Context(), &Local{Root: h.root, Now: func() time.Time { return h.now }}, r, h.now)
	if err != nil {
		t.Fatal(err)
	}
	if !p.NotAfter.Equal(h.now.Add(time.Hour)) {
		t.Errorf("ends on %s", p.NotAfter)
	}
	path := filepath.Join(t.TempDir(), "alice.kubeconfig")
	for range 2 { // one of its own kind is replaced
		if err := WriteKubeconfig(path, p.Kubeconfig("mercury", "https://192.0.2.1:6443")); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("apiVersion: v1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteKubeconfig(path, p.Kubeconfig("mercury", "https://192.0.2.1:6443")); err == nil {
		t.Error("another kubeconfig was replaced")
	}
}
