package netcfg

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// reachWorld is a host joined by two links, lan0 and lan1, to one stranger, who
// has an address on each, and behind whom there are further ones: 203.0.113.7
// and .8. What somebody else configured of the host is its foreign part.
type reachWorld struct {
	host, stranger netns.NsHandle
}

var reachAddresses = struct{ host, remote []string }{
	host:   []string{"192.0.2.1/24", "192.0.2.11/24", "198.51.100.1/24", "198.51.100.11/25", "10.0.0.1/32"},
	remote: []string{"192.0.2.2", "198.51.100.2", "203.0.113.7", "203.0.113.8", "192.0.2.130"},
}

func newReachWorld(t *testing.T) reachWorld {
	t.Helper()
	newNamespace(t)
	host, err := netns.Get()
	must(t, err)
	stranger, err := netns.New()
	must(t, err)
	must(t, netns.Set(host))
	w := reachWorld{host, stranger}
	for i, name := range []string{"lan0", "lan1"} {
		far := fmt.Sprintf("far%d", i)
		must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: far, PeerNamespace: netlink.NsFd(stranger)}))
		must(t, netlink.LinkSetUp(linkNamed(t, name)))
	}
	w.away(t, func() {
		upWith(t, "lo", "203.0.113.7/32", "203.0.113.8/32")
		upWith(t, "far0", "192.0.2.2/24", "192.0.2.130/24")
		upWith(t, "far1", "198.51.100.2/24")
		somebodysRoute(t, "far1", "10.0.0.1/32", "", 0, unix.RTPROT_STATIC)
		// The stranger takes packets from wherever they come.
		for _, link := range []string{"all", "far0", "far1"} {
			must(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+link+"/rp_filter", []byte("0"), 0))
		}
	})
	return w
}

func (w reachWorld) close() { _ = errors.Join(w.stranger.Close(), w.host.Close()) }

// away runs f in the stranger's namespace, on this very thread.
func (w reachWorld) away(t *testing.T, f func()) {
	t.Helper()
	must(t, netns.Set(w.stranger))
	defer func() { must(t, netns.Set(w.host)) }()
	f()
}

// dialPlain begins a TCP connection by a plain socket, which belongs to the
// thread's namespace; -1 where it fails at once.
func dialPlain(t *testing.T, from netip.Addr, to netip.AddrPort) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	if from.IsValid() {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: from.As4()})
	}
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	}
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		unix.Close(fd)
		return -1
	}
	return fd
}

