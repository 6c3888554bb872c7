package netcfg

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// randomSpec draws a valid spec from a small world, so that two specs in a row
// collide in every way: the same names with other kinds and other ends, the same
// addresses with other lengths and on other links, the same destinations.
func randomSpec(r *rand.Rand) *hosts.Spec {
	return randomSpecOf(r, hosts.LinkVXLAN, hosts.LinkMacvlan)
}

// randomSpecOf draws also links of the kinds.
func randomSpecOf(r *rand.Rand, kinds ...hosts.LinkKind) *hosts.Spec {
	w := &world{r: r, bridges: []string{}, subnets: r.Perm(6), below: map[string]bool{}, kinds: kinds}
	w.links()
	w.routes()
	return &hosts.Spec{Name: "random", Network: w.network}
}

type world struct {
	r       *rand.Rand
	network hosts.Network
	bridges []string
	subnets []int // not used yet: a network lies on one link only
	kinds   []hosts.LinkKind
	scope   string
	below   map[string]bool // has a link upon it
}

func (w *world) one(in int) bool { return w.r.IntN(in) == 0 }

func (w *world) links() {
	for _, name := range []string{"p0", "p1"} {
		if !w.one(5) {
			w.link(hosts.Link{Name: name, Kind: hosts.LinkPhysical})
		}
	}
	names := []string{"x0", "x1", "x2", "x3", "x4"}
	w.r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for len(names) > 1 {
		switch w.r.IntN(4) {
		case 0:
			w.link(hosts.Link{Name: names[0], Kind: hosts.LinkBridge, Bridge: w.bridge()})
			w.bridges = append(w.bridges, names[0])
			names = names[1:]
		case 1:
			w.upper(names[0])
			names = names[1:]
		case 2:
			w.link(hosts.Link{Name: names[0], Kind: hosts.LinkVeth, Peer: names[1]})
			if w.one(2) {
				w.link(hosts.Link{Name: names[1], Kind: hosts.LinkVeth, Peer: names[0]})
			}
			names = names[2:]
		default:
			names = names[1:]
		}
	}
	for i, l := range w.network.Links {
		if l.Kind != hosts.LinkBridge && l.Kind != hosts.LinkVRF && len(w.bridges) > 0 && w.one(3) && !w.below[l.Name] && l.Parent == "" {
			w.network.Links[i].Master = w.bridges[w.r.IntN(len(w.bridges))]
			w.network.Links[i].Port = w.port()
		}
	}
	w.r.Shuffle(len(w.network.Links), func(i, j int) {
		w.network.Links[i], w.network.Links[j] = w.network.Links[j], w.network.Links[i]
	})
}

func (w *world) link(l hosts.Link) {
	if l.Parent == "" && l.Kind != hosts.LinkVXLAN && l.Kind != hosts.LinkVRF {
		l.MTU = []int{0, 0, 1400, 1450, 9000}[w.r.IntN(5)]
	}
	if w.one(4) && l.Kind != hosts.LinkPhysical {
		l.MAC = fmt.Sprintf("02:00:00:00:00:%02x", w.r.IntN(3)+1)
	}
	l.Down = l.Kind != hosts.LinkPhysical && w.one(8) // somebody else's routes lie over those
	for w.one(2) && len(w.subnets) > 0 {
		subnet := w.subnets[0]
		w.subnets = w.subnets[1:]
		w.scope = []string{"", "", "", "global", "link", "host"}[w.r.IntN(6)] // one for each network
		if l.Kind == hosts.LinkPhysical {
			w.scope = "" // that of somebody's address in the same network
		}
		for _, host := range w.r.Perm(3)[:1+w.r.IntN(3)] {
			if subnet < 4 {
				l.Addresses = append(l.Addresses, w.options(hosts.Address{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(subnet), byte(host + 1)}), []int{24, 24, 25}[w.r.IntN(3)])}))
			} else {
				l.Addresses = append(l.Addresses, w.options(hosts.Address{Prefix: netip.MustParsePrefix(fmt.Sprintf("fd00:%d::%d/%d", subnet, host+1, []int{64, 64, 48}[w.r.IntN(3)]))}))
			}
		}
	}
	w.network.Links = append(w.network.Links, l)
}

