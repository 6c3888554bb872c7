package netcfg

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// wireGuardProgram is set in a process that is to be a userspace WireGuard
// device of the name that it holds.
const wireGuardProgram = "NODEAGENT_TEST_WIREGUARD"

// TestWireGuardProgram is no test: it is wireguard-go, in a process of its own
// because a device's sockets must all be opened in one network namespace. It
// ends with its standard input.
func TestWireGuardProgram(t *testing.T) {
	name := os.Getenv(wireGuardProgram)
	if name == "" {
		t.Skip("it is started by the tests of WireGuard")
	}
	assertApart(t)
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := ServeWireGuard(ctx, name, log, func() { fmt.Println("device ready") }); err != nil {
		t.Fatal(err)
	}
}

// The kinds of devices, on which the same tests run.
const (
	inKernel    = "kernel"
	inUserspace = "userspace"
)

// onEachWireGuard runs a test on the kernel's devices and on those of a program.
func onEachWireGuard(t *testing.T, test func(t *testing.T, kind string)) {
	for _, kind := range []string{inUserspace, inKernel} {
		t.Run(kind, func(t *testing.T) {
			newWireGuardSwitch(t)
			if kind == inKernel && !kernelMakesWireGuard(t) {
				if os.Getenv("NODEAGENT_VM") == "1" {
					t.Fatal("the VM's kernel has no WireGuard; the test must run there")
				}
				t.Skip("this kernel has no WireGuard; runs in the VM stage")
			}
			test(t, kind)
		})
	}
}

func kernelMakesWireGuard(t *testing.T) bool {
	t.Helper()
	probe := &netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: "probe0"}}
	err := netlink.LinkAdd(probe)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(probe); err != nil {
		t.Fatal(err)
	}
	return true
}

// wireGuardHost is a host: a thread with network and mount namespaces of its
// own, in which the same paths and device names mean its own.
type wireGuardHost struct {
	name string
	spec *hosts.Spec
	root layout.Root
	kind string
	do   chan func()
	// end ends the program that serves the device.
	end func()
	// names resolves the names of endpoints; nil for the machine's own way.
	names func(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// newWireGuardHost joins a host with the address 192.0.2.<n> to the bridge br0
// of the test's namespace.
func newWireGuardHost(t *testing.T, kind, name string, n byte) *wireGuardHost {
	t.Helper()
	h := &wireGuardHost{name: name, root: layout.Root(t.TempDir()), kind: kind, do: make(chan func())}
	h.spec = &hosts.Spec{
		Name: name, Roles: []hosts.Role{hosts.RoleWorker}, Address: netip.AddrFrom4([4]byte{192, 0, 2, n}), Kubernetes: hosts.Kubernetes{CNI: "bridge"},
		Network: hosts.Network{WireGuard: &hosts.WireGuard{
			Interface: "wg0", Address: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, 0, n}), 24), Port: 51820, MTU: 1380,
		}},
	}
	entered, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // never unlocked: the thread ends here
		entered <- enterWireGuardHost()
		for f := range h.do {
			f()
		}
	}()
	t.Cleanup(func() { close(h.do); <-ended })
	if err := <-entered; err != nil {
		t.Fatalf("make host %s: %v", name, err)
	}
	h.join(t)
	return h
}

// enterWireGuardHost gives the thread its namespaces, with an empty /run, where
// userspace devices have their sockets.
func enterWireGuardHost() error {
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("none", "/run", "tmpfs", 0, ""); err != nil {
		return err
	}
	// Where that is not the same folder.
	if at, err := filepath.EvalSymlinks("/var/run"); err != nil || at == "/run" {
		return nil
	}
	return unix.Mount("none", "/var/run", "tmpfs", 0, "")
}

func (h *wireGuardHost) join(t *testing.T) {
	t.Helper()
	var ns netns.NsHandle
	h.run(t, func() (err error) { ns, err = netns.Get(); return err })
	defer ns.Close()
	bridge, err := netlink.LinkByName("br0")
	if err != nil {
		t.Fatal(err)
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "to-" + h.name, MasterIndex: bridge.Attrs().Index}, PeerName: "lan0", PeerNamespace: netlink.NsFd(ns)}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		t.Fatal(err)
	}
	h.run(t, func() error {
		upWith(t, "lo")
		upWith(t, "lan0", h.spec.Address.String()+"/24")
		return nil
	})
}

