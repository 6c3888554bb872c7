package fleets

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/kernel"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/netcfg"
)

// host is a host of a fleet, and what nodeagent knows of it.
type host struct {
	*place
	spec *hosts.Spec
	root layout.Root
	sys  *netcfg.System
}

// fleet is a shipped fleet with keys of which the private half is known.
type fleet struct {
	hosts map[string]*host
	// keys are the private ones of the clients, by name.
	keys map[string]wgtypes.Key
	// public are the public ones of the hosts, by name.
	public map[string]wgtypes.Key
}

// load makes every host of a shipped fleet, with nothing on it yet. The fleet is
// as it is shipped but for the public keys, whose private halves nobody has:
// those of the hosts are made by nodeagent on each.
func load(t *testing.T, name string) fleet {
	t.Helper()
	if os.Getenv("NODEAGENT_VM") != "1" {
		t.Skip("it loads kernel modules, and takes VLANs and the kernel's WireGuard; it runs in the virtual machine's stage (make test-vm)")
	}
	dir := filepath.Join("..", "..", "hosts", "fleets", name)
	shipped, err := hosts.Load(dir)
	must(t, err)
	f := fleet{hosts: map[string]*host{}, keys: map[string]wgtypes.Key{}, public: map[string]wgtypes.Key{}}
	renamed, clients := map[string]string{}, map[string]wgtypes.Key{} // by the shipped public key
	for _, spec := range shipped.Hosts {
		h := &host{place: newPlace(t, spec.Name), root: layout.Root(t.TempDir())}
		f.hosts[spec.Name] = h
		var public string
		// In the host's own namespace: where a device of that name is there, its
		// key is taken over.
		h.run(t, func() (err error) {
			var made bool
			public, _, made, err = netcfg.WireGuardKey(t.Context(), h.root, spec.Network.WireGuard.Interface)
			if err == nil && !made {
				err = errors.New("the key was there before")
			}
			return err
		})
		renamed[spec.Network.WireGuard.PublicKey] = public
		f.public[spec.Name], err = wgtypes.ParseKey(public)
		must(t, err)
		for _, client := range spec.Network.WireGuard.Clients {
			key, known := clients[client.PublicKey] // of a laptop that several hosts carry
			if !known {
				key, err = wgtypes.GeneratePrivateKey()
				must(t, err)
				clients[client.PublicKey], renamed[client.PublicKey] = key, key.PublicKey().String()
			}
			f.keys[client.Name] = key
		}
	}
	loaded, err := hosts.Load(renameKeys(t, dir, renamed))
	must(t, err)
	for _, spec := range loaded.Hosts {
		f.hosts[spec.Name].spec = spec
	}
	return f
}

// renameKeys copies a fleet with other public keys.
func renameKeys(t *testing.T, dir string, renamed map[string]string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.toml"))
	must(t, err)
	to := t.TempDir()
	for _, name := range files {
		content, err := os.ReadFile(name)
		must(t, err)
		for from, to := range renamed {
			content = bytes.ReplaceAll(content, []byte(from), []byte(to))
		}
		must(t, os.WriteFile(filepath.Join(to, filepath.Base(name)), content, 0o600))
	}
	return to
}

// converge applies kernel and network, and proves that one apply was enough.
func (h *host) converge(t *testing.T) {
	t.Helper()
	h.set(t, "net/ipv4/conf/all/rp_filter", "2") // as systemd sets it on Debian
	h.run(t, func() (err error) { h.sys, err = netcfg.Open(); return err })
	t.Cleanup(func() { h.sys.Close() })
	if left := h.applyKernel(t); len(left) > 0 {
		t.Errorf("%s: after one apply the kernel still lacks %v", h.name, keys(left))
	}
	changes := h.plan(t)
	if len(changes) < 8 {
		t.Errorf("the first plan of %s is %v", h.name, keys(changes))
	}
	h.run(t, func() error { return h.sys.Apply(t.Context(), changes, plan.Silent{}) })
	h.isConverged(t)
}

