package pki

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

func TestFirstApplyConverges(t *testing.T) {
	h := newHost(t, mercury())
	want := Want(h.spec)
	changes := h.converge()
	if n := len(want.Authorities) + len(want.Trust) + len(want.Keys) + len(want.Certificates); len(changes) != n {
		t.Errorf("%d changes, want %d:\n%s", len(changes), n, printed(changes))
	}
	before := tree(t, string(h.root))
	if err := h.apply(h.diff()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, tree(t, string(h.root))); diff != "" {
		t.Errorf("a second converge wrote (-before +after):\n%s", diff)
	}
}

// Planning writes nothing: neither on a fresh host nor on one that is broken.
func TestPlanningWritesNothing(t *testing.T) {
	h := newHost(t, mercury())
	h.diff()
	if entries, err := os.ReadDir(string(h.root)); err != nil || len(entries) > 0 {
		t.Fatalf("planning made %v (%v)", entries, err)
	}
	h.converge()
	h.now = h.now.Add(80 * day)
	write(t, h.root.Trust(layout.CAEtcdPeer), "garbage", 0o666)
	before := tree(t, string(h.root))
	changes := h.diff()
	if len(changes) < 10 {
		t.Fatalf("only %d changes are planned:\n%s", len(changes), printed(changes))
	}
	NextDue(h.observe(), Want(h.spec), h.now)
	List(h.observe(), Want(h.spec), h.now)
	Inputs(h.root)
	if diff := cmp.Diff(before, tree(t, string(h.root))); diff != "" {
		t.Errorf("planning wrote (-before +after):\n%s", diff)
	}
}

// damage is one thing that happens to a host between two converges.
type damage func(*rand.Rand, *host) string

// ownFile picks a file of a certificate or key in use, or a trust bundle.
func ownFile(r *rand.Rand, h *host) string {
	var list []string
	for _, c := range Want(h.spec).Certificates {
		at := h.root.Certificate(c.Name)
		list = append(list, at.Cert, at.Key, at.CA)
	}
	for _, b := range Want(h.spec).Trust {
		list = append(list, h.root.Trust(b.CA), filepath.Join(h.root.LocalCA(b.CA), authorityCert))
	}
	list = append(list, h.root.ServiceAccountKey(), h.root.ServiceAccountPublic(), h.root.EncryptionConfig())
	return list[r.IntN(len(list))]
}

var damages = []damage{
	func(r *rand.Rand, h *host) string {
		path := ownFile(r, h)
		_ = os.Remove(path)
		return "delete " + path
	},
	func(r *rand.Rand, h *host) string {
		path := ownFile(r, h)
		content, err := os.ReadFile(path)
		if err != nil || len(content) == 0 {
			return "no " + path
		}
		i := r.IntN(len(content))
		content[i] ^= 1 << r.IntN(8)
		_ = os.WriteFile(path, content, 0)
		return fmt.Sprintf("flip a bit of byte %d of %s", i, path)
	},
	func(r *rand.Rand, h *host) string {
		path := ownFile(r, h)
		_ = os.Truncate(path, int64(r.IntN(900)))
		return "truncate " + path
	},
	func(r *rand.Rand, h *host) string {
		path := ownFile(r, h)
		_ = os.Chmod(path, fs.FileMode(r.IntN(0o1000)|0o400))
		return "chmod " + path
	},
	func(r *rand.Rand, h *host) string {
		dir := filepath.Dir(ownFile(r, h))
		_ = os.Remove(dir) // the link, where it is one
		return "unlink " + dir
	},
	func(r *rand.Rand, h *host) string {
		path := ownFile(r, h)
		content, _ := os.ReadFile(ownFile(r, h))
		_ = os.WriteFile(path, content, 0o600)
		return "swap the content of " + path
	},
	func(r *rand.Rand, h *host) string {
		d := time.Duration(r.Int64N(int64(40 * day)))
		h.now = h.now.Add(d)
		return "wait " + span(d)
	},
	func(r *rand.Rand, h *host) string {
		ca := layout.CAs()[r.IntN(len(layout.CAs()))]
		_ = os.RemoveAll(h.root.LocalCA(ca))
		return "remove authority " + ca
	},
	func(r *rand.Rand, h *host) string {
		h.spec.PKI.Lifetime = time.Duration(31+r.IntN(400)) * day
		return "set the lifetime to " + span(h.spec.PKI.Lifetime)
	},
	func(r *rand.Rand, h *host) string {
		h.spec.PKI.ExtraNames = []string{fmt.Sprintf("name%d.example", r.IntN(100))}
		return "change a name"
	},
	func(r *rand.Rand, h *host) string {
		h.spec.PKI.CALifetime = time.Duration(10+r.IntN(400)) * day
		return "set the authorities' lifetime to " + span(h.spec.PKI.CALifetime)
	},
	func(r *rand.Rand, h *host) string {
		roles := []hosts.Role{hosts.RoleControlPlane, hosts.RoleEtcd, hosts.RoleWorker}
		r.Shuffle(len(roles), func(i, j int) { roles[i], roles[j] = roles[j], roles[i] })
		h.spec.Roles = roles[:r.IntN(4)]
		return fmt.Sprint("set the roles to ", h.spec.Roles)
	},
	func(r *rand.Rand, h *host) string {
		dir := filepath.Dir(filepath.Dir(ownFile(r, h)))
		for _, name := range []string{"generation-1", ".nodeagent-tmp-1"} {
			_ = os.MkdirAll(filepath.Join(dir, name), 0o700)
		}
		return "leave generations in " + dir
	},
}

