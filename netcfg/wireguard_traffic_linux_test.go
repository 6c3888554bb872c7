package netcfg

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// echo answers datagrams at an address of the host until the test ends.
func (h *wireGuardHost) echo(t *testing.T, at netip.AddrPort) {
	t.Helper()
	var server *net.UDPConn
	h.run(t, func() (err error) { server, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at)); return err })
	t.Cleanup(func() { server.Close() })
	go func() {
		buffer := make([]byte, 1500)
		for {
			n, from, err := server.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			_, _ = server.WriteToUDPAddrPort(buffer[:n], from)
		}
	}()
}

// dial opens a socket on the host, from an address of it or any.
func (h *wireGuardHost) dial(t *testing.T, from netip.Addr, to netip.AddrPort) *net.UDPConn {
	t.Helper()
	var local *net.UDPAddr
	if from.IsValid() {
		local = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	var client *net.UDPConn
	h.run(t, func() (err error) {
		client, err = net.DialUDP("udp4", local, net.UDPAddrFromAddrPort(to))
		return err
	})
	t.Cleanup(func() { client.Close() })
	return client
}

// answered tells whether an echo comes back within the limit.
func answered(client *net.UDPConn, limit time.Duration) bool {
	buffer, text := make([]byte, 100), fmt.Sprint(time.Now().UnixNano())
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		if _, err := client.Write([]byte(text)); err != nil {
			// Linux tells of a peer without a session at once.
			if !errors.Is(err, unix.ENOKEY) && !errors.Is(err, unix.EDESTADDRREQ) && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EHOSTUNREACH) {
				return false
			}
		}
		_ = client.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		for {
			n, err := client.Read(buffer)
			if err == nil && string(buffer[:n]) == text {
				return true
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
		}
	}
	return false
}

func (h *wireGuardHost) mesh() netip.Addr { return h.spec.Network.WireGuard.Address.Addr() }

// TestWireGuardTrafficGoesOn: while one peer changes in every way, the others'
// traffic loses nothing.
func TestWireGuardTrafficGoesOn(t *testing.T) {
	onEachWireGuard(t, func(t *testing.T, kind string) {
		a, b, c := newWireGuardHost(t, kind, "a", 1), newWireGuardHost(t, kind, "b", 2), newWireGuardHost(t, kind, "c", 3)
		for _, h := range []*wireGuardHost{a, b, c} {
			h.begin(t)
			h.converge(t)
		}
		declare(t, a, b, c)
		for _, h := range []*wireGuardHost{a, b, c} {
			h.converge(t)
		}
		to := netip.AddrPortFrom(b.mesh(), 7)
		b.echo(t, to)
		client := a.dial(t, netip.Addr{}, to)
		if !answered(client, 10*time.Second) {
			t.Fatal("no traffic to begin with")
		}

		stop, report := make(chan struct{}), make(chan [2]int)
		go constantTraffic(client, stop, report)
		psk := t.TempDir()
		a.spec.Network.WireGuard.PresharedKeys = psk
		changed := 0
		for i := range 40 {
			peer := &a.spec.Peers[1]
			if peer.Name != "c" {
				t.Fatalf("peer %q", peer.Name)
			}
			switch i % 4 {
			case 0:
				peer.WireGuard.Endpoint = fmt.Sprintf("192.0.2.3:%d", 40000+i)
			case 1:
				peer.WireGuard.Clients = []hosts.WireGuardClient{{Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, 0, byte(100 + i)}), 32)}}}
			case 2:
				writePreshared(t, filepath.Join(psk, "c.psk"))
			case 3: // gone, and back in the next round
				gone := *peer
				a.spec.Peers = a.spec.Peers[:1]
				changed += len(a.converge(t))
				a.spec.Peers = append(a.spec.Peers, gone)
			}
			changed += len(a.converge(t))
		}
		// The peer that the traffic is with gets one more address.
		a.spec.Peers[0].WireGuard.Clients = []hosts.WireGuardClient{{Addresses: firewallPrefixes("10.9.0.99/32")}}
		changed += len(a.converge(t))
		close(stop)
		sent := <-report
		if sent[1] != 0 {
			t.Errorf("%d of %d packets were lost while %d changes were made", sent[1], sent[0], changed)
		}
		if changed < 50 || sent[0] < 20 {
			t.Errorf("%d changes over %d packets prove nothing", changed, sent[0])
		}
		t.Logf("%d changes, %d packets, none lost", changed, sent[0])
	})
}