// work tells which of the ways a connection can be made, all at once. What
// answers at all answers soon: both ends are in this kernel.
func (w reachWorld) work(t *testing.T, ways []Way) map[string]bool {
	t.Helper()
	var sockets []unix.PollFd
	var names []string
	dial := func(inbound bool) {
		for _, way := range ways {
			if way.Inbound != inbound {
				continue
			}
			from, to := netip.Addr{}, way.Remote
			if inbound {
				from, to = way.Remote.Addr(), way.Local
			}
			if fd := dialPlain(t, from, to); fd >= 0 {
				sockets, names = append(sockets, unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT}), append(names, way.Name)
			}
		}
	}
	dial(false)
	w.away(t, func() { dial(true) })
	done := map[string]bool{}
	for deadline := time.Now().Add(30 * time.Millisecond); len(sockets) > 0; {
		n, err := unix.Poll(sockets, int(time.Until(deadline).Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
		late := n <= 0 && !time.Now().Before(deadline)
		for i := len(sockets) - 1; i >= 0; i-- {
			fd := int(sockets[i].Fd)
			if sockets[i].Revents != 0 {
				failed, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
				done[names[i]] = err == nil && failed == 0
			} else if !late {
				continue
			}
			unix.Close(fd)
			sockets, names = slices.Delete(sockets, i, i+1), slices.Delete(names, i, i+1)
		}
	}
	return done
}

// listenPlain opens a listening socket in the thread's namespace.
func listenPlain(t *testing.T, port int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	must(t, unix.Bind(fd, &unix.SockaddrInet4{Port: port}))
	must(t, unix.Listen(fd, 64))
}

// randomForeign configures the host as somebody else might have.
func (w reachWorld) randomForeign(t *testing.T, r *rand.Rand) {
	t.Helper()
	add := func(link, address string) {
		a, err := netlink.ParseAddr(address)
		must(t, err)
		if err := netlink.AddrAdd(linkNamed(t, link), a); err != nil && !errors.Is(err, syscall.EEXIST) {
			t.Fatal(err)
		}
	}
	add("lan0", "192.0.2.1/24")
	if r.IntN(2) == 0 {
		add("lan1", "198.51.100.1/24")
	}
	if r.IntN(3) == 0 {
		add("lo", "10.0.0.1/32")
	}
	for range r.IntN(4) {
		link, via := "lan0", "192.0.2.2"
		if r.IntN(3) == 0 {
			link, via = "lan1", "198.51.100.2"
		}
		to := []string{"0.0.0.0/0", "203.0.113.0/24", "203.0.113.7/32", "192.0.2.128/25"}[r.IntN(4)]
		_, dst, err := net.ParseCIDR(to)
		must(t, err)
		route := &netlink.Route{
			LinkIndex: linkNamed(t, link).Attrs().Index, Dst: dst, Gw: net.ParseIP(via),
			Priority: r.IntN(2) * 100, Protocol: unix.RTPROT_STATIC,
		}
		if r.IntN(8) == 0 {
			route = &netlink.Route{Dst: dst, Type: unix.RTN_BLACKHOLE, Priority: r.IntN(2) * 100, Protocol: unix.RTPROT_STATIC}
		}
		_ = netlink.RouteAdd(route) // a gateway may not be on the link, a slot taken
	}
	setSysctls(t, randomSysctls(r))
	if r.IntN(4) == 0 {
		rule := netlink.NewRule()
		rule.Priority, rule.Table = 100+r.IntN(3), 100
		if r.IntN(2) == 0 {
			_, rule.Dst, _ = net.ParseCIDR("203.0.113.0/24")
		} else {
			_, rule.Src, _ = net.ParseCIDR("192.0.2.0/24")
		}
		must(t, netlink.RuleAdd(rule))
		_, dst, _ := net.ParseCIDR("203.0.113.8/32")
		must(t, netlink.RouteAdd(&netlink.Route{Dst: dst, Type: unix.RTN_UNREACHABLE, Table: 100}))
	}
}

// randomSysctls are none most often, or values of rp_filter.
func randomSysctls(r *rand.Rand) map[string]string {
	values := map[string]string{}
	if r.IntN(2) == 0 {
		return values
	}
	for _, link := range []string{"all", "lan0", "lan1"} {
		if r.IntN(2) == 0 {
			values[confName(confIPv4, link, "rp_filter")] = fmt.Sprint(r.IntN(3))
		}
	}
	return values
}

func setSysctls(t *testing.T, values map[string]string) {
	t.Helper()
	for name, value := range values {
		must(t, os.WriteFile("/proc/sys/"+strings.ReplaceAll(name, ".", "/"), []byte(value), 0))
	}
}

// randomReachSpec is a network and firewall that may or may not cut something.
func randomReachSpec(r *rand.Rand) *hosts.Spec {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	s := &hosts.Spec{Name: "host"}
	for i, name := range []string{"lan0", "lan1"} {
		if r.IntN(3) == 0 {
			continue
		}
		l := hosts.Link{Name: name, Kind: hosts.LinkPhysical}
		for _, a := range reachAddresses.host {
			if r.IntN(5) < 2 && (i == 0) == strings.HasPrefix(a, "192.") {
				l.Addresses = append(l.Addresses, hosts.Address{Prefix: prefix(a)})
			}
		}
		s.Network.Links = append(s.Network.Links, l)
	}
	if r.IntN(3) == 0 && len(s.Network.Links) > 0 {
		bridge := hosts.Link{Name: "br0", Kind: hosts.LinkBridge, Addresses: s.Network.Links[0].Addresses}
		s.Network.Links[0].Addresses = nil
		s.Network.Links[0].Master = "br0"
		s.Network.Links = append(s.Network.Links, bridge)
	}
	device := func(lan string) string {
		if len(s.Network.Links) > 0 && s.Network.Links[0].Name == lan && s.Network.Links[0].Master != "" {
			return "br0"
		}
		return lan
	}
	for _, to := range []string{"0.0.0.0/0", "203.0.113.0/24", "203.0.113.7/32", "198.51.100.2/32"} {
		switch r.IntN(6) {
		case 0:
			s.Network.Routes = append(s.Network.Routes, hosts.Route{Destination: prefix(to), Via: addr("192.0.2.2"), Device: device("lan0"), Metric: r.IntN(2) * 100})
		case 1:
			s.Network.Routes = append(s.Network.Routes, hosts.Route{Destination: prefix(to), Via: addr("198.51.100.2"), Device: device("lan1"), Metric: r.IntN(2) * 50})
		}
	}
	switch r.IntN(6) {
	case 0:
		s.Network.Routes = append(s.Network.Routes, hosts.Route{Destination: prefix("203.0.113.8/32"), Type: hosts.RouteBlackhole, Metric: r.IntN(2)})
	case 1:
		s.Network.Routes = append(s.Network.Routes, hosts.Route{Destination: prefix("0.0.0.0/0"), Table: 200, Via: addr("198.51.100.2"), Device: device("lan1")})
		s.Network.Rules = append(s.Network.Rules, hosts.Rule{Priority: 50, To: prefix("203.0.113.0/24"), Table: 200})
	case 2:
		s.Network.Rules = append(s.Network.Rules, hosts.Rule{Priority: 60, To: prefix("203.0.113.0/24"), Action: "unreachable"})
	case 3:
		s.Network.Rules = append(s.Network.Rules, hosts.Rule{Priority: 70, From: prefix("192.0.2.0/24"), Action: "blackhole"})
	case 4:
		none := 0
		s.Network.Rules = append(s.Network.Rules, hosts.Rule{Priority: 32766, Table: hosts.MainTable, SuppressPrefixLength: &none})
		s.Network.Routes = append(s.Network.Routes, hosts.Route{Destination: prefix("203.0.113.0/24"), Nexthops: []hosts.Nexthop{
			{Via: addr("192.0.2.2"), Device: device("lan0"), Weight: 1}, {Via: addr("198.51.100.2"), Device: device("lan1"), Weight: 1},
		}, Metric: 7})
	}
	if r.IntN(4) == 0 && len(s.Network.Links) > 0 {
		s.Network.Links[0].Down = true
	}
	if r.IntN(2) == 0 {
		return s
	}
	s.Firewall.Enabled = true
	for i := range r.IntN(3) {
		a := hosts.Allow{Name: fmt.Sprintf("rule %d", i), Protocol: "tcp", Ports: []uint16{[]uint16{22, 80}[r.IntN(2)]}}
		if r.IntN(2) == 0 {
			a.From = []netip.Prefix{prefix([]string{"192.0.2.0/24", "203.0.113.0/24", "203.0.113.7/32", "0.0.0.0/0"}[r.IntN(4)])}
		}
		if r.IntN(2) == 0 {
			a.Interfaces = []string{[]string{"lan0", "lan1", "br0"}[r.IntN(3)]}
		}
		s.Firewall.Allow = append(s.Firewall.Allow, a)
	}
	return s
}

// reachWays are connections between every address of the one and of the other.
func reachWays() []Way {
	var ways []Way
	for _, remote := range reachAddresses.remote {
		r := netip.MustParseAddr(remote)
		ways = append(ways, Way{Name: "out to " + remote, Protocol: "tcp", Remote: netip.AddrPortFrom(r, 6443)})
		for _, local := range reachAddresses.host {
			l := netip.MustParsePrefix(local).Addr()
			ways = append(ways, Way{
				Name: fmt.Sprintf("in from %s to %s", remote, l), Inbound: true, Protocol: "tcp",
				Local: netip.AddrPortFrom(l, 22), Remote: netip.AddrPortFrom(r, 40000),
			})
		}
	}
	return ways
}

// TestReachAgainstTheKernel holds the judgement against real connections over
// random hosts and specs: what Reach says is cut must not connect once the spec
// is applied. The other direction is no promise, but counted: a judgement that
// never speaks would be useless.
func TestReachAgainstTheKernel(t *testing.T) {
	cases := 100
	if testing.Short() {
		cases = 20
	}
	var cut, strayed, never, stayed, speechless int
	for seed := range cases {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(seed), 7))
			w := newReachWorld(t)
			defer w.close()
			listenPlain(t, 22)
			w.away(t, func() { listenPlain(t, 6443) })
			w.randomForeign(t, r)
			sys := open(t)
			if r.IntN(2) == 0 { // what an earlier spec made is ours
				_ = sys.Apply(t.Context(), diffNow(t, sys, Want(randomReachSpec(r))), plan.Silent{})
			}
			want := Want(randomReachSpec(r))
			have, err := sys.Observe(t.Context(), want)
			must(t, err)
			now, err := sys.Surroundings(t.Context(), reachWays())
			must(t, err)
			sysctls := randomSysctls(r)
			now = now.With(sysctls)
			cuts := map[string]Cut{}
			for _, c := range Reach(want, have, now, reachWays()) {
				cuts[c.Way.Name] = c
			}
			was := w.work(t, reachWays())
			// A spec that the kernel refuses in part is judged all the same.
			_ = sys.Apply(t.Context(), Diff(have, want), plan.Silent{})
			setSysctls(t, sysctls)
			is := w.work(t, reachWays())
			for _, way := range reachWays() {
				c, said := cuts[way.Name]
				works := is[way.Name]
				switch {
				case said && works:
					t.Errorf("%s\nbut it connects\nwanted %+v\nhost before %+v\nhost:\n%s", c, want, now, dumpNetwork(t))
				case said && c.Already && was[way.Name]:
					t.Errorf("%s\nbut it connected before", c)
				case said:
					cut++
					if c.Kind == CutReversePath || c.Kind == CutSysctl {
						strayed++
					}
				case works:
					stayed++
				case was[way.Name]:
					speechless++
				default:
					never++
				}
			}
		})
	}
	t.Logf("%d cuts foretold (%d of reverse paths), %d ways stayed open, %d cuts not foretold, %d that never worked", cut, strayed, stayed, speechless, never)
	if cut < 4*speechless || stayed == 0 || strayed == 0 && !testing.Short() {
		t.Errorf("the judgement hardly ever speaks: %d cuts foretold (%d of reverse paths), %d not", cut, strayed, speechless)
	}
}