// run runs f on the host.
func (h *wireGuardHost) run(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	h.do <- func() { done <- f() }
	if err := <-done; err != nil {
		t.Fatalf("on host %s: %v", h.name, err)
	}
}

// Device, Start and Stop are the host's [Userspace].
func (h *wireGuardHost) Device() (string, error) {
	if h.end == nil {
		return "", nil
	}
	return "wg0", nil
}

func (h *wireGuardHost) Stop(context.Context) error {
	if h.end != nil {
		h.end()
	}
	h.end = nil
	return nil
}

// begin starts the program where the host is to have it.
func (h *wireGuardHost) begin(t *testing.T) {
	t.Helper()
	if h.kind == inUserspace {
		h.run(t, func() error { return h.Start(t.Context(), "wg0") })
		t.Cleanup(func() { _ = h.Stop(context.Background()) })
	}
}

// Start starts the program on the host's thread and waits until it answers.
func (h *wireGuardHost) Start(_ context.Context, device string) error {
	if h.end != nil {
		h.end()
	}
	{
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestWireGuardProgram$", "-test.v")
		cmd.Env = append(os.Environ(), wireGuardProgram+"="+device)
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // with the host's thread
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		h.end = func() { in.Close(); _ = cmd.Wait() }
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if lines.Text() == "device ready" {
				return nil
			}
		}
		return errors.New("the program did not start")
	}
}

// diff returns the host's network, what lists the keys of the changes to it and
// what applies them; all of it only on the host's thread.
func (h *wireGuardHost) diff() (*System, func() ([]string, error), func(context.Context) error, error) {
	sys, err := Open()
	if err != nil {
		return nil, nil, nil, err
	}
	sys.names.lookup = h.names
	if h.kind == inUserspace {
		sys.Userspace = h
	}
	want := WantIn(h.root, h.spec)
	observe := func() (State, error) { return sys.Observe(context.Background(), want) }
	keys := func() ([]string, error) {
		have, err := observe()
		var list []string
		for _, c := range Diff(have, want) {
			list = append(list, string(c.Action)+" "+c.Key)
		}
		return list, err
	}
	apply := func(ctx context.Context) error {
		have, err := observe()
		if err != nil {
			return err
		}
		return sys.Apply(ctx, Diff(have, want), plan.Silent{})
	}
	return sys, keys, apply, nil
}

// converge applies what differs and returns it; nothing must be left.
func (h *wireGuardHost) converge(t *testing.T) (changes []string) {
	t.Helper()
	h.run(t, func() error {
		sys, keys, apply, err := h.diff()
		if err != nil {
			return err
		}
		defer sys.Close()
		if changes, err = keys(); err != nil {
			return err
		}
		if err := apply(t.Context()); err != nil {
			return err
		}
		left, err := keys()
		if len(left) > 0 {
			return fmt.Errorf("left after converging: %v", left)
		}
		return err
	})
	return changes
}

func (h *wireGuardHost) device(t *testing.T) (d *wgtypes.Device) {
	t.Helper()
	h.run(t, func() (err error) { d, err = wgctrlDevice("wg0"); return err })
	return d
}

