package netcfg

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
)

// firewallRouter is a host between a stranger and a pod of its own: stranger
// 192.0.2.2 and .3, host 192.0.2.1 and 10.244.0.1, pod 10.244.0.2.
type firewallRouter struct{ host, stranger, pod firewallPair }

func newFirewallRouter(t testing.TB) firewallRouter {
	t.Helper()
	p := newFirewallPair(t)
	host, err := netns.Get()
	must(t, err)
	t.Cleanup(func() { host.Close() })
	pod, err := netns.New() // and enters it
	must(t, err)
	t.Cleanup(func() { pod.Close() })
	must(t, netns.Set(host))
	r := firewallRouter{firewallPair{host}, p, firewallPair{pod}}
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(pod)}))
	upWith(t, "cni0", "10.244.0.1/24")
	must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	r.pod.atStranger(t, func() {
		upWith(t, "eth0", "10.244.0.2/24")
		routeBy(t, "10.244.0.1")
	})
	r.stranger.atStranger(t, func() {
		upWith(t, "far0", "192.0.2.3/24")
		routeBy(t, "192.0.2.1")
	})
	return r
}

func routeBy(t testing.TB, gateway string) {
	if err := netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Gw: netip.MustParseAddr(gateway).AsSlice()}); err != nil {
		t.Error(err)
	}
}

// udp opens a socket in the namespace, bound to address and port.
func (p firewallPair) udp(t testing.TB, bind string) int {
	t.Helper()
	at := netip.MustParseAddrPort(bind)
	fd := -1
	p.atStranger(t, func() {
		var err error
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// sendPacket sends one packet from one socket.
func sendPacket(t testing.TB, from int, to string) {
	t.Helper()
	at := netip.MustParseAddrPort(to)
	must(t, unix.Sendto(from, []byte("hello"), 0, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}))
}

// receivePacket returns where the next packet comes from, the zero value if none
// comes: one that is expected has time, one that is not has little.
func receivePacket(t testing.TB, fd int, expected bool) netip.AddrPort {
	t.Helper()
	wait := unix.NsecToTimeval((300 * time.Millisecond).Nanoseconds())
	if expected {
		wait = unix.Timeval{Sec: 5}
	}
	must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait))
	_, from, err := unix.Recvfrom(fd, make([]byte, 100), 0)
	if err != nil {
		return netip.AddrPort{}
	}
	sa := from.(*unix.SockaddrInet4)
	return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
}

func routerSpec(edit func(*hosts.Firewall)) *hosts.Spec {
	s := &hosts.Spec{
		Roles:      []hosts.Role{hosts.RoleWorker},
		Firewall:   hosts.Firewall{Enabled: true, Forward: &hosts.Forward{}},
		Kubernetes: hosts.Kubernetes{PodRange: netip.MustParsePrefix("10.244.0.0/16")},
	}
	if edit != nil {
		edit(&s.Firewall)
	}
	return s
}

