package names

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// host is a host of a temporary folder, with a running name of its own.
type host struct {
	*System
	reloads int
}

// newHost gives the test's thread a UTS namespace: a name that is not the
// machine's.
func newHost(t *testing.T) *host {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("own UTS namespace: %v; these tests must run in CI", err)
		}
		t.Skipf("own UTS namespace: %v; run as root", err)
	}
	must(t, unix.Sethostname([]byte("old")))
	h := &host{}
	h.System = &System{Root: layout.Root(t.TempDir()), Reload: func(context.Context) error { h.reloads++; return nil }}
	must(t, os.MkdirAll(h.path("etc"), 0o755))
	return h
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (h *host) file(t *testing.T, path, content string) {
	t.Helper()
	path = h.path(path)
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(content), 0o644))
}

func (h *host) link(t *testing.T, target, path string) {
	t.Helper()
	must(t, os.Symlink(target, h.path(path)))
}

func (h *host) changes(t *testing.T, n hosts.Names) []plan.Change {
	t.Helper()
	want := Want(&hosts.Spec{Names: n})
	have, err := Observe(t.Context(), h.System, want)
	must(t, err)
	return Diff(have, want)
}

// converge applies once and proves that this was enough.
func (h *host) converge(t *testing.T, n hosts.Names) {
	t.Helper()
	changes := h.changes(t, n)
	if err := Apply(t.Context(), h.System, changes, plan.Silent{}); err != nil {
		t.Fatalf("%v\nplan %v", err, changes)
	}
	if left := h.changes(t, n); len(left) > 0 {
		t.Fatalf("left %v\nafter %v", left, changes)
	}
}

// tree is every file below /etc with its content, every link with its target.
func (h *host) tree(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	must(t, filepath.WalkDir(h.path("etc"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(h.path("etc"), path)
		must(t, err)
		if e.Type() == fs.ModeSymlink {
			found[name], err = os.Readlink(path)
			found[name] = "-> " + found[name]
			return err
		}
		content, err := os.ReadFile(path)
		info, statErr := e.Info()
		found[name] = fmt.Sprintf("%o %s", info.Mode().Perm(), content)
		return errors.Join(err, statErr)
	}))
	return found
}

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func mercury() hosts.Names {
	return hosts.Names{
		Hostname: "mercury", Servers: addrs("192.0.2.53", "2001:db8::53"), Search: []string{"example.net"}, Options: []string{"timeout:1"},
		Hosts: []hosts.HostsEntry{{Address: addrs("10.9.0.1")[0], Names: []string{"mercury"}}, {Address: addrs("10.9.0.2")[0], Names: []string{"venus", "venus.example.net"}}},
	}
}

func TestEverythingIsWrittenAndPutBack(t *testing.T) {
	h := newHost(t)
	h.file(t, "etc/hostname", "# ours\nold\n")
	h.file(t, "etc/hosts", "127.0.0.1\tlocalhost\r\n127.0.1.1 old")
	h.file(t, "etc/resolv.conf", "nameserver 198.51.100.1\n")
	before := h.tree(t)
	h.converge(t, mercury())
	want := map[string]string{
		"hostname":    "644 mercury\n",
		"hosts":       "644 127.0.0.1\tlocalhost\r\n127.0.1.1 old\n" + beginNewline + "10.9.0.1\tmercury\n10.9.0.2\tvenus venus.example.net\n" + endMarker,
		"resolv.conf": "644 " + header + "search example.net\nnameserver 192.0.2.53\nnameserver 2001:db8::53\noptions timeout:1\n",
	}
	if diff := cmp.Diff(want, h.tree(t)); diff != "" {
		t.Error(diff)
	}
	if name, err := runningName(); err != nil || name != "mercury" {
		t.Errorf("running name %q, %v", name, err)
	}
	h.converge(t, hosts.Names{})
	if diff := cmp.Diff(before, h.tree(t)); diff != "" {
		t.Error(diff)
	}
	if name, err := runningName(); err != nil || name != "old" {
		t.Errorf("running name %q, %v", name, err)
	}
	if h.reloads != 0 {
		t.Errorf("%d reloads of a resolved that is not used", h.reloads)
	}
}

func TestResolvedGetsADropIn(t *testing.T) {
	h := newHost(t)
	h.link(t, "../run/systemd/resolve/stub-resolv.conf", "etc/resolv.conf")
	before := h.tree(t)
	n := hosts.Names{Servers: addrs("192.0.2.53"), Search: []string{"example.net"}, Options: []string{"timeout:1"}}
	h.converge(t, n)
	want := maps.Clone(before)
	want["systemd/resolved.conf.d/nodeagent.conf"] = "644 " + header + "[Resolve]\nDNS=\nDNS=192.0.2.53\nDomains=\nDomains=~. example.net\n"
	if diff := cmp.Diff(want, h.tree(t)); diff != "" {
		t.Error(diff)
	}
	if h.reloads != 1 {
		t.Errorf("%d reloads, want 1", h.reloads)
	}
	have, err := Observe(t.Context(), h.System, State{})
	must(t, err)
	if w := Warnings(have, Want(&hosts.Spec{Names: n})); len(w) != 1 || !strings.Contains(w[0], "names.options") {
		t.Errorf("warnings %q", w)
	}
	// Resolved goes: the servers move to a file of ours.
	must(t, os.Remove(h.resolvPath()))
	h.converge(t, n)
	if got := h.tree(t); len(got) != 1 || !strings.HasPrefix(got["resolv.conf"], "644 "+header) {
		t.Errorf("%q", got)
	}
}