// upper draws a link of one of the further kinds, upon one that is there already
// where the kind needs that.
func (w *world) upper(name string) {
	if len(w.kinds) == 0 {
		return
	}
	l := hosts.Link{Name: name, Kind: w.kinds[w.r.IntN(len(w.kinds))]}
	parent := ""
	if n := len(w.network.Links); n > 0 {
		if p := w.network.Links[w.r.IntN(n)]; p.Parent == "" && p.Kind != hosts.LinkVXLAN && p.Kind != hosts.LinkVRF && !p.Down {
			parent = p.Name
		}
	}
	switch l.Kind {
	case hosts.LinkMacvlan:
		l.Parent, l.Macvlan = parent, &hosts.Macvlan{Mode: []string{"bridge", "private", "vepa"}[w.r.IntN(3)]}
	case hosts.LinkVLAN:
		// One of a number each: two of one number upon one link cannot be.
		l.Parent, l.VLAN = parent, &hosts.VLAN{ID: 10 + int(name[1]-'0') + 10*w.r.IntN(2), Protocol: "802.1q"}
	case hosts.LinkVXLAN:
		l.VXLAN = &hosts.VXLAN{ID: 10 + int(name[1]-'0') + 10*w.r.IntN(2), Port: 4789 + w.r.IntN(2), TTL: w.r.IntN(3) * 32}
		if w.one(2) {
			l.VXLAN.Local, l.VXLAN.Remote = netip.AddrFrom4([4]byte{10, 1, 0, byte(w.r.IntN(2) + 1)}), netip.AddrFrom4([4]byte{10, 1, 0, byte(w.r.IntN(2) + 8)})
		}
		l.VXLAN.Learning = w.flag()
	case hosts.LinkVRF:
		l.VRF = &hosts.VRF{Table: 1000 + w.r.IntN(2)}
	case hosts.LinkBond:
		l.Bond = w.bond()
	}
	if l.Parent == "" && (l.Kind == hosts.LinkMacvlan || l.Kind == hosts.LinkVLAN) {
		return
	}
	if l.Parent != "" {
		w.below[l.Parent] = true
	}
	w.link(l)
	if drawn := &w.network.Links[len(w.network.Links)-1]; l.Kind == hosts.LinkVRF {
		drawn.MAC, drawn.Addresses = "", nil
	}
}

// overDown tells whether the link lies upon one that is down.
func (w *world) overDown(l hosts.Link) bool {
	return slices.ContainsFunc(w.network.Links, func(p hosts.Link) bool {
		return p.Name == l.Parent && p.Down || p.Name == l.Name && p.Kind == hosts.LinkVRF
	})
}

func (w *world) flag() *bool {
	if w.one(3) {
		return nil
	}
	return at(w.one(2))
}

func (w *world) time(seconds ...int) *time.Duration {
	if w.one(2) {
		return nil
	}
	return at(time.Duration(seconds[w.r.IntN(len(seconds))]) * time.Second)
}

func (w *world) bridge() *hosts.Bridge {
	return &hosts.Bridge{
		STP: w.flag(), ForwardDelay: w.time(0, 1, 2, 15, 30), HelloTime: w.time(1, 2, 10), MaxAge: w.time(6, 20, 40), Ageing: w.time(0, 300),
		MulticastSnooping: w.flag(), Priority: at(w.r.IntN(16) * 4096),
	}
}

func (w *world) port() *hosts.BridgePort {
	return &hosts.BridgePort{Cost: at(w.r.IntN(3) + 1), Priority: at(w.r.IntN(64)), Isolated: w.flag(), Hairpin: w.flag(), Learning: w.flag()}
}

func (w *world) bond() *hosts.Bond {
	b := &hosts.Bond{Mode: bondModes[w.r.IntN(len(bondModes))], MIIMon: time.Duration(w.r.IntN(2)+1) * 100 * time.Millisecond, MinLinks: w.r.IntN(3)}
	b.UpDelay, b.DownDelay = time.Duration(w.r.IntN(5))*70*time.Millisecond, time.Duration(w.r.IntN(5))*70*time.Millisecond
	if b.Mode == mode8023AD {
		b.LACPRate, b.AdSelect = []string{"slow", "fast"}[w.r.IntN(2)], []string{"stable", "bandwidth", "count"}[w.r.IntN(3)]
	}
	b.XmitHashPolicy = []string{"", "layer2", "layer3+4", "encap3+4"}[w.r.IntN(4)]
	return b
}