// TestDeclaredAgainstTheKernel holds what is said of a host that nobody looked
// at against one that has what is declared, and nothing else.
func TestDeclaredAgainstTheKernel(t *testing.T) {
	cases := 100
	if testing.Short() {
		cases = 20
	}
	var cut int
	for seed := range cases {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(seed), 11))
			w := newReachWorld(t)
			defer w.close()
			listenPlain(t, 22)
			w.away(t, func() { listenPlain(t, 6443) })
			sys := open(t)
			want := Want(randomReachSpec(r))
			sysctls := randomSysctls(r)
			cuts := Reach(want, State{}, Declared(want, nil, reachWays()).With(sysctls), reachWays())
			_ = sys.Apply(t.Context(), diffNow(t, sys, want), plan.Silent{})
			setSysctls(t, sysctls)
			is := w.work(t, reachWays())
			for _, c := range cuts {
				if is[c.Way.Name] {
					t.Errorf("%s\nbut it connects\nhost:\n%s", c, dumpNetwork(t))
				}
				if c.Kind != CutAddress { // of which there are many
					cut++
				}
			}
		})
	}
	t.Logf("%d cuts foretold, beside those of addresses that the host has not", cut)
	if cut == 0 {
		t.Error("the judgement never speaks")
	}
}

// TestReachIPv6Sysctls takes IPv6 from a host of the kernel's: what is foretold
// of it comes true, and IPv4 stays.
func TestReachIPv6Sysctls(t *testing.T) {
	newNamespace(t)
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lan0"}, PeerName: "far0"}))
	upWith(t, "far0")
	upWith(t, "lan0", "192.0.2.1/24", "2001:db8::1/64")
	sys := open(t)
	ways := []Way{
		{Name: "six", Protocol: "tcp", Remote: netip.MustParseAddrPort("[2001:db8::9]:443")},
		{Name: "four", Protocol: "tcp", Remote: netip.MustParseAddrPort("192.0.2.9:443")},
	}
	look := func(sysctls map[string]string) []Cut {
		now, err := sys.Surroundings(t.Context(), ways)
		must(t, err)
		return Reach(State{}, State{}, now.With(sysctls), ways)
	}
	off := map[string]string{"net.ipv6.conf.lan0.disable_ipv6": "1"}
	cuts := look(off)
	if len(cuts) != 1 || cuts[0].Way.Name != "six" || cuts[0].Already {
		t.Fatalf("%v", cuts)
	}
	setSysctls(t, off)
	if cuts = look(nil); len(cuts) != 1 || cuts[0].Way.Name != "six" || !cuts[0].Already {
		t.Errorf("foretold, and not come true: %v", cuts)
	}
}