// A reload that failed is owed until it succeeded.
func TestResolvedIsToldInTheEnd(t *testing.T) {
	h := newHost(t)
	h.link(t, "/run/systemd/resolve/resolv.conf", "etc/resolv.conf")
	works := h.Reload
	h.Reload = func(context.Context) error { return errors.New("no bus") }
	n := hosts.Names{Servers: addrs("192.0.2.53")}
	if err := Apply(t.Context(), h.System, h.changes(t, n), plan.Silent{}); err == nil || !strings.Contains(err.Error(), "no bus") {
		t.Fatalf("error %v", err)
	}
	left := h.changes(t, n)
	if len(left) != 1 || left[0].Action != plan.ActionReload {
		t.Fatalf("left %v, want a reload", left)
	}
	h.Reload = works
	h.converge(t, n)
	if h.reloads != 1 {
		t.Errorf("%d reloads, want 1", h.reloads)
	}
}

// Links are followed where they stand for the file, and replaced where another
// program writes what they lead to.
func TestLinks(t *testing.T) {
	h := newHost(t)
	h.file(t, "etc/own/hosts", "127.0.0.1 localhost\n")
	h.file(t, "etc/own/hostname", "old\n")
	h.file(t, "etc/dhcp/resolv.conf", "nameserver 198.51.100.1\n")
	h.link(t, "own/hosts", "etc/hosts")
	h.link(t, "own/hostname", "etc/hostname")
	h.link(t, "dhcp/resolv.conf", "etc/resolv.conf")
	before := h.tree(t)
	h.converge(t, mercury())
	got := h.tree(t)
	if got["hosts"] != before["hosts"] || got["hostname"] != before["hostname"] || got["own/hostname"] != "644 mercury\n" {
		t.Errorf("%q", got)
	}
	if got["dhcp/resolv.conf"] != before["dhcp/resolv.conf"] || !strings.HasPrefix(got["resolv.conf"], "644 "+header) {
		t.Errorf("%q", got)
	}
	h.converge(t, hosts.Names{})
	if diff := cmp.Diff(before, h.tree(t)); diff != "" {
		t.Error(diff)
	}
}

func TestBrokenMarkersAreLeftAlone(t *testing.T) {
	for name, content := range map[string]string{
		"no end":    "127.0.0.1 localhost\n" + beginMarker + "10.9.0.1 a\n",
		"no begin":  "127.0.0.1 localhost\n" + endMarker,
		"two pairs": beginMarker + endMarker + beginMarker + endMarker,
		"nested":    beginMarker + beginMarker + endMarker,
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.file(t, "etc/hosts", content)
			n := hosts.Names{Hosts: mercury().Hosts}
			err := Apply(t.Context(), h.System, h.changes(t, n), plan.Silent{})
			if err == nil || !strings.Contains(err.Error(), "remove them") {
				t.Errorf("error %v", err)
			}
			if got := h.tree(t)["hosts"]; got != "644 "+content {
				t.Errorf("%q", got)
			}
			if left := h.changes(t, hosts.Names{}); len(left) > 0 {
				t.Errorf("without a wish there is %v", left)
			}
		})
	}
}