// TestWireGuardReading: a device with sessions is read as wgctrl reads it.
func TestWireGuardReading(t *testing.T) {
	onEachWireGuard(t, func(t *testing.T, kind string) {
		a, b, c := newWireGuardHost(t, kind, "a", 1), newWireGuardHost(t, kind, "b", 2), newWireGuardHost(t, kind, "c", 3)
		for _, h := range []*wireGuardHost{a, b, c} {
			h.begin(t)
			h.converge(t)
		}
		declare(t, a, b, c)
		a.spec.Network.WireGuard.Keepalive = 25 * time.Second
		a.spec.Peers[0].WireGuard.Clients = []hosts.WireGuardClient{{Name: "laptop", Addresses: []netip.Prefix{netip.MustParsePrefix("fd00::7/128")}}}
		a.converge(t)
		b.converge(t)
		a.ping(t, b)
		// More addresses than fit into one of the kernel's messages.
		many := wgtypes.PeerConfig{PublicKey: a.device(t).Peers[0].PublicKey, UpdateOnly: true}
		for i := range 3000 {
			many.AllowedIPs = append(many.AllowedIPs, net.IPNet{IP: net.IP{0xfd, 1, 14: byte(i >> 8), 15: byte(i)}, Mask: net.CIDRMask(128, 128)})
		}
		a.run(t, func() error { return configure(t.Context(), "wg0", wgtypes.Config{Peers: []wgtypes.PeerConfig{many}}) })
		before := inOrder(readingOf(a.device(t)))
		var got *wireGuardReading
		a.run(t, func() (err error) { got, err = readWireGuardNamed("wg0"); return err })
		got = inOrder(got)
		after := inOrder(readingOf(a.device(t)))
		for i := range before.peers {
			b, g, a := before.peers[i], &got.peers[i], after.peers[i]
			if g.sent < b.sent || g.sent > a.sent || g.received < b.received || g.received > a.received {
				t.Errorf("%d bytes sent, %d received; wgctrl saw %d and %d, then %d and %d", g.sent, g.received, b.sent, b.received, a.sent, a.received)
			}
			g.sent, g.received = b.sent, b.received
		}
		if diff := cmp.Diff(before, got, compareReadings); diff != "" {
			t.Errorf("other than wgctrl's reading (-wgctrl +own):\n%s", diff)
		}
		if n := len(got.peers); n != 2 || got.peers[0].handshake.IsZero() == got.peers[1].handshake.IsZero() {
			t.Errorf("%d peers, want two, one of which there was a handshake with", n)
		}
		a.run(t, func() error {
			for _, name := range []string{"lo", "no-such0"} {
				if _, err := readWireGuardNamed(name); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("reading %s: error %v, want that it does not exist", name, err)
				}
			}
			return nil
		})
	})
}

// wgctrlDevice reads a device as wgctrl does.
func wgctrlDevice(name string) (*wgtypes.Device, error) {
	client, err := wgctrl.New()
	if err != nil {
		return nil, err
	}
	device, err := client.Device(name)
	return device, errors.Join(err, client.Close())
}

// declare writes the hosts' keys into each other's specs, as people do into the
// fleet.
func declare(t *testing.T, all ...*wireGuardHost) {
	t.Helper()
	for _, h := range all {
		h.spec.Peers = nil
		for _, other := range all {
			key, err := readWireGuardKey(wireGuardFolder(other.root))
			if err != nil || key == (wgtypes.Key{}) {
				t.Fatalf("key of %s: %v", other.name, err)
			}
			if other == h {
				h.spec.Network.WireGuard.PublicKey = key.PublicKey().String()
				continue
			}
			h.spec.Peers = append(h.spec.Peers, hosts.Peer{Name: other.name, WireGuard: &hosts.WireGuardPeer{
				Address: other.spec.Network.WireGuard.Address.Addr(), PublicKey: key.PublicKey().String(),
				Endpoint: netip.AddrPortFrom(other.spec.Address, 51820).String(),
			}})
		}
	}
}

// ping sends a datagram from one host to the other's address in the mesh and
// waits for the answer.
func (h *wireGuardHost) ping(t *testing.T, other *wireGuardHost) {
	t.Helper()
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(other.spec.Network.WireGuard.Address.Addr(), 7))
	var server *net.UDPConn
	other.run(t, func() (err error) { server, err = net.ListenUDP("udp4", to); return err })
	defer server.Close()
	go func() {
		buffer := make([]byte, 100)
		for {
			n, from, err := server.ReadFromUDP(buffer)
			if err != nil {
				return
			}
			_, _ = server.WriteToUDP(buffer[:n], from)
		}
	}()
	var client *net.UDPConn
	h.run(t, func() (err error) { client, err = net.DialUDP("udp4", nil, to); return err })
	defer client.Close()
	buffer := make([]byte, 100)
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		if _, err := client.Write([]byte(h.name)); err != nil {
			t.Fatalf("%s to %s: %v", h.name, other.name, err)
		}
		if err := client.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, err := client.Read(buffer); err == nil && string(buffer[:n]) == h.name {
			return
		}
	}
	t.Fatalf("%s has no answer from %s", h.name, other.name)
}