// constantTraffic sends numbered datagrams and reports how many it sent, and how
// many of them never came back.
func constantTraffic(client *net.UDPConn, stop <-chan struct{}, report chan<- [2]int) {
	const window = 64 // under way at most: a slow reader's full buffer is no lost packet
	var returned atomic.Uint32
	back := make(chan map[uint32]bool)
	go func() {
		seen, buffer := map[uint32]bool{}, make([]byte, 100)
		for {
			n, err := client.Read(buffer)
			if err != nil {
				back <- seen
				return
			}
			if n == 4 {
				seen[binary.BigEndian.Uint32(buffer)] = true
				returned.Store(uint32(len(seen)))
			}
		}
	}()
	_ = client.SetReadDeadline(time.Time{})
	ticker := time.NewTicker(500 * time.Microsecond)
	defer ticker.Stop()
	number := uint32(0)
	for running := true; running; {
		select {
		case <-stop:
			running = false
		case <-ticker.C:
			if number-returned.Load() >= window {
				continue
			}
			number++
			_, _ = client.Write(binary.BigEndian.AppendUint32(nil, number))
		}
	}
	_ = client.SetReadDeadline(time.Now().Add(2 * time.Second)) // what is under way
	seen := <-back
	report <- [2]int{int(number), int(number) - len(seen)}
}

func writePreshared(t *testing.T, path string) wgtypes.Key {
	t.Helper()
	key, err := wgtypes.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(key.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return key
}

// TestWireGuardHub: hosts a and b, a hub, and an administrator's laptop without
// nodeagent, which knows the hub alone. Everybody reaches everybody; so do the
// pods of the hosts.
func TestWireGuardHub(t *testing.T) {
	onEachWireGuard(t, func(t *testing.T, kind string) {
		a, b, hub := newWireGuardHost(t, kind, "a", 1), newWireGuardHost(t, kind, "b", 2), newWireGuardHost(t, kind, "hub", 3)
		laptop := newWireGuardHost(t, kind, "laptop", 4)
		all := []*wireGuardHost{a, b, hub}
		for _, h := range append(all, laptop) {
			h.begin(t)
			h.converge(t)
		}
		declare(t, all...)
		mobile := []hosts.WireGuardClient{{Name: "laptop", PublicKey: laptop.publicKey(t), Addresses: firewallPrefixes("10.9.0.4/32", "10.77.0.0/24")}}
		hub.spec.Network.WireGuard.Clients = mobile
		for i, h := range []*wireGuardHost{a, b} {
			h.peer("hub").WireGuard.Clients = mobile
			pods := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 0}), 24)
			h.spec.Kubernetes.HostPodRange = pods
			for _, other := range all {
				if other != h {
					other.peer(h.name).PodRange = pods
				}
			}
			h.run(t, func() error { addBridge(t, "pods0", netip.PrefixFrom(pods.Addr().Next(), 24).String()); return nil })
		}
		hub.run(t, func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) })
		for _, h := range all {
			h.converge(t)
		}
		laptop.carry(t, hub)

		pod := func(i byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 244, i, 1}) }
		home := netip.MustParseAddr("10.77.0.1")
		var none netip.Addr
		var echoed []netip.AddrPort // where somebody answers already
		for _, way := range []struct {
			name     string
			from, to *wireGuardHost
			source   netip.Addr
			target   netip.Addr
		}{
			{"host to host", a, b, none, b.mesh()},
			{"laptop to hub", laptop, hub, none, hub.mesh()},
			{"laptop to host", laptop, a, none, a.mesh()},
			{"host to laptop", b, laptop, none, laptop.mesh()},
			{"host to the network behind the laptop", a, laptop, none, home},
			{"laptop's network to host", laptop, b, home, b.mesh()},
			{"pod to pod", a, b, pod(0), pod(1)},
			{"pod to pod, back", b, a, pod(1), pod(0)},
		} {
			to := netip.AddrPortFrom(way.target, 7777)
			if !slices.Contains(echoed, to) {
				way.to.echo(t, to)
				echoed = append(echoed, to)
			}
			if !answered(way.from.dial(t, way.source, to), 15*time.Second) {
				t.Errorf("%s: no answer from %s", way.name, to)
			}
		}
		if t.Failed() {
			return
		}
		checkWithTool(t, a)
		killedPeer(t, a, b, pod(0), netip.AddrPortFrom(pod(1), 7777))
	})
}