func TestFirewallForwards(t *testing.T) {
	r := newFirewallRouter(t)
	atPod, atStranger := r.pod.udp(t, "0.0.0.0:80"), r.stranger.udp(t, "0.0.0.0:53")
	peer := routerSpec(nil)
	peer.Peers = []hosts.Peer{{Name: "b", Address: netip.MustParseAddr("192.0.2.2")}}
	allow := func(a hosts.ForwardAllow) *hosts.Spec {
		return routerSpec(func(f *hosts.Firewall) { f.Forward.Allow = []hosts.ForwardAllow{a} })
	}
	for name, tc := range map[string]struct {
		spec  *hosts.Spec
		toPod bool
	}{
		"no policy":       {routerSpec(func(f *hosts.Firewall) { f.Forward = nil }), true},
		"default":         {routerSpec(nil), false},
		"a host of ours":  {peer, true},
		"allowed":         {allow(hosts.ForwardAllow{Name: "web", Protocol: "udp", Ports: []uint16{80}, To: firewallPrefixes("10.244.0.0/24")}), true},
		"by link":         {allow(hosts.ForwardAllow{Name: "web", Inbound: []string{"lan0"}, Outbound: []string{"cni0"}}), true},
		"other port":      {allow(hosts.ForwardAllow{Name: "web", Protocol: "udp", Ports: []uint16{81}}), false},
		"other protocol":  {allow(hosts.ForwardAllow{Name: "web", Protocol: "tcp", Ports: []uint16{80}}), false},
		"ports of any":    {allow(hosts.ForwardAllow{Name: "web", Ports: []uint16{80}}), true},
		"other direction": {allow(hosts.ForwardAllow{Name: "web", Inbound: []string{"cni0"}}), false},
		"other source":    {allow(hosts.ForwardAllow{Name: "web", From: firewallPrefixes("192.0.2.128/25", "2001:db8::/32")}), false},
		"other target":    {allow(hosts.ForwardAllow{Name: "web", To: firewallPrefixes("10.244.7.0/24")}), false},
	} {
		convergeFirewall(t, wantFirewall(tc.spec))
		stranger := r.stranger.udp(t, "192.0.2.2:0") // a flow of its own
		sendPacket(t, stranger, "10.244.0.2:80")
		if got := receivePacket(t, atPod, tc.toPod); got.IsValid() != tc.toPod {
			t.Errorf("%s: reached the pod: %v, want %v", name, got.IsValid(), tc.toPod)
		}
		// What a pod begins passes, and the answer to it.
		pod := r.pod.udp(t, "0.0.0.0:0")
		sendPacket(t, pod, "192.0.2.2:53")
		from := receivePacket(t, atStranger, true)
		if !from.IsValid() {
			t.Errorf("%s: a pod's packet was dropped", name)
			continue
		}
		sendPacket(t, atStranger, from.String())
		if !receivePacket(t, pod, true).IsValid() {
			t.Errorf("%s: the answer to a pod was dropped", name)
		}
	}
}

// A connection whose destination another table has rewritten, as kube-proxy
// does for Services, passes to the pod.
func TestFirewallForwardsServices(t *testing.T) {
	r := newFirewallRouter(t)
	atPod := r.pod.udp(t, "0.0.0.0:80")
	convergeFirewall(t, wantFirewall(routerSpec(nil)))
	conn, err := nftables.New()
	must(t, err)
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "kube-proxy"})
	chain := conn.AddChain(&nftables.Chain{
		Name: "services", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(30080)},
		&expr.Immediate{Register: 1, Data: []byte{10, 244, 0, 2}}, &expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(80)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
	}})
	must(t, conn.Flush())
	sendPacket(t, r.stranger.udp(t, "192.0.2.2:0"), "10.244.0.2:80")
	if receivePacket(t, atPod, false).IsValid() {
		t.Error("a stranger reaches the pod's own address")
	}
	sendPacket(t, r.stranger.udp(t, "192.0.2.2:0"), "192.0.2.1:30080")
	if !receivePacket(t, atPod, true).IsValid() {
		t.Error("a stranger does not reach the service")
	}
}

// A pod's packets leave with the host's address, except to where pods and hosts
// of the fleet see the pod's own. Without [firewall] too.
func TestFirewallMasquerades(t *testing.T) {
	r := newFirewallRouter(t)
	atStranger := r.stranger.udp(t, "0.0.0.0:53")
	pods := hosts.Masquerade{Name: "pods", From: firewallPrefixes("10.244.0.0/16"), Except: firewallPrefixes("10.244.0.0/16", "192.0.2.3/32")}
	for _, enabled := range []bool{false, true} {
		spec := routerSpec(func(f *hosts.Firewall) {
			f.Enabled = enabled
			f.Masquerade = []hosts.Masquerade{pods}
		})
		want := wantFirewall(spec)
		if !enabled && len(want.chains()) != 1 {
			t.Fatalf("without [firewall] it has %v", want)
		}
		convergeFirewall(t, want)
		for to, source := range map[string]string{"192.0.2.2:53": "192.0.2.1", "192.0.2.3:53": "10.244.0.2"} {
			pod := r.pod.udp(t, "0.0.0.0:0")
			sendPacket(t, pod, to)
			if got := receivePacket(t, atStranger, true); got.Addr().String() != source {
				t.Errorf("firewall %v: %s sees the pod as %v, want %s", enabled, to, got, source)
			}
		}
	}
	convergeFirewall(t, nil)
	sendPacket(t, r.pod.udp(t, "0.0.0.0:0"), "192.0.2.2:53")
	if got := receivePacket(t, atStranger, true); got.Addr().String() != "10.244.0.2" {
		t.Errorf("without masquerading the pod is seen as %v", got)
	}
}