func (w *world) options(a hosts.Address) hosts.Address {
	if a.Prefix.Addr().Is4() {
		a.Scope = w.scope
	}
	if !w.one(4) {
		return a
	}
	a.NoDAD = a.Prefix.Addr().Is6() && w.one(2)
	switch w.r.IntN(4) {
	case 0:
		a.Deprecated = true
	case 1:
		a.Valid = time.Duration(w.r.IntN(2)+1) * time.Hour
	case 2:
		a.Valid, a.Preferred = 2*time.Hour, time.Duration(w.r.IntN(2)+1)*time.Hour
	}
	return a
}

func (w *world) routes() {
	slots := map[string]bool{}
	for range w.r.IntN(7) {
		l := w.network.Links
		if len(l) == 0 {
			return
		}
		link := l[w.r.IntN(len(l))]
		if link.Down || w.overDown(link) {
			continue // the kernel has no routes over it
		}
		v6 := w.one(3)
		route := hosts.Route{Metric: []int{0, 0, 100, 1024}[w.r.IntN(4)], Destination: destination(w.r, v6)}
		addresses := slices.DeleteFunc(slices.Clone(link.Addresses), func(p hosts.Address) bool { return p.Prefix.Addr().Is6() != v6 })
		switch {
		case len(addresses) == 0 || w.one(4):
			route.Device = link.Name
		default:
			network := addresses[w.r.IntN(len(addresses))].Prefix
			route.Via = gatewayIn(network)
			if w.one(2) {
				route.Device = link.Name
			}
			if w.one(3) {
				route.Source = network.Addr()
			}
		}
		metric := route.Metric
		if v6 && metric == 0 {
			metric = 1024
		}
		if slot := fmt.Sprint(route.Destination, metric); !slots[slot] {
			slots[slot] = true
			w.network.Routes = append(w.network.Routes, route)
		}
	}
}

func destination(r *rand.Rand, v6 bool) netip.Prefix {
	n := r.IntN(3)
	switch {
	case n == 0 && v6:
		return netip.MustParsePrefix("::/0")
	case n == 0:
		return netip.MustParsePrefix("0.0.0.0/0")
	case v6:
		return netip.MustParsePrefix(fmt.Sprintf("fd99:%d::/64", n))
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 99, byte(n), 0}), 24)
}

// gatewayIn is an address that no host of the world has.
func gatewayIn(network netip.Prefix) netip.Addr {
	if network.Addr().Is4() {
		b := network.Addr().As4()
		b[3] = 100
		return netip.AddrFrom4(b)
	}
	b := network.Addr().As16()
	b[15] = 100
	return netip.AddrFrom16(b)
}

// somebodys is what is on the host before nodeagent comes, for the model.
func somebodys() State {
	pair := func(name, peer string) Link {
		return Link{Name: name, Kind: hosts.LinkVeth, Driver: "veth", Peer: peer, MTU: 1500, Up: true}
	}
	return State{Links: []Link{pair("p0", "q0"), pair("p1", "q1"), pair("q0", "p0"), pair("q1", "p1")}}
}

// TestLawsOnTheModel: one apply is enough, planning twice gives the same, and
// what is somebody else's stays, over long chains of specs.
func TestLawsOnTheModel(t *testing.T) {
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 1))
		have := somebodys()
		for round := range 5 {
			want := Want(randomSpec(r))
			changes := Diff(have, want)
			if again := Diff(have, want); printed(again) != printed(changes) {
				t.Fatalf("seed %d round %d: two plans of the same values differ:\n%s\n%s", seed, round, printed(changes), printed(again))
			}
			after, err := simulate(have, changes)
			if err != nil {
				t.Fatalf("seed %d round %d: %v\nplan:\n%s", seed, round, err, printed(changes))
			}
			if left := Diff(after, want); len(left) > 0 {
				t.Fatalf("seed %d round %d: after one apply there is still\n%s\nplan was\n%s", seed, round, printed(left), printed(changes))
			}
			have = after
		}
		after, err := simulate(have, Diff(have, State{}))
		if err != nil {
			t.Fatal(err)
		}
		names := cmpopts.IgnoreFields(State{}, "Names")
		settings := cmpopts.IgnoreFields(Link{}, "MTU", "Up") // stay as they were set
		if diff := cmp.Diff(somebodys(), after, names, settings, cmpopts.EquateEmpty(), cmp.Comparer(samePrefix), cmp.Comparer(sameAddr)); diff != "" {
			t.Fatalf("seed %d: dropping everything leaves (-before +after):\n%s", seed, diff)
		}
	}
}

