package netcfg

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
)

// firewallPair is the test's own namespace, the host, joined by a veth to
// another one, the stranger's: host 192.0.2.1 and 2001:db8::1, stranger .2 and
// ::2.
type firewallPair struct{ stranger netns.NsHandle }

func newFirewallPair(t testing.TB) firewallPair {
	t.Helper()
	newNamespace(t)
	host, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	stranger, err := netns.New() // and enters it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stranger.Close() })
	if err := netns.Set(host); err != nil {
		t.Fatal(err)
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lan0"}, PeerName: "far0", PeerNamespace: netlink.NsFd(stranger)}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	p := firewallPair{stranger}
	upWith(t, "lan0", "192.0.2.1/24", "2001:db8::1/64")
	p.atStranger(t, func() { upWith(t, "far0", "192.0.2.2/24", "2001:db8::2/64") })
	return p
}

func upWith(t testing.TB, name string, addresses ...string) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Error(err)
		return
	}
	for _, a := range addresses {
		address, err := netlink.ParseAddr(a)
		if err != nil {
			t.Error(err)
			return
		}
		address.Flags = unix.IFA_F_NODAD // usable at once
		if err := netlink.AddrAdd(link, address); err != nil {
			t.Errorf("add %s to %s: %v", a, name, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Error(err)
	}
}

// atStranger runs f in the stranger's namespace. Sockets opened there stay in
// it.
func (p firewallPair) atStranger(t testing.TB, f func()) {
	t.Helper()
	done := make(chan error)
	go func() { done <- p.enter(f) }()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// enter runs f on the calling goroutine, which must end with it: its thread
// stays in the stranger's namespace.
func (p firewallPair) enter(f func()) error {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if err := netns.Set(p.stranger); err != nil {
		return err
	}
	f()
	return nil
}

// listen serves echo on the host until the test ends.
func firewallListen(t testing.TB, port int) {
	t.Helper()
	// The host's thread must make the socket: no helper goroutines in between.
	l, err := net.Listen("tcp", fmt.Sprintf("[::]:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
}

// reaches tells whether a connection from the stranger is accepted. A dropped
// packet leaves it waiting, a refused one does not. What is to be reached has
// time for lost packets on a busy machine, what is not has time for one.
func (p firewallPair) reaches(t testing.TB, address string, expected bool) bool {
	t.Helper()
	timeout := 1200 * time.Millisecond
	if expected {
		timeout = 10 * time.Second
	}
	conn, err := p.dial(t, address, timeout)
	if err == nil {
		conn.Close()
		return true
	}
	var late net.Error
	if !errors.As(err, &late) || !late.Timeout() {
		t.Errorf("%s: %v, want a connection or silence", address, err)
	}
	return false
}

// dial makes the connection by hand: net.Dial may leave the thread, and with it
// the namespace, to try addresses side by side.
func (p firewallPair) dial(t testing.TB, address string, timeout time.Duration) (conn net.Conn, err error) {
	t.Helper()
	to := netip.MustParseAddrPort(address)
	p.atStranger(t, func() {
		family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
		if to.Addr().Is4() {
			family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
		}
		var fd int
		if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		file := os.NewFile(uintptr(fd), address)
		defer file.Close()
		wait := unix.NsecToTimeval(timeout.Nanoseconds())
		if err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait); err != nil {
			return
		}
		if err = unix.Connect(fd, sa); err != nil {
			if errors.Is(err, unix.EINPROGRESS) {
				err = os.ErrDeadlineExceeded
			}
			return
		}
		conn, err = net.FileConn(file)
	})
	return conn, err
}

func packetFirewall(allow ...hosts.Allow) *Firewall {
	return wantFirewall(&hosts.Spec{Firewall: hosts.Firewall{Enabled: true, Allow: allow}})
}

func echo(t testing.TB, conn net.Conn, text string) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("echo %q: %q, %v", text, got, err)
	}
}

func TestFirewallPorts(t *testing.T) {
	p := newFirewallPair(t)
	for _, port := range []int{22, 80, 443, 8080, 30001} {
		firewallListen(t, port)
	}
	for _, to := range []string{"192.0.2.1:8080", "[2001:db8::1]:8080"} {
		if !p.reaches(t, to, true) {
			t.Fatalf("%s is not reached before there is a firewall", to)
		}
	}
	nodePorts := make([]uint16, 0, 2768)
	for port := 30000; port <= 32767; port++ {
		nodePorts = append(nodePorts, uint16(port))
	}
	convergeFirewall(t, packetFirewall(
		hosts.Allow{Name: "ssh", Protocol: "tcp", Ports: []uint16{22}, From: firewallPrefixes("192.0.2.0/24", "198.51.100.0/24")},
		hosts.Allow{Name: "web", Protocol: "tcp", Ports: []uint16{80, 443}},
		hosts.Allow{Name: "elsewhere", Protocol: "tcp", Ports: []uint16{8080}, Interfaces: []string{"wan0"}},
		hosts.Allow{Name: "nodes", Protocol: "tcp", Ports: nodePorts, From: firewallPrefixes("2001:db8::/32"), Interfaces: []string{"lan0"}},
		hosts.Allow{Name: "not tcp", Protocol: "udp", Ports: []uint16{8080}},
	))
	for to, want := range map[string]bool{
		"192.0.2.1:22": true, "[2001:db8::1]:22": false, // of the other family
		"192.0.2.1:80": true, "192.0.2.1:443": true, "[2001:db8::1]:443": true,
		"192.0.2.1:8080": false, "[2001:db8::1]:8080": false, // another interface, another protocol
		"[2001:db8::1]:30001": true, "192.0.2.1:30001": false,
	} {
		if got := p.reaches(t, to, want); got != want {
			t.Errorf("%s reached: %v, want %v", to, got, want)
		}
	}
	// Loopback, and what the host itself begins, pass.
	if conn, err := net.DialTimeout("tcp", "127.0.0.1:8080", time.Second); err != nil {
		t.Errorf("loopback: %v", err)
	} else {
		conn.Close()
	}
	convergeFirewall(t, nil)
	if !p.reaches(t, "192.0.2.1:8080", true) {
		t.Error("without the firewall 8080 is still closed")
	}
}

// A connection that stands goes on when the table is replaced, by one with the
// same rules or by one that would not let it begin again.
func TestFirewallConnectionsSurvive(t *testing.T) {
	p := newFirewallPair(t)
	firewallListen(t, 80)
	convergeFirewall(t, packetFirewall(hosts.Allow{Name: "web", Protocol: "tcp", Ports: []uint16{80}}))
	conn, err := p.dial(t, "192.0.2.1:80", 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	echo(t, conn, "before")
	convergeFirewall(t, packetFirewall(
		hosts.Allow{Name: "web", Protocol: "tcp", Ports: []uint16{80}}, hosts.Allow{Name: "ssh", Protocol: "tcp", Ports: []uint16{22}}))
	echo(t, conn, "more rules")
	convergeFirewall(t, packetFirewall())
	echo(t, conn, "no longer allowed")
	if p.reaches(t, "192.0.2.1:80", false) {
		t.Error("a new connection is accepted")
	}
}

// While the table is changed over and over no packet gets past it: not when
// rules are edited, and not when the whole table must be made anew because
// somebody put a chain into it. A table that is deleted and made anew in one
// transaction does have a gap, of some microseconds, between the end of the old
// chain's hook and the new one's policy, which is why its last rule drops.
func TestFirewallHasNoGap(t *testing.T) {
	for name, spoil := range map[string]func(*testing.T){"edited": nil, "made anew": addChainOfOthers} {
		t.Run(name, func(t *testing.T) {
			p := newFirewallPair(t)
			received := listenUDP(t, 80)
			closed := packetFirewall(hosts.Allow{Name: "ssh", Protocol: "tcp", Ports: []uint16{22}})
			convergeFirewall(t, packetFirewall(hosts.Allow{Name: "open", Protocol: "udp", Ports: []uint16{80}}))
			flood := p.floodUDP(t, 80)
			eventually(t, "packets to pass while the port is open", func() bool { return received() > 0 })
			convergeFirewall(t, closed)
			// What was accepted before is read by now.
			sent := flood.sent.Load()
			eventually(t, "packets after the port was closed", func() bool { return flood.sent.Load() > sent+1000 })
			before, sent := received(), flood.sent.Load()
			for i := range 50 {
				want := closed
				if i%2 == 0 {
					want = packetFirewall(hosts.Allow{Name: "dns", Protocol: "udp", Ports: []uint16{53}})
				}
				if spoil != nil {
					spoil(t)
				}
				convergeFirewall(t, want)
			}
			if n := received() - before; n > 0 {
				t.Errorf("%d of %d packets got through", n, flood.sent.Load()-sent)
			}
			t.Logf("%d packets sent", flood.sent.Load()-sent)
			if flood.sent.Load()-sent < 10000 {
				t.Fatalf("only %d packets were sent", flood.sent.Load()-sent)
			}
		})
	}
}

func addChainOfOthers(t *testing.T) {
	t.Helper()
	conn, err := nftables.New()
	must(t, err)
	conn.AddChain(&nftables.Chain{Name: "others", Table: &nftables.Table{Family: nftables.TableFamilyINet, Name: FirewallTable}})
	must(t, conn.Flush())
}

// listenUDP counts the packets that come to the port until the test ends.
func listenUDP(t testing.TB, port int) (received func() int64) {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{Port: port})
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	var count atomic.Int64
	go func() {
		buffer := make([]byte, 2048)
		for {
			if _, _, err := conn.ReadFromUDP(buffer); err != nil {
				return
			}
			count.Add(1)
		}
	}()
	return count.Load
}

type flood struct{ sent atomic.Int64 }

// floodUDP sends packets to the port as fast as it can until the test ends,
// each of a flow of its own: a flow that was accepted once is established.
func (p firewallPair) floodUDP(t testing.TB, port int) *flood {
	f, ctx := &flood{}, t.Context()
	ended := make(chan error, 1)
	go func() {
		ended <- p.enter(func() {
			to := &unix.SockaddrInet4{Port: port, Addr: [4]byte{192, 0, 2, 1}}
			for ctx.Err() == nil {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return
				}
				for range 4 {
					if unix.Sendto(fd, []byte("x"), 0, to) == nil {
						f.sent.Add(1)
					}
				}
				unix.Close(fd)
			}
		})
	}()
	t.Cleanup(func() {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return f
}

// A router's message that a packet was too big reaches the host: without it
// connections through tunnels hang. The message is about a flow that conntrack
// does not know, so that it is not let in as "related".
func TestFirewallPathMTU(t *testing.T) {
	p := newFirewallPair(t)
	convergeFirewall(t, packetFirewall())
	mtu := func() int {
		routes, err := netlink.RouteGet(net.ParseIP("192.0.2.2"))
		if err != nil || len(routes) != 1 {
			t.Fatalf("routes %v, %v", routes, err)
		}
		return routes[0].MTU
	}
	tooBig := func() {
		p.atStranger(t, func() {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
			if err != nil {
				t.Error(err)
				return
			}
			defer unix.Close(fd)
			if err := unix.Sendto(fd, icmpTooBig(1400), 0, &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 1}}); err != nil {
				t.Error(err)
			}
		})
	}
	// The kernel honours the message when it has a socket for the flow.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO))
	must(unix.Bind(fd, &unix.SockaddrInet4{Port: 4000, Addr: [4]byte{192, 0, 2, 1}}))
	must(unix.Connect(fd, &unix.SockaddrInet4{Port: 5000, Addr: [4]byte{192, 0, 2, 2}}))

	// First without the rule, to know that the test sees the difference.
	bare := packetFirewall()
	bare.Rules = slices.DeleteFunc(bare.Rules, func(r FirewallRule) bool { return r.Name == "icmp errors" })
	convergeFirewall(t, bare)
	tooBig()
	if p.reaches(t, "192.0.2.1:9", false) || mtu() == 1400 {
		t.Fatal("the message passed without the rule: this test proves nothing")
	}
	convergeFirewall(t, packetFirewall())
	tooBig()
	eventually(t, "the path MTU to be 1400", func() bool { return mtu() == 1400 })
}