func addBridge(t *testing.T, name string, addresses ...string) {
	t.Helper()
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
		t.Error(err)
		return
	}
	upWith(t, name, addresses...)
}

func (h *wireGuardHost) peer(name string) *hosts.Peer {
	i := slices.IndexFunc(h.spec.Peers, func(p hosts.Peer) bool { return p.Name == name })
	return &h.spec.Peers[i]
}

func (h *wireGuardHost) publicKey(t *testing.T) string {
	t.Helper()
	key, err := readWireGuardKey(wireGuardFolder(h.root))
	if err != nil {
		t.Fatal(err)
	}
	return key.PublicKey().String()
}

// carry configures a laptop by hand, as wg-quick does: one peer, the hub, for
// the whole mesh.
func (h *wireGuardHost) carry(t *testing.T, hub *wireGuardHost) {
	t.Helper()
	key, err := wgtypes.ParseKey(hub.publicKey(t))
	if err != nil {
		t.Fatal(err)
	}
	every := time.Second
	h.run(t, func() error {
		addBridge(t, "home0", "10.77.0.1/24")
		return configure(t.Context(), "wg0", wgtypes.Config{Peers: []wgtypes.PeerConfig{{
			PublicKey: key, Endpoint: net.UDPAddrFromAddrPort(netip.AddrPortFrom(hub.spec.Address, 51820)), PersistentKeepaliveInterval: &every,
			AllowedIPs: []net.IPNet{{IP: net.IP{10, 9, 0, 0}, Mask: net.CIDRMask(24, 32)}},
		}}})
	})
}

// checkWithTool compares what Observe sees with `wg show wg0 dump`.
func checkWithTool(t *testing.T, h *wireGuardHost) {
	t.Helper()
	tool, err := exec.LookPath("wg")
	if err != nil {
		if os.Getenv("CI") == "true" && os.Getenv("NODEAGENT_VM") != "1" {
			t.Fatal("wg of wireguard-tools is missing: make deps")
		}
		t.Log("not compared with wg: it is not installed")
		return
	}
	var out []byte
	h.run(t, func() (err error) { out, err = exec.Command(tool, "show", "wg0", "dump").Output(); return err })
	want := wantWireGuard(h.spec, h.root)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 1+len(want.Peers) {
		t.Fatalf("wg shows %d peers, want %d", len(lines)-1, len(want.Peers))
	}
	for _, p := range want.Peers {
		i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, p.PublicKey.String()+"\t") })
		if i < 0 {
			t.Fatalf("wg does not show %s", p.label())
		}
		// public key, preshared key, endpoint, allowed addresses, handshake, received, sent, keepalive
		fields := strings.Split(lines[i], "\t")
		allowed := strings.Split(fields[3], ",")
		slices.Sort(allowed)
		ours := strings.Split(join(p.AllowedIPs), ", ")
		slices.Sort(ours)
		if fields[1] != "(none)" || !slices.Equal(allowed, ours) || p.Endpoint != "" && fields[2] != p.Endpoint {
			t.Errorf("wg shows of %s: %s at %s; want %v at %s", p.label(), fields[3], fields[2], ours, p.Endpoint)
		}
	}
}