func samePrefix(a, b netip.Prefix) bool { return a == b }
func sameAddr(a, b netip.Addr) bool     { return a == b }

// TestLawsOnTheKernel runs the same chains against the real kernel, with things
// of somebody else's around, and holds the model against it.
func TestLawsOnTheKernel(t *testing.T) {
	const seeds = 25
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			newNamespace(t)
			withoutDAD(t)
			for _, which := range []string{"all", "default"} { // no router advertisements, no surprises
				must(t, os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/accept_ra", []byte("0"), 0))
			}
			somebodysVeth(t, "p0", "q0")
			somebodysVeth(t, "p1", "q1")
			somebodysAddress(t, "p0", "10.0.0.200/24")
			somebodysAddress(t, "p1", "172.16.0.1/16")
			somebodysRoute(t, "p1", "0.0.0.0/0", "172.16.0.254", 5000, 16)
			somebodysRoute(t, "p1", "192.168.50.0/24", "172.16.0.254", 0, 4)
			theirs := somebodysLines(dumpNetwork(t))
			sys := open(t)
			r := rand.New(rand.NewPCG(seed, 1))
			for range 3 {
				want := Want(randomSpec(r))
				have := observed(t, sys, want)
				changes := Diff(have, want)
				foretold, err := simulate(have, changes)
				must(t, err)
				must(t, sys.Apply(t.Context(), changes, plan.Silent{}))
				after := observed(t, sys, want)
				if left := Diff(after, want); len(left) > 0 {
					t.Fatalf("after one apply there is still\n%s\nplan was\n%s", printed(left), printed(changes))
				}
				compareWithModel(t, foretold, after, changes)
				if now := somebodysLines(dumpNetwork(t)); now != theirs {
					t.Fatalf("somebody else's things changed (-before +after):\n%s\nplan was\n%s", cmp.Diff(theirs, now), printed(changes))
				}
			}
			converge(t, sys, State{})
			if own := ownLines(dumpNetwork(t)); own != "" {
				t.Errorf("dropping everything leaves\n%s", own)
			}
		})
	}
}

// compareWithModel leaves out what the model does not foretell: MTU that bridges
// take from their ports where none is wanted, and links observed for no more
// than their addresses.
func compareWithModel(t *testing.T, foretold, after State, changes []plan.Change) {
	t.Helper()
	index := byName(foretold.Links)
	for _, l := range after.Links {
		f := index[l.Name]
		f.MTU = l.MTU
		l = asFarAs(f, l)
		if diff := cmp.Diff(f, l, cmpopts.EquateEmpty(), cmp.Comparer(samePrefix)); diff != "" {
			t.Errorf("the model is wrong about link %s (-model +kernel):\n%s\nplan was\n%s", l.Name, diff, printed(changes))
		}
	}
	// Of others' routes only those in the way of a missing one are observed.
	ours := func(routes []Route) []Route {
		return slices.DeleteFunc(slices.Clone(routes), func(r Route) bool { return r.Protocol != RouteProtocol })
	}
	if diff := cmp.Diff(ours(foretold.Routes), ours(after.Routes), cmpopts.EquateEmpty(), cmp.Comparer(samePrefix), cmp.Comparer(sameAddr)); diff != "" {
		t.Errorf("the model is wrong about routes (-model +kernel):\n%s\nplan was\n%s", diff, printed(changes))
	}
}