// icmpTooBig is an ICMP message of type 3, code 4 (RFC 1191) about a UDP packet
// from 192.0.2.1 port 4000 to 192.0.2.2 port 5000.
func icmpTooBig(mtu uint16) []byte {
	var udp []byte
	for _, v := range []uint16{4000, 5000, 1480, 0} {
		udp = binary.BigEndian.AppendUint16(udp, v)
	}
	ip := []byte{0x45, 0, 5, 220, 0, 1, 0x40, 0, 64, unix.IPPROTO_UDP, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2}
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	m := []byte{3, 4, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}
	m = append(append(m, ip...), udp...)
	binary.BigEndian.PutUint16(m[2:], checksum(m))
	return m
}

// checksum is the Internet checksum (RFC 1071) of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-deadline:
			t.Fatalf("waited 10 s for %s", what)
		case <-tick.C:
		}
	}
}

// IPv6 finds its neighbours through the firewall, and without the rule for it
// does not: the rule is what does it.
func TestFirewallNeighbourDiscovery(t *testing.T) {
	p := newFirewallPair(t)
	firewallListen(t, 80)
	f := packetFirewall(hosts.Allow{Name: "web", Protocol: "tcp", Ports: []uint16{80}})
	forget := func() {
		flush := func() {
			neighbours, err := netlink.NeighList(0, netlink.FAMILY_V6)
			if err != nil {
				t.Error(err)
			}
			for _, n := range neighbours {
				// One that went by itself meanwhile is as good.
				if err := netlink.NeighDel(&n); err != nil && !errors.Is(err, syscall.ENOENT) {
					t.Error(err)
				}
			}
		}
		flush()
		p.atStranger(t, flush)
	}
	convergeFirewall(t, f)
	forget()
	if !p.reaches(t, "[2001:db8::1]:80", true) {
		t.Error("not reached over IPv6")
	}
	bare := &Firewall{Base: f.Base, Rules: slices.DeleteFunc(slices.Clone(f.Rules), func(r FirewallRule) bool { return r.Name == "neighbour discovery" })}
	convergeFirewall(t, bare)
	forget()
	if p.reaches(t, "[2001:db8::1]:80", false) {
		t.Error("reached without the rule: this test proves nothing")
	}
}