// Of a burst so many new connections pass as the limit says, of each source
// where it says so, and a change of another rule gives nobody new ones.
func TestFirewallLimits(t *testing.T) {
	r := newFirewallRouter(t)
	received := listenUDP(t, 53)
	passes := func(source string) int64 {
		t.Helper()
		before := received()
		for range 20 {
			sendPacket(t, r.stranger.udp(t, source+":0"), "192.0.2.1:53")
		}
		// ARP may hold back the first: one more that is surely let in comes last.
		receivePacket(t, r.stranger.udp(t, source+":0"), false)
		return received() - before
	}
	firewall := func(limit *hosts.Limit, more ...hosts.Allow) *Firewall {
		return packetFirewall(append(more, hosts.Allow{Name: "dns", Protocol: "udp", Ports: []uint16{53}, Limit: limit})...)
	}
	other := hosts.Allow{Name: "another", Protocol: "tcp", Ports: []uint16{99}}
	expect := func(what, source string, want int64) {
		t.Helper()
		if got := passes(source); got != want {
			t.Errorf("%s: %d of 20 packets from %s passed, want %d", what, got, source, want)
		}
	}
	convergeFirewall(t, firewall(nil))
	expect("no limit", "192.0.2.2", 20)
	total := &hosts.Limit{Count: 1, Per: time.Hour, Burst: 4}
	convergeFirewall(t, firewall(total))
	expect("limit", "192.0.2.2", 4)
	expect("limit", "192.0.2.3", 0)
	convergeFirewall(t, firewall(total, other))
	expect("limit after another rule changed", "192.0.2.3", 0)

	each := &hosts.Limit{Count: 1, Per: time.Hour, Burst: 3, BySource: true}
	convergeFirewall(t, firewall(each))
	expect("limit by source", "192.0.2.2", 3)
	expect("limit by source", "192.0.2.3", 3)
	convergeFirewall(t, firewall(each, other))
	expect("limit by source after another rule changed", "192.0.2.2", 0)
	wider := *each
	wider.Burst = 5
	convergeFirewall(t, firewall(&wider, other))
	expect("another limit by source", "192.0.2.2", 5)
	convergeFirewall(t, firewall(nil))
	expect("no limit any more", "192.0.2.2", 20)
}

// What a rule has counted stays: when another one changes, when it changes
// itself, and when the table must be made anew.
func TestFirewallCountersSurvive(t *testing.T) {
	p := newFirewallPair(t)
	received := listenUDP(t, 53)
	dns := hosts.Allow{Name: "dns", Protocol: "udp", Ports: []uint16{53}}
	convergeFirewall(t, packetFirewall(dns))
	const packets, bytes = 7, 7 * (20 + 8 + 5)
	for range packets {
		sendPacket(t, p.udp(t, "192.0.2.2:0"), "192.0.2.1:53")
	}
	eventually(t, "the packets", func() bool { return received() == packets })
	sendPacket(t, p.udp(t, "192.0.2.2:0"), "192.0.2.1:54") // counted as dropped
	counted := func(chain, rule string) Counter {
		t.Helper()
		have, err := readTable(t.Context())
		must(t, err)
		return have.counted()[[2]string{chain, rule}]
	}
	check := func(when string) {
		t.Helper()
		if got := counted(inputChain, "dns"); got != (Counter{packets, bytes}) {
			t.Errorf("%s: dns counts %+v, want %d packets of %d bytes", when, got, packets, bytes)
		}
		if got := counted(inputChain, restName); got.Packets == 0 {
			t.Errorf("%s: what was dropped is forgotten", when)
		}
	}
	check("at first")
	web := hosts.Allow{Name: "web", Protocol: "tcp", Ports: []uint16{80}}
	convergeFirewall(t, packetFirewall(web, dns))
	check("a rule in front")
	convergeFirewall(t, packetFirewall(dns, web))
	check("another order")
	dns.Ports = []uint16{53, 5353}
	convergeFirewall(t, packetFirewall(dns))
	check("its own ports")
	spec := &hosts.Spec{Firewall: hosts.Firewall{Enabled: true, Forward: &hosts.Forward{}, Allow: []hosts.Allow{dns}}}
	convergeFirewall(t, wantFirewall(spec))
	check("a chain more")
	addChainOfOthers(t)
	convergeFirewall(t, wantFirewall(spec))
	check("the table made anew")
}