func newWireGuardSwitch(t *testing.T) {
	t.Helper()
	newNamespace(t)
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("userspace WireGuard needs it: %v", err)
		}
		t.Skipf("userspace WireGuard needs it: %v", err)
	} else {
		f.Close()
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	if err := netlink.LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		t.Fatal(err)
	}
}

func TestWireGuardMesh(t *testing.T) { onEachWireGuard(t, testWireGuardMesh) }

func testWireGuardMesh(t *testing.T, kind string) {
	a, b, c := newWireGuardHost(t, kind, "a", 1), newWireGuardHost(t, kind, "b", 2), newWireGuardHost(t, kind, "c", 3)
	for _, h := range []*wireGuardHost{a, b, c} {
		h.begin(t)
		if changes := h.converge(t); len(changes) == 0 || changes[0] != "create wireguard key" {
			t.Fatalf("host %s: first changes %v", h.name, changes)
		}
	}
	declare(t, a, b)
	a.converge(t)
	b.converge(t)
	a.ping(t, b)
	b.ping(t, a)

	// A third host: the session of the first two goes on as it was.
	before := a.device(t).Peers[0]
	if before.LastHandshakeTime.IsZero() || before.ReceiveBytes == 0 {
		t.Fatalf("no handshake after a ping: %+v", before)
	}
	declare(t, a, b, c)
	if changes := a.converge(t); len(changes) != 1 || changes[0] != "create wireguard peer c" {
		t.Errorf("changes %v, want the new peer alone", changes)
	}
	b.converge(t)
	c.converge(t)
	var after wgtypes.Peer
	for _, p := range a.device(t).Peers {
		if p.PublicKey == before.PublicKey {
			after = p
		}
	}
	if !after.LastHandshakeTime.Equal(before.LastHandshakeTime) || after.ReceiveBytes < before.ReceiveBytes || after.TransmitBytes < before.TransmitBytes {
		t.Errorf("the session with b was disturbed: %v %d/%d bytes, it was %v %d/%d", after.LastHandshakeTime, after.ReceiveBytes, after.TransmitBytes,
			before.LastHandshakeTime, before.ReceiveBytes, before.TransmitBytes)
	}
	c.ping(t, a)
	b.ping(t, c)
	a.ping(t, b)

	a.tamper(t, wireGuardPublic(77))
	a.roam(t, b)
	a.loseKey(t)
	a.ping(t, b)

	// The third host leaves.
	declare(t, a, b)
	if changes := a.converge(t); len(changes) != 1 || !strings.HasPrefix(changes[0], "delete wireguard peer ") {
		t.Errorf("changes %v, want the peer that left alone", changes)
	}
	a.ping(t, b)
}

// tamper adds a stranger as a peer and gives the others a preshared key:
// converging undoes both.
func (h *wireGuardHost) tamper(t *testing.T, stranger wgtypes.Key) {
	t.Helper()
	h.run(t, func() error {
		config := wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: stranger, AllowedIPs: []net.IPNet{{IP: net.IP{0, 0, 0, 0}, Mask: net.CIDRMask(0, 32)}}}}}
		for _, p := range h.spec.Peers {
			key, err := wgtypes.ParseKey(p.WireGuard.PublicKey)
			if err != nil {
				return err
			}
			config.Peers = append(config.Peers, wgtypes.PeerConfig{PublicKey: key, PresharedKey: &wgtypes.Key{1}})
		}
		return configure(t.Context(), "wg0", config)
	})
	if changes := h.converge(t); len(changes) != 1+len(h.spec.Peers) {
		t.Errorf("changes %v, want the stranger removed and each peer's preshared key", changes)
	}
	for _, p := range h.device(t).Peers {
		if p.PublicKey == stranger || p.PresharedKey != (wgtypes.Key{}) {
			t.Errorf("peer %v is left, preshared key: %v", p.PublicKey, p.PresharedKey != wgtypes.Key{})
		}
	}
}