// killedPeer ends b's device: on a the routes to its pods stay, so that their
// packets go into the tunnel and nowhere else, and get no answer. When b is
// back, so is the traffic.
func killedPeer(t *testing.T, a, b *wireGuardHost, from netip.Addr, to netip.AddrPort) {
	t.Helper()
	if b.kind == inUserspace {
		_ = b.Stop(t.Context())
	} else {
		b.run(t, func() error {
			link, err := netlink.LinkByName("wg0")
			if err != nil {
				return err
			}
			return netlink.LinkDel(link)
		})
	}
	if changes := a.converge(t); len(changes) > 0 {
		t.Errorf("a peer that is gone changes the others: %v", changes)
	}
	a.run(t, func() error {
		routes, err := netlink.RouteGet(net.IP(to.Addr().AsSlice()))
		if err != nil {
			return err
		}
		link, err := netlink.LinkByIndex(routes[0].LinkIndex)
		if err == nil && link.Attrs().Name != "wg0" {
			err = fmt.Errorf("packets to %s leave by %s", to, link.Attrs().Name)
		}
		return err
	})
	if answered(a.dial(t, from, to), time.Second) {
		t.Error("a dead peer answers")
	}
	b.begin(t)
	b.converge(t)
	// The one that is back calls; the other would wait for its session's end.
	for _, way := range []struct {
		host     *wireGuardHost
		from, to netip.Addr
	}{{b, to.Addr(), from}, {a, from, to.Addr()}} {
		if !answered(way.host.dial(t, way.from, netip.AddrPortFrom(way.to, to.Port())), 20*time.Second) {
			t.Errorf("no traffic from %s with a peer that is back", way.host.name)
		}
	}
}

// TestWireGuardChoosesUserspace: the plan says that a program will serve the
// device, applying starts it, dropping the spec ends it.
func TestWireGuardChoosesUserspace(t *testing.T) {
	newWireGuardSwitch(t)
	if kernelMakesWireGuard(t) {
		t.Skip("this kernel has WireGuard: there is nothing to choose")
	}
	h := newWireGuardHost(t, inUserspace, "a", 1)
	t.Cleanup(func() { _ = h.Stop(context.Background()) })
	h.run(t, func() error {
		sys, _, apply, err := h.diff()
		if err != nil {
			return err
		}
		defer sys.Close()
		want := WantIn(h.root, h.spec)
		have, err := sys.Observe(t.Context(), want)
		if err != nil {
			return err
		}
		text := printed(Diff(have, want))
		if !strings.Contains(text, `"wireguard in userspace"`) || !strings.Contains(text, "this kernel has no WireGuard") {
			t.Errorf("the plan does not say userspace:\n%s", text)
		}
		if h.end != nil {
			t.Error("planning started the program")
		}
		return apply(t.Context())
	})
	if changes := h.converge(t); len(changes) > 0 {
		t.Errorf("changes after applying: %v", changes)
	}
	h.run(t, func() error {
		sys, _, _, err := h.diff()
		if err != nil {
			return err
		}
		defer sys.Close()
		warnings, err := sys.WireGuardWarnings(t.Context(), h.root, h.spec)
		if text := strings.Join(warnings, "\n"); !strings.Contains(text, "runs in userspace") {
			t.Errorf("warnings %q", text)
		}
		list, showErr := ShowWireGuard(h.spec)
		if len(list) != 1 || !list[0].Userspace || list[0].Interface != "wg0" || list[0].PublicKey != h.publicKey(t) {
			t.Errorf("shown: %+v", list)
		}
		return errors.Join(err, showErr)
	})
	h.spec.Network.WireGuard = nil
	if changes := h.converge(t); !slices.Equal(changes, []string{"delete wireguard wg0"}) || h.end != nil {
		t.Errorf("dropping made %v; the program still runs: %v", changes, h.end != nil)
	}
}