// applyKernel makes modules and the network's sysctls; the others are the
// machine's.
func (h *host) applyKernel(t *testing.T) (left []plan.Change) {
	t.Helper()
	h.run(t, func() error {
		if err := os.Symlink("/lib", filepath.Join(string(h.root), "lib")); err != nil { // the modules
			return err
		}
		sys, err := kernel.Open(h.root)
		if err != nil {
			return err
		}
		want, err := kernel.Want(h.spec, nil)
		if err != nil {
			return err
		}
		mine := want.Sysctls[:0]
		for _, s := range want.Sysctls {
			if kernel.IsNetwork(s.Name) {
				mine = append(mine, s)
			}
		}
		want.Sysctls = mine
		have, err := kernel.Observe(t.Context(), sys, want)
		if err != nil {
			return err
		}
		if err := kernel.Apply(t.Context(), sys, kernel.Diff(have, want), plan.Silent{}); err != nil {
			return err
		}
		have, err = kernel.Observe(t.Context(), sys, want)
		left = kernel.Diff(have, want)
		return err
	})
	return left
}

// plan observes the host's network and compares it with the spec.
func (h *host) plan(t *testing.T) (changes []plan.Change) {
	t.Helper()
	h.run(t, func() error {
		want := netcfg.WantIn(h.root, h.spec)
		have, err := h.sys.Observe(t.Context(), want)
		changes = netcfg.Diff(have, want)
		return err
	})
	return changes
}

func (h *host) isConverged(t *testing.T) {
	t.Helper()
	if left := h.plan(t); len(left) > 0 {
		t.Errorf("the plan of %s is not empty: %v", h.name, keys(left))
	}
}

func keys(changes []plan.Change) []string {
	var keys []string
	for _, c := range changes {
		keys = append(keys, string(c.Action)+" "+c.Key+": "+c.Before+" -> "+c.After)
	}
	return keys
}

// forgePod connects to the hosts' addresses from outside with the address of a pod
// that is no host's. Pods are let in to the API server and the kubelet, but no
// answer leaves for them by the way to the internet.
func forgePod(t *testing.T, forger *place, hosts map[*host]netip.Addr, pods string) {
	t.Helper()
	var attempts []attempt
	for h, at := range hosts {
		for _, port := range []uint16{6443, 10250} {
			attempts = append(attempts, attempt{forger, "with a pod's address", h, netip.AddrPortFrom(at, port), false})
		}
	}
	try(t, attempts)
	for h := range hosts {
		h.ip(t, "route delete unreachable "+pods)
	}
	for i := range attempts {
		attempts[i].expect = true // else the test proves nothing
	}
	try(t, attempts)
	for h := range hosts {
		changes := h.plan(t)
		if len(changes) != 1 || changes[0].Key != "route "+pods {
			t.Errorf("with a route gone the plan of %s is %v", h.name, keys(changes))
		}
		h.run(t, func() error { return h.sys.Apply(t.Context(), changes, plan.Silent{}) })
		h.isConverged(t)
	}
}

// withoutFirewalls proves that it was the firewalls which kept everybody out:
// without them every attempt succeeds.
func withoutFirewalls(t *testing.T, all map[string]*host, attempts []attempt) {
	t.Helper()
	for _, h := range all {
		h.exec(t, "", "nft", "delete", "table", "inet", netcfg.FirewallTable)
		if changes := h.plan(t); len(changes) != 1 || changes[0].Key != "firewall" {
			t.Errorf("with its firewall gone the plan of %s is %v", h.name, keys(changes))
		}
	}
	attempts = slices.Clone(attempts)
	for i := range attempts {
		attempts[i].expect = true
	}
	start := time.Now()
	try(t, attempts)
	t.Logf("%d connections in %s", len(attempts), time.Since(start).Round(time.Millisecond))
}