// A ping is answered, over IPv4 and IPv6.
func TestFirewallPing(t *testing.T) {
	p := newFirewallPair(t)
	convergeFirewall(t, packetFirewall())
	for name, try := range map[string]struct {
		family, protocol int
		request          []byte
		to               unix.Sockaddr
	}{
		"IPv4": {unix.AF_INET, unix.IPPROTO_ICMP, []byte{8, 0, 0xe5, 0xcb, 0x12, 0x34, 0, 0}, &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 1}}},
		// The kernel fills in ICMPv6's checksum.
		"IPv6": {unix.AF_INET6, unix.IPPROTO_ICMPV6, []byte{128, 0, 0, 0, 0x12, 0x34, 0, 0}, &unix.SockaddrInet6{Addr: netip.MustParseAddr("2001:db8::1").As16()}},
	} {
		p.atStranger(t, func() {
			fd, err := unix.Socket(try.family, unix.SOCK_RAW, try.protocol)
			if err != nil {
				t.Error(err)
				return
			}
			defer unix.Close(fd)
			wait := unix.Timeval{Sec: 5}
			if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
				t.Error(err)
			}
			if err := unix.Sendto(fd, try.request, 0, try.to); err != nil {
				t.Error(err)
			}
			buffer := make([]byte, 1500)
			for { // past what the neighbours say to each other
				n, _, err := unix.Recvfrom(fd, buffer, 0)
				if err != nil {
					t.Errorf("%s: no answer: %v", name, err)
					return
				}
				if bytes.HasSuffix(buffer[:n], try.request[4:]) && (buffer[0] == 129 || try.family == unix.AF_INET && buffer[20] == 0) {
					return
				}
			}
		})
	}
}