// TestWireGuardPreshared: a key's file is set, changed and taken away; a change
// that is undone leads back to the key that was.
func TestWireGuardPreshared(t *testing.T) {
	onEachWireGuard(t, func(t *testing.T, kind string) {
		a, b := newWireGuardHost(t, kind, "a", 1), newWireGuardHost(t, kind, "b", 2)
		shared := t.TempDir()
		for _, h := range []*wireGuardHost{a, b} {
			h.begin(t)
			h.converge(t)
			h.spec.Network.WireGuard.PresharedKeys = filepath.Join(shared, "of-"+h.name)
			if err := os.Mkdir(h.spec.Network.WireGuard.PresharedKeys, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		declare(t, a, b)
		ofB, ofA := filepath.Join(shared, "of-a", "b.psk"), filepath.Join(shared, "of-b", "a.psk")
		first := writePreshared(t, ofB)
		content, err := os.ReadFile(ofB)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(ofA, content, 0o600); err != nil {
			t.Fatal(err)
		}
		a.converge(t)
		b.converge(t)
		has := func(want wgtypes.Key) {
			t.Helper()
			if got := a.device(t).Peers[0].PresharedKey; got != want {
				t.Errorf("the device has another preshared key than the file (none: %v)", got == wgtypes.Key{})
			}
		}
		has(first)
		a.ping(t, b)

		back := a.undoable(t, func() { writePreshared(t, ofB) })
		if a.device(t).Peers[0].PresharedKey == first {
			t.Error("another key in the file changed nothing")
		}
		a.lead(t, back)
		has(first)
		back = a.undoable(t, func() { must(t, os.Remove(ofB)) })
		has(wgtypes.Key{})
		a.lead(t, back)
		has(first)
		back = a.undoable(t, func() { a.spec.Peers = nil })
		if len(a.device(t).Peers) != 0 {
			t.Error("the peer is still there")
		}
		a.lead(t, back)
		has(first)
		a.ping(t, b)
	})
}

// undoable changes something, applies it, and returns the way back that was
// found before.
func (h *wireGuardHost) undoable(t *testing.T, change func()) (back State) {
	t.Helper()
	change()
	h.run(t, func() error {
		sys, _, apply, err := h.diff()
		if err != nil {
			return err
		}
		defer sys.Close()
		want := WantIn(h.root, h.spec)
		have, err := sys.Before(t.Context(), h.root, want)
		if err != nil {
			return err
		}
		if back, err = Back(have, want); err != nil {
			return err
		}
		return apply(t.Context())
	})
	return stored(t, back)
}

// lead applies a way back; nothing may be left.
func (h *wireGuardHost) lead(t *testing.T, back State) {
	t.Helper()
	h.run(t, func() error {
		sys, _, _, err := h.diff()
		if err != nil {
			return err
		}
		defer sys.Close()
		for round := range 2 {
			have, err := sys.Observe(t.Context(), back)
			if err != nil {
				return err
			}
			changes := Diff(have, back)
			if round == 1 && len(changes) > 0 {
				return fmt.Errorf("left on the way back:\n%s", printed(changes))
			}
			if err := sys.Apply(t.Context(), changes, plan.Silent{}); err != nil {
				return err
			}
		}
		return nil
	})
}

// TestWireGuardDeadNames: names that nobody answers hold up an Apply once and
// briefly; everything else is made.
func TestWireGuardDeadNames(t *testing.T) {
	onEachWireGuard(t, func(t *testing.T, kind string) {
		h := newWireGuardHost(t, kind, "a", 1)
		h.begin(t)
		h.converge(t)
		h.names = func(ctx context.Context, _, _ string) ([]netip.Addr, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		for n := range byte(30) {
			h.spec.Peers = append(h.spec.Peers, hosts.Peer{Name: fmt.Sprint("p", n), WireGuard: &hosts.WireGuardPeer{
				Address: netip.AddrFrom4([4]byte{10, 9, 0, 100 + n}), PublicKey: wireGuardPublic(n).String(), Endpoint: fmt.Sprintf("p%d.example.:51820", n),
			}})
		}
		h.run(t, func() error {
			sys, _, apply, err := h.diff()
			if err != nil {
				return err
			}
			defer sys.Close()
			began := time.Now()
			err = apply(t.Context())
			// One after another they would take a minute.
			if took := time.Since(began); took > applyPatience+10*time.Second {
				t.Errorf("dead names held up the Apply for %s", took)
			}
			if err == nil || !strings.Contains(err.Error(), "p29.example.") {
				t.Errorf("error %v, want one that names each endpoint", err)
			}
			return nil
		})
		if n := len(h.device(t).Peers); n != 30 {
			t.Errorf("%d peers are configured, want all 30", n)
		}
	})
}

// TestWireGuardSilentPeer: a peer whose name leads elsewhere by now, and which is
// silent, is found again by its name.
func TestWireGuardSilentPeer(t *testing.T) {
	onEachWireGuard(t, func(t *testing.T, kind string) {
		a, b := newWireGuardHost(t, kind, "a", 1), newWireGuardHost(t, kind, "b", 2)
		for _, h := range []*wireGuardHost{a, b} {
			h.begin(t)
			h.converge(t)
		}
		declare(t, a, b)
		b.spec.Peers[0].WireGuard.Endpoint = "" // only a calls
		b.converge(t)
		a.spec.Network.WireGuard.Keepalive = time.Second
		a.spec.Peers[0].WireGuard.Endpoint = "b.example.:51820"
		address := make(chan netip.Addr, 1)
		address <- netip.MustParseAddr("192.0.2.77")
		a.names = func(context.Context, string, string) ([]netip.Addr, error) {
			now := <-address
			address <- now
			return []netip.Addr{now}, nil
		}
		a.run(t, func() error {
			sys, _, apply, err := a.diff()
			if err != nil {
				return err
			}
			defer sys.Close()
			if err := apply(t.Context()); err != nil {
				return err
			}
			<-address
			address <- b.spec.Address
			// The answer that the Apply got has grown old.
			sys.names.mu.Lock()
			sys.names.answers["b.example."].at = time.Now().Add(-lookupFresh)
			sys.names.mu.Unlock()
			return findAgain(t, sys, WantIn(a.root, a.spec))
		})
		a.ping(t, b)
		if changes := a.converge(t); len(changes) > 0 {
			t.Errorf("a peer that was found again is a difference: %v", changes)
		}
	})
}

// findAgain looks as the daemon does: now and then, and when a name is news.
func findAgain(t *testing.T, sys *System, want State) error {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	news := make(chan struct{}, 1)
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		sys.FollowNames(ctx, func() { news <- struct{}{} })
	}()
	defer func() { cancel(); <-followed }()
	// Before anybody follows nothing is asked: look until it is.
	for {
		have, err := sys.Observe(ctx, want)
		if err != nil {
			return err
		}
		if changes := Diff(have, want); len(changes) > 0 {
			if len(changes) != 1 || !strings.Contains(changes[0].Reason, "silent") || changes[0].Effect != plan.Quiet {
				t.Errorf("changes\n%s", printed(changes))
			}
			return sys.Apply(ctx, changes, plan.Silent{})
		}
		select {
		case <-news:
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return errors.New("the new address was never noticed")
		}
	}
}