func TestNamesOfOthersAreReported(t *testing.T) {
	h := newHost(t)
	h.file(t, "etc/hosts", "127.0.1.1 Mercury # mine\n10.9.0.2 venus\n::1 mercury\n#10.0.0.9 venus\n")
	h.converge(t, mercury())
	have, err := Observe(t.Context(), h.System, State{})
	must(t, err)
	got := Warnings(have, Want(&hosts.Spec{Names: mercury()}))
	want := []string{"/etc/hosts: a line that is not nodeagent's gives mercury the address 127.0.1.1, the spec 10.9.0.1; the first line counts"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestReadOnlyFolderSaysWhatToDo(t *testing.T) {
	err := explain("/etc/hosts", &fs.PathError{Op: "open", Path: "/etc/x", Err: unix.EROFS})
	if err == nil || !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), "leave them out of the spec") {
		t.Errorf("%v", err)
	}
	runtime.LockOSThread()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("mounting a read-only file system needs root; this test must run in CI")
		}
		t.Skip("mounting a read-only file system needs root")
	}
	must(t, unix.Unshare(unix.CLONE_NEWNS))
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	h := newHost(t)
	h.file(t, "etc/hosts", "127.0.0.1 localhost\n")
	must(t, unix.Mount(h.path("etc"), h.path("etc"), "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(h.path("etc"), 0)) })
	must(t, unix.Mount("", h.path("etc"), "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	n := mercury()
	n.Hostname = "old" // as it runs
	err = Apply(t.Context(), h.System, h.changes(t, n), plan.Silent{})
	for _, file := range []string{"hostname", "hosts", "resolv.conf"} {
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("replace %q", h.path("etc", file))) || !strings.Contains(err.Error(), "read-only file system") {
			t.Errorf("error %v, want one about %s", err, file)
		}
	}
}

func TestWatchNoticesTheRunningName(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	signals, err := h.Watch(ctx)
	must(t, err)
	must(t, unix.Sethostname([]byte("new")))
	select {
	case <-signals:
	case <-time.After(10 * time.Second):
		t.Error("no signal")
	}
	cancel()
	for deadline := time.After(10 * time.Second); ; {
		select {
		case _, open := <-signals:
			if !open {
				return
			}
		case <-deadline:
			t.Fatal("the watch does not end")
		}
	}
}

// random is a wish and a host as somebody else may have left it.
func randomNames(r *rand.Rand) hosts.Names {
	n := hosts.Names{}
	if r.IntN(3) > 0 {
		n.Hostname = []string{"mercury", "venus", "old"}[r.IntN(3)]
	}
	for i := range r.IntN(3) {
		n.Servers = append(n.Servers, addrs("192.0.2.53", "2001:db8::53", "10.0.0.1")[(i+r.IntN(2))%3])
	}
	if r.IntN(2) == 0 {
		n.Search = []string{"example.net"}
	}
	if r.IntN(3) > 0 {
		n.Hosts = mercury().Hosts[:r.IntN(3)]
	}
	return n
}

func (h *host) randomHost(t *testing.T, r *rand.Rand) {
	t.Helper()
	contents := []string{"", "127.0.0.1 localhost", "127.0.0.1 localhost\n\n", "# a\n\t\n10.9.0.2 venus\r\n", "\n\n"}
	if r.IntN(4) > 0 {
		h.file(t, "etc/hosts", contents[r.IntN(len(contents))])
	}
	if r.IntN(4) > 0 {
		h.file(t, "etc/hostname", []string{"old\n", "old", "", "# x\nmercury\n"}[r.IntN(4)])
	}
	switch r.IntN(5) {
	case 0:
		h.link(t, "../run/systemd/resolve/stub-resolv.conf", "etc/resolv.conf")
	case 1:
		h.link(t, "elsewhere", "etc/resolv.conf") // leads nowhere
	case 2, 3:
		h.file(t, "etc/resolv.conf", "nameserver 198.51.100.1\n")
	}
}

// TestLaws: from any host, over any wishes, stopped anywhere, one apply
// converges; and when the spec drops everything, every byte is back.
func TestLaws(t *testing.T) {
	for seed := range 200 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(seed), 3))
			h := newHost(t)
			h.randomHost(t, r)
			before := h.tree(t)
			for range 1 + r.IntN(4) {
				n := randomNames(r)
				changes := h.changes(t, n)
				if len(changes) > 0 && r.IntN(2) == 0 {
					stopped := slices.Clone(changes[:r.IntN(len(changes))])
					must(t, Apply(t.Context(), h.System, stopped, plan.Silent{}))
				}
				planned := h.tree(t)
				h.changes(t, n)
				if diff := cmp.Diff(planned, h.tree(t)); diff != "" {
					t.Fatalf("planning writes: %s", diff)
				}
				h.converge(t, n)
			}
			h.converge(t, hosts.Names{})
			if diff := cmp.Diff(before, h.tree(t)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestDyingBetweenSteps: an original that was kept is not kept again once the
// file is ours, and one that is back but not forgotten does no harm.
func TestDyingBetweenSteps(t *testing.T) {
	h := newHost(t)
	h.file(t, "etc/resolv.conf", "nameserver 198.51.100.1\n")
	h.file(t, "etc/hostname", "old\n")
	before := h.tree(t)
	// Dead after keeping.
	must(t, h.keep(originalResolv, h.resolvPath()))
	must(t, h.keep(originalName, h.hostnamePath()))
	h.converge(t, mercury())
	h.converge(t, hosts.Names{Hosts: mercury().Hosts})
	h.converge(t, hosts.Names{})
	delete(before, "hosts")
	if diff := cmp.Diff(before, h.tree(t)); diff != "" {
		t.Error(diff)
	}
	// Dead after putting back, before forgetting: somebody's next file stays.
	h.converge(t, mercury())
	o, err := loadOriginal(h.Root, originalResolv)
	must(t, err)
	must(t, h.put(h.resolvPath(), *o))
	h.file(t, "etc/resolv.conf", "nameserver 203.0.113.1\n")
	h.converge(t, hosts.Names{})
	if got := h.tree(t)["resolv.conf"]; got != "644 nameserver 203.0.113.1\n" {
		t.Errorf("%q", got)
	}
	// State folder lost: the servers stay, as the host's own.
	h.converge(t, mercury())
	must(t, os.RemoveAll(folder(h.Root)))
	h.converge(t, hosts.Names{})
	if got := h.tree(t)["resolv.conf"]; got != "644 search example.net\nnameserver 192.0.2.53\nnameserver 2001:db8::53\noptions timeout:1\n" {
		t.Errorf("%q", got)
	}
}