// TestLinkLawsOfEveryKind runs chains of specs with all kinds that this kernel
// has, without somebody else's things.
func TestLinkLawsOfEveryKind(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			newNamespace(t)
			withoutDAD(t)
			kinds := []hosts.LinkKind{hosts.LinkVXLAN, hosts.LinkMacvlan}
			for _, kind := range []hosts.LinkKind{hosts.LinkBond, hosts.LinkVLAN, hosts.LinkDummy, hosts.LinkVRF} {
				switch {
				case hasKind(t, kind):
					kinds = append(kinds, kind)
				case os.Getenv("NODEAGENT_VM") == "1":
					t.Fatalf("the VM's kernel has no %s", kind)
				}
			}
			somebodysVeth(t, "p0", "q0")
			somebodysVeth(t, "p1", "q1")
			sys := open(t)
			r := rand.New(rand.NewPCG(seed, 7))
			for range 4 {
				converge(t, sys, Want(randomSpecOf(r, kinds...)))
			}
			converge(t, sys, State{})
			if own := ownLines(dumpNetwork(t)); own != "" {
				t.Errorf("dropping everything leaves\n%s", own)
			}
		})
	}
}

// TestLinkLawsOfEveryKindOnTheModel is the same with all kinds, in any kernel.
func TestLinkLawsOfEveryKindOnTheModel(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 7))
		have := somebodys()
		for round := range 5 {
			want := Want(randomSpecOf(r, hosts.LinkVXLAN, hosts.LinkMacvlan, hosts.LinkBond, hosts.LinkVLAN, hosts.LinkDummy, hosts.LinkVRF))
			changes := Diff(have, want)
			after, err := simulate(have, changes)
			if err != nil {
				t.Fatalf("seed %d round %d: %v\nplan:\n%s", seed, round, err, printed(changes))
			}
			if left := Diff(after, want); len(left) > 0 {
				t.Fatalf("seed %d round %d: after one apply there is still\n%s\nplan was\n%s", seed, round, printed(left), printed(changes))
			}
			have = after
		}
	}
}

// asFarAs leaves out what the kernel tells of a link of which the model says
// nothing, such as settings that no spec named.
func asFarAs(f, l Link) Link {
	managed := func(model []Setting) func(Setting) bool {
		return func(s Setting) bool { _, known := settingOf(model, s.Name); return !known }
	}
	l.Settings = slices.DeleteFunc(slices.Clone(l.Settings), managed(f.Settings))
	l.Port = slices.DeleteFunc(slices.Clone(l.Port), managed(f.Port))
	byTable(f.Settings)
	byTable(f.Port)
	byTable(l.Settings)
	byTable(l.Port)
	l.Alias = f.Alias
	l.MAC = f.MAC // bridges take those of their ports; that Diff is empty proves the rest
	if f.VLANs == nil {
		l.VLANs = nil
	}
	for i := range l.Addresses { // what a lifetime has left counts down
		l.Addresses[i].Valid, l.Addresses[i].Preferred = f.left(l.Addresses[i])
	}
	return l
}

func byTable(settings []Setting) {
	slices.SortFunc(settings, func(a, b Setting) int { return compareStrings(a.Name, b.Name) })
}

// left is the lifetime that the model says, where the kernel's can be what is
// left of it.
func (l Link) left(a Address) (valid, preferred time.Duration) {
	for _, m := range l.Addresses {
		if m.Prefix == a.Prefix && lasts(a.Valid, m.Valid) && lasts(a.Preferred, m.Preferred) {
			return m.Valid, m.Preferred
		}
	}
	return a.Valid, a.Preferred
}

// somebodysLines are the lines of a dump that must never change: other people's
// addresses and routes. ownLines are those that carry a mark of ours.
func somebodysLines(dump string) string {
	return linesWith(dump, "address 10.0.0.200/24 on p0", "address 172.16.0.1/16 on p1", "172.16.0.254")
}

func ownLines(dump string) string {
	return linesWith(dump, `alias "nodeagent`, "protocol:229", "link x", "group 229")
}

func linesWith(dump string, texts ...string) string {
	var kept []string
	for line := range strings.Lines(dump) {
		// Which address of a network is the primary one may change.
		line = strings.ReplaceAll(line, "secondary:true", "secondary:false")
		if slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(line, text) }) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}