// roam moves where a peer was last heard from: no difference. When the spec
// names another endpoint, it is.
func (h *wireGuardHost) roam(t *testing.T, other *wireGuardHost) {
	t.Helper()
	peer := &h.spec.Peers[0]
	key, err := wgtypes.ParseKey(peer.WireGuard.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	h.run(t, func() error {
		roamed := &net.UDPAddr{IP: net.IP{192, 0, 2, 99}, Port: 9}
		return configure(t.Context(), "wg0", wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: key, UpdateOnly: true, Endpoint: roamed}}})
	})
	if changes := h.converge(t); len(changes) > 0 {
		t.Errorf("a peer that roamed is a difference: %v", changes)
	}
	elsewhere, was := netip.AddrPortFrom(other.spec.Address, 51821).String(), peer.WireGuard.Endpoint
	for _, endpoint := range []string{elsewhere, was} {
		peer.WireGuard.Endpoint = endpoint
		if changes := h.converge(t); len(changes) != 1 {
			t.Errorf("changes %v, want the endpoint", changes)
		}
	}
	// A record that is lost costs one more setting, and nothing else.
	if err := os.Remove(endpointsPath(wireGuardFolder(h.root))); err != nil {
		t.Fatal(err)
	}
	if changes := h.converge(t); len(changes) != len(h.spec.Peers) {
		t.Errorf("changes %v, want each peer's endpoint", changes)
	}
}

// loseKey deletes the key's file while the device lives: its key is kept.
func (h *wireGuardHost) loseKey(t *testing.T) {
	t.Helper()
	before := h.device(t).PublicKey
	if err := os.RemoveAll(filepath.Dir(wireGuardKey(wireGuardFolder(h.root)))); err != nil {
		t.Fatal(err)
	}
	h.converge(t)
	key, err := readWireGuardKey(wireGuardFolder(h.root))
	if err != nil || key.PublicKey() != before || h.device(t).PublicKey != before {
		t.Errorf("the device has %v, it had %v; %v", h.device(t).PublicKey, before, err)
	}
}

// Without any WireGuard the error says so; the key is made all the same, so that
// it can be declared.
func TestWireGuardMissing(t *testing.T) {
	newWireGuardSwitch(t)
	h := newWireGuardHost(t, inKernel, "a", 1)
	h.run(t, func() error {
		sys, keys, apply, err := h.diff()
		if err != nil {
			return err
		}
		defer sys.Close()
		if _, err := keys(); err != nil {
			return err
		}
		if _, err := os.Stat(wireGuardFolder(h.root)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("planning made %s: %v", wireGuardFolder(h.root), err)
		}
		probe := &netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: "probe0"}}
		kernelHas := netlink.LinkAdd(probe) == nil
		err = apply(t.Context())
		switch {
		case kernelHas && err != nil:
			return fmt.Errorf("with WireGuard in the kernel: %w", err)
		case kernelHas:
			left, err := keys()
			if len(left) > 0 {
				t.Errorf("left after converging: %v", left)
			}
			return err
		case !errors.Is(err, unix.EOPNOTSUPP) || !strings.Contains(err.Error(), "this kernel has no WireGuard"):
			t.Errorf("error %v, want one that says that there is no WireGuard", err)
		}
		key, err := readWireGuardKey(wireGuardFolder(h.root))
		if key == (wgtypes.Key{}) {
			t.Error("no key was made")
		}
		return err
	})
}

// A link of the name that is none of WireGuard's is left alone.
func TestWireGuardNameTaken(t *testing.T) {
	newWireGuardSwitch(t)
	h := newWireGuardHost(t, inKernel, "a", 1)
	h.run(t, func() error {
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "wg0"}}); err != nil {
			return err
		}
		sys, _, apply, err := h.diff()
		if err != nil {
			return err
		}
		defer sys.Close()
		if err := apply(t.Context()); err == nil || !strings.Contains(err.Error(), "does not speak WireGuard") {
			t.Errorf("error %v, want one that names the link", err)
		}
		link, err := netlink.LinkByName("wg0")
		if err == nil && (link.Type() != "bridge" || link.Attrs().Flags&net.FlagUp != 0) {
			t.Errorf("the link became %+v", link)
		}
		return err
	})
}