// The law: whatever happens, one Diff and Apply later there is no difference,
// and what is not ours is as it was.
func TestConvergesFromAnything(t *testing.T) {
	rounds := 25
	if testing.Short() {
		rounds = 8
	}
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 235))
			h := newHost(t, mercury())
			foreign := foreignFiles(t, h.root)
			h.converge()
			var story []string
			for range rounds {
				story = story[:0]
				for range 1 + r.IntN(4) {
					story = append(story, damages[r.IntN(len(damages))](r, h))
				}
				changes := h.diff()
				if err := h.apply(changes); err != nil {
					t.Fatalf("after\n%s\n%v", strings.Join(story, "\n"), err)
				}
				if left := h.diff(); len(left) > 0 {
					t.Fatalf("after\n%s\nand\n%sthere is left\n%s", strings.Join(story, "\n"), printed(changes), printed(left))
				}
				for path, content := range foreign {
					if readString(t, path) != content {
						t.Fatalf("after\n%s\n%q was changed", strings.Join(story, "\n"), path)
					}
				}
			}
		})
	}
}

// foreignFiles puts files of other people next to ours.
func foreignFiles(t *testing.T, root layout.Root) map[string]string {
	files := map[string]string{}
	for _, path := range []string{
		filepath.Join(root.PKI(), "notes"), filepath.Join(root.PKI(), "certs", "mine", "tls.key"),
		filepath.Join(root.PKI(), "certs", "kube-proxy", "README"), filepath.Join(root.PKI(), "trust", "company.crt"),
		filepath.Join(root.PKI(), "keys", "ssh", "id"), filepath.Join(root.State(), "ca", "company", "ca.key"),
	} {
		write(t, path, path, 0o640)
		files[path] = path
	}
	return files
}

// A certificate of another authority, or of another user, is not accepted from
// an issuer, and nothing on disk changes.
func TestWrongAnswersOfAnIssuerChangeNothing(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Request)
		says   string
	}{
		{"another name", func(r *Request) { r.CommonName = "system:admin" }, "common name"},
		{"more names", func(r *Request) { r.DNSNames = append(r.DNSNames, "evil.example") }, "evil.example"},
		{"another group", func(r *Request) { r.Organization = "system:masters" }, "organisation"},
		{"a server's usage", func(r *Request) { r.Server = !r.Server }, "usage"},
		{"too long a life", func(r *Request) { r.Lifetime *= 2 }, "lives for"},
		{"another authority", func(r *Request) { r.CA = layout.CAFrontProxy }, "unknown authority"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t, mercury())
			h.converge()
			h.now = h.now.Add(75 * day)
			h.issuer = crooked{&Local{Root: h.root, Now: func() time.Time { return h.now }}, tc.change}
			changes := []plan.Change{only(t, h.diff(), "certificate kube-proxy")}
			before := readString(t, h.root.Certificate(layout.CertKubeProxy).Cert)
			err := h.apply(changes)
			if err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Fatalf("error %v, want one with %q", err, tc.says)
			}
			if readString(t, h.root.Certificate(layout.CertKubeProxy).Cert) != before {
				t.Error("the certificate was replaced")
			}
			if have := h.observe(); len(have.certificate(layout.CertKubeProxy).Found.Leftovers) > 0 {
				t.Error("something was left behind")
			}
		})
	}
}

// crooked signs something else than it is asked for, with a proper authority.
type crooked struct {
	*Local
	change func(*Request)
}

func (c crooked) Sign(ctx context.Context, r Request, csr []byte) ([]byte, error) {
	asked, err := parseCSR(r, csr)
	if err != nil {
		return nil, err
	}
	c.change(&r)
	return signFor(c.Local, r, asked.PublicKey)
}

// With an issuer elsewhere (here: authorities of another folder) the same law
// holds: no authority is made, and bundles are fetched.
func TestIssuerElsewhere(t *testing.T) {
	vault := newHost(t, mercury())
	vault.converge()
	// An issuer elsewhere has one authority more: the one for the login there.
	identity := Authority{Name: layout.CANodeagent, Cluster: "mercury", Lifetime: 87600 * time.Hour}
	if err := makeAuthority(t.Context(), disk{}, vault.root, nil, identity, vault.now); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, mercury())
	h.spec.PKI.Issuer = IssuerVault
	h.issuer = &Local{Root: vault.root, Now: func() time.Time { return h.now }}
	h.converge()
	if _, err := os.Stat(filepath.Dir(h.root.LocalCA("x"))); !os.IsNotExist(err) {
		t.Errorf("a folder of authorities was made: %v", err)
	}
	for _, path := range []string{h.root.Trust(layout.CAK8sClient), h.root.Certificate(layout.CertAdmin).CA} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	changes := h.converge()
	if c := only(t, changes, "certificate admin"); c.Action != plan.ActionUpdate {
		t.Errorf("the admin certificate is issued again for want of its bundle: %s", c.Reason)
	}
	h.now = h.now.Add(61 * day)
	h.converge()
}
