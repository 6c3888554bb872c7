package pki

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

const day = 24 * time.Hour

// start is the moment at which tests begin; the real clock is later or earlier
// by years without any test noticing.
var start = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

func spec(name string, address string, roles ...hosts.Role) *hosts.Spec {
	return &hosts.Spec{
		Name: name, Cluster: "mercury", Domain: "cluster.local", Roles: roles,
		Address: netip.MustParseAddr(address),
		PKI: hosts.PKI{
			Issuer: IssuerLocal, KeyType: "ecdsa-p256",
			Lifetime: 90 * day, RenewBefore: 30 * day, CALifetime: 3650 * day, AdminLifetime: 7 * day,
		},
		Kubernetes: hosts.Kubernetes{
			PodRange:     netip.MustParsePrefix("10.244.0.0/16"),
			ServiceRange: netip.MustParsePrefix("10.96.0.0/12"),
			Endpoint:     net443(address), APIPort: 6443,
		},
	}
}

func net443(address string) string {
	return netip.AddrPortFrom(netip.MustParseAddr(address), 6443).String()
}

// mercury is one host with every role.
func mercury() *hosts.Spec {
	s := spec("mercury", "192.0.2.10", hosts.RoleControlPlane, hosts.RoleEtcd, hosts.RoleWorker)
	s.Kubernetes.Endpoint = "api.mercury.example:6443"
	s.PKI.ExtraNames = []string{"k8s.example.org", "203.0.113.7", "localhost"}
	return s
}

// trio is three hosts of one fleet, which share the roles out, joined by
// WireGuard, with Vault as issuer and IPv6 services.
func trio() []*hosts.Spec {
	list := []*hosts.Spec{
		spec("soarin", "10.0.235.1", hosts.RoleControlPlane),
		spec("sassaflash", "10.0.235.2", hosts.RoleEtcd),
		spec("stormfeather", "10.0.235.3", hosts.RoleWorker),
	}
	for i, s := range list {
		s.Cluster, s.Domain = "k8s-235", "k8s.example"
		s.PKI.Issuer = IssuerVault
		s.Kubernetes.ServiceRange = netip.MustParsePrefix("fd00:96::/112")
		s.Kubernetes.Endpoint = "[fd00::6443]:6443"
		s.Network.WireGuard = &hosts.WireGuard{Interface: "wg0", Address: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 235, 0, byte(i + 1)}), 24)}
	}
	return list
}

// host is a host of a test: a folder, a spec and a clock.
type host struct {
	t    testing.TB
	root layout.Root
	spec *hosts.Spec
	now  time.Time
	step func(string)
	// issuer is the local one where nil.
	issuer Issuer
	// keys opens the CAs' keys; nil where nothing does.
	keys *Keyring
}

func newHost(t testing.TB, spec *hosts.Spec) *host {
	return &host{t: t, root: layout.Root(folder(t)), spec: spec, now: start}
}

// folder is an empty folder in memory where there is such a file system: these
// tests make thousands of files, and none of them cuts the power.
func folder(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "nodeagent-pki-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func (h *host) observe() State {
	h.t.Helper()
	have, err := Observe(context.Background(), h.root)
	if err != nil {
		h.t.Fatal(err)
	}
	return have
}

func (h *host) diff() []plan.Change {
	h.t.Helper()
	return Diff(h.observe(), Want(h.spec), h.now)
}

func (h *host) apply(changes []plan.Change) error {
	a := &Applier{
		Root: h.root,
		Issuer: func(context.Context) (Issuer, error) {
			if h.issuer != nil {
				return h.issuer, nil
			}
			return &Local{Root: h.root, Keys: h.keys, Now: func() time.Time { return h.now }}, nil
		},
		Keys: h.keys, Now: func() time.Time { return h.now }, step: h.step,
	}
	return a.Apply(context.Background(), changes, plan.Silent{})
}

// converge applies the difference and fails unless none is left.
func (h *host) converge() []plan.Change {
	h.t.Helper()
	changes := h.diff()
	if err := h.apply(changes); err != nil {
		h.t.Fatal(err)
	}
	if left := h.diff(); len(left) > 0 {
		h.t.Fatalf("%d changes are left after %d were applied:\n%s", len(left), len(changes), printed(left))
	}
	return changes
}

// printed is the changes without their values, a line each.
func printed(changes []plan.Change) string {
	var b strings.Builder
	for _, c := range changes {
		fmt.Fprintf(&b, "%s %s (%s): %s\n", c.Action, c.Key, c.Effect, c.Reason)
	}
	return b.String()
}

func only(t testing.TB, changes []plan.Change, key string) plan.Change {
	t.Helper()
	for _, c := range changes {
		if c.Key == key {
			return c
		}
	}
	t.Fatalf("no change of %q in:\n%s", key, printed(changes))
	return plan.Change{}
}

func readString(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func write(t testing.TB, path, content string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// tree is everything below a folder that a write would change: names, inodes,
// modes, sizes, and the times of content and inode.
func tree(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		s := info.Sys().(*syscall.Stat_t)
		target, _ := os.Readlink(path)
		fmt.Fprintln(&b, path, target, info.Mode(), info.Size(), s.Ino, s.Mtim, s.Ctim)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
