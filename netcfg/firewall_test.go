package netcfg

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

func firewallPrefixes(list ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range list {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// firewallSpec is a host of three, with all roles.
func firewallSpec() *hosts.Spec {
	all := []hosts.Role{hosts.RoleControlPlane, hosts.RoleEtcd, hosts.RoleWorker}
	return &hosts.Spec{
		Name: "a", Roles: all, Address: netip.MustParseAddr("192.0.2.1"),
		Network: hosts.Network{WireGuard: &hosts.WireGuard{Interface: "wg0", Port: 51820}},
		Firewall: hosts.Firewall{Enabled: true, Allow: []hosts.Allow{
			{Name: "ssh", Protocol: "tcp", Ports: []uint16{22}, From: firewallPrefixes("198.51.100.0/24")},
			{Name: "web", Protocol: "tcp", Ports: []uint16{443, 80}},
			{Name: "both", Protocol: "udp", Ports: []uint16{53}, From: firewallPrefixes("2001:db8::/32", "203.0.113.0/24"), Interfaces: []string{"lan0"}},
		}},
		Kubernetes: hosts.Kubernetes{APIPort: 6443, PodRange: netip.MustParsePrefix("10.244.0.0/16")},
		Etcd:       hosts.Etcd{ClientPort: 2379, PeerPort: 2380},
		Peers: []hosts.Peer{
			{Name: "b", Roles: all, Address: netip.MustParseAddr("192.0.2.2"), WireGuard: &hosts.WireGuardPeer{Address: netip.MustParseAddr("10.9.0.2")}},
			{Name: "c", Roles: []hosts.Role{hosts.RoleWorker}, Address: netip.MustParseAddr("192.0.2.3")},
		},
	}
}

func TestFirewallWant(t *testing.T) {
	if f := wantFirewall(&hosts.Spec{}); f != nil {
		t.Errorf("a spec without a firewall wants %v", f)
	}
	want := []string{
		"drop what no rule accepts",
		"loopback: accept everything on lo",
		"replies: accept established, related connections",
		"icmp errors: accept icmp type 3, 11, 12",
		"ping: accept icmp type 8",
		"icmpv6 errors: accept icmpv6 type 1, 2, 3, 4",
		"ping (IPv6): accept icmpv6 type 128",
		"neighbour discovery: accept icmpv6 type 134, 135, 136",
		"multicast listeners: accept icmpv6 type 130, 131, 132, 143 from fe80::/10",
		"dhcp: accept udp 68 from port 67",
		"dhcp (IPv6): accept udp 546 from port 547 from fe80::/10",
		"invalid: drop invalid connections",
		"etcd peers: accept tcp 2380 from 10.9.0.2/32, 192.0.2.2/32",
		"etcd clients: accept tcp 2379 from 10.9.0.2/32, 192.0.2.2/32",
		"api server: accept tcp 6443 from 10.9.0.2/32, 10.244.0.0/16, 192.0.2.2/31",
		"kubelet: accept tcp 10250 from 10.9.0.2/32, 10.244.0.0/16, 192.0.2.2/32",
		"ssh: accept tcp 22 from 198.51.100.0/24",
		"web: accept tcp 80, 443",
		"both: accept udp 53 from 203.0.113.0/24 on lan0",
		"both (IPv6): accept udp 53 from 2001:db8::/32 on lan0",
	}
	if diff := cmp.Diff(strings.Join(want, "\n"), wantFirewall(firewallSpec()).String()); diff != "" {
		t.Error(diff)
	}
}

// A worker that is no control plane opens neither etcd nor the API server, and
// its kubelet's port is the one of its configuration.
func TestFirewallFollowsRoles(t *testing.T) {
	spec := firewallSpec()
	spec.Roles = []hosts.Role{hosts.RoleWorker}
	spec.Network.WireGuard = nil
	spec.Firewall.Allow = nil
	spec.Kubernetes.Config = map[string]map[string]any{"kubelet": {"port": int64(10260)}}
	f := wantFirewall(spec)
	var own []string
	for _, r := range f.Rules[len(basicRules()):] {
		own = append(own, r.Name+": "+r.String())
	}
	if diff := cmp.Diff([]string{"kubelet: accept tcp 10260 from 10.9.0.2/32, 10.244.0.0/16, 192.0.2.2/32"}, own); diff != "" {
		t.Error(diff)
	}
}

func TestFirewallNamesAreUnique(t *testing.T) {
	rules := uniqueNames([]FirewallRule{{Name: "ping"}, {Name: "ping"}, {Name: ""}, {Name: "ping"}, {Name: strings.Repeat("ä", 200)}, {Name: strings.Repeat("ä", 201)}})
	seen := map[string]bool{}
	for _, r := range rules {
		if r.Name == "" || seen[r.Name] || len(r.Name) > maxName+4 {
			t.Errorf("name %q of %d bytes", r.Name, len(r.Name))
		}
		seen[r.Name] = true
	}
}

func TestPortRanges(t *testing.T) {
	for _, tc := range []struct {
		ports []uint16
		want  string
	}{
		{nil, ""},
		{[]uint16{443, 80, 443}, "80, 443"},
		{[]uint16{3, 1, 2, 65535, 65534}, "1-3, 65534-65535"},
	} {
		if got := join(portRanges(tc.ports)); got != tc.want {
			t.Errorf("%v: %s, want %s", tc.ports, got, tc.want)
		}
	}
}

// The merged prefixes hold exactly the addresses of the given ones and are the
// same however those were written.
func TestPrefixesAreCanonical(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		var given []netip.Prefix
		for range 1 + random.IntN(6) {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(256))})
			given = append(given, netip.PrefixFrom(a, 24+random.IntN(9)))
		}
		merged := prefixes(addrRanges(given))
		for last := range 256 {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(last)})
			in := func(list []netip.Prefix) bool {
				return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Masked().Contains(a) })
			}
			if in(given) != in(merged) {
				t.Fatalf("%v became %v: they differ in %v", given, merged, a)
			}
		}
		if again := prefixes(addrRanges(merged)); !slices.Equal(again, merged) {
			t.Fatalf("%v became %v in a second round", merged, again)
		}
	}
	for _, edge := range []string{"0.0.0.0/0", "::/0", "255.255.255.255/32", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", "128.0.0.0/1"} {
		p := firewallPrefixes(edge)
		if got := prefixes(addrRanges(append(p, p...))); !slices.Equal(got, p) {
			t.Errorf("%s became %v", edge, got)
		}
	}
}

func TestFirewallDiff(t *testing.T) {
	want := wantFirewall(firewallSpec())
	edit := func(f func(*Firewall)) *Firewall {
		c := &Firewall{Base: want.Base, Rules: slices.Clone(want.Rules), Other: want.Other}
		f(c)
		return c
	}
	ssh := slices.IndexFunc(want.Rules, func(r FirewallRule) bool { return r.Name == "ssh" })
	stranger := FirewallRule{Other: "a rule that nodeagent does not make: counter{}"}
	for _, tc := range []struct {
		name       string
		have, want *Firewall
		changes    []string
	}{
		{"nothing", nil, nil, nil},
		{"converged", want, want, nil},
		{"enabled", nil, want, []string{"create disconnect firewall"}},
		{"disabled", want, nil, []string{"delete quiet firewall"}},
		{"allow added", edit(func(f *Firewall) { f.Rules = slices.Delete(f.Rules, ssh, ssh+1) }), want, []string{"create quiet firewall rule ssh"}},
		{"allow dropped", want, edit(func(f *Firewall) { f.Rules = slices.Delete(f.Rules, ssh, ssh+1) }), []string{"delete disconnect firewall rule ssh"}},
		{"allow changed", edit(func(f *Firewall) { f.Rules[ssh].Ports = []PortRange{{2222, 2222}} }), want, []string{"update disconnect firewall rule ssh"}},
		{"stranger's rule", edit(func(f *Firewall) { f.Rules = append(f.Rules, stranger, stranger) }), want, []string{"delete disconnect firewall rule without a name of its own: " + stranger.Other}},
		{"the same twice", edit(func(f *Firewall) { f.Rules = append(f.Rules, f.Rules[ssh]) }), want, []string{"delete disconnect firewall rule without a name of its own: accept tcp 22 from 198.51.100.0/24"}},
		{"policy", edit(func(f *Firewall) { f.Base = "accept what no rule drops" }), want, []string{"update disconnect firewall"}},
		{"chain", edit(func(f *Firewall) { f.Other = []string{"chain x"} }), want, []string{"delete disconnect firewall chain x"}},
		{"order", edit(func(f *Firewall) { f.Rules[ssh], f.Rules[ssh+1] = f.Rules[ssh+1], f.Rules[ssh] }), want, []string{"update quiet firewall order"}},
	} {
		var got []string
		keys := map[string]bool{}
		for _, c := range diffFirewall(tc.have, tc.want) {
			got = append(got, string(c.Action)+" "+c.Effect.String()+" "+c.Key)
			if keys[c.Key] {
				t.Errorf("%s: key %q twice", tc.name, c.Key)
			}
			keys[c.Key] = true
			if c.Action == plan.ActionUpdate && c.Before == c.After {
				t.Errorf("%s: %s: before and after are both %q", tc.name, c.Key, c.Before)
			}
			if c.Reason == "" || c.Domain != Domain {
				t.Errorf("%s: %+v", tc.name, c)
			}
		}
		if diff := cmp.Diff(tc.changes, got); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
		if (len(got) == 0) != tc.have.same(tc.want) {
			t.Errorf("%s: %d changes, same: %v", tc.name, len(got), tc.have.same(tc.want))
		}
	}
}

// Every rule that differs from one of nodeagent's in anything, an attribute or
// an expression that is not even known here, is read as none of nodeagent's.
func TestFirewallParseIsStrict(t *testing.T) {
	accept := rawExpr{name: "immediate", attrs: map[int]string{
		unix.NFTA_IMMEDIATE_DREG:                                 u32(unix.NFT_REG_VERDICT),
		within(unix.NFTA_IMMEDIATE_DATA, unix.NFTA_DATA_VERDICT): verdictAttr(nfAccept),
	}}
	lo := rawExpr{name: "lookup", attrs: map[int]string{unix.NFTA_LOOKUP_SET: "__set0\x00", unix.NFTA_LOOKUP_SREG: u32(1), unix.NFTA_LOOKUP_FLAGS: u32(0)}}
	count := rawExpr{name: "counter", attrs: map[int]string{unix.NFTA_COUNTER_PACKETS: u64(2), unix.NFTA_COUNTER_BYTES: u64(120)}}
	key := interfaceSet([]string{"lo"}).ranges[0].first
	sets := map[string]firewallSet{"__set0": {constant: true, length: unix.IFNAMSIZ, elements: []setElement{{key: key}}}}
	in := loadMeta(expr.MetaKeyIIFNAME)
	read := func(exprs ...rawExpr) FirewallRule {
		r, _ := parseRule(rawRule{chain: inputChain, comment: "loopback", exprs: exprs}, sets)
		return r
	}
	if r := read(in, lo, count, accept); !r.same(FirewallRule{Name: "loopback", Interfaces: []string{"lo"}}) {
		t.Fatalf("read as %+v", r)
	}
	unknown := rawExpr{name: "last", attrs: map[int]string{1: u32(0)}}
	bucket := rawExpr{name: "limit", attrs: map[int]string{
		unix.NFTA_LIMIT_RATE: u64(1), unix.NFTA_LIMIT_UNIT: u64(60), unix.NFTA_LIMIT_BURST: u32(5),
		unix.NFTA_LIMIT_TYPE: u32(0), unix.NFTA_LIMIT_FLAGS: u32(0),
	}}
	if r := read(in, lo, bucket, count, accept); r.Limit == nil || *r.Limit != (FirewallLimit{1, time.Minute, 5, false}) {
		t.Fatalf("read as %+v", r)
	}
	for name, exprs := range map[string][]rawExpr{
		"empty":                   nil,
		"unknown expression":      {in, lo, unknown, count, accept},
		"unknown one alone":       {unknown},
		"unknown attribute":       {in, lo.with(99, "x"), count, accept},
		"inverted":                {in, lo.with(unix.NFTA_LOOKUP_FLAGS, u32(1)), count, accept},
		"another register":        {in, lo.with(unix.NFTA_LOOKUP_SREG, u32(2)), count, accept},
		"another set":             {in, lo.with(unix.NFTA_LOOKUP_SET, "mine\x00"), count, accept},
		"interface that is inner": {loadMeta(expr.MetaKeyPRANDOM), lo, count, accept},
		"after the verdict":       {in, lo, count, accept, accept},
		"without a verdict":       {in, lo, count},
		"lookup without its load": {lo, count, accept},
		"jump":                    {count, accept.with(within(unix.NFTA_IMMEDIATE_DATA, unix.NFTA_DATA_VERDICT), verdictAttr(0xfffffffd))},
		"load without comparison": {in, count, accept},
		"without a counter":       {in, lo, accept},
		"counted twice":           {in, lo, count, count, accept},
		"a named counter":         {in, lo, rawExpr{name: "objref", attrs: map[int]string{}}, accept},
		"limit over":              {in, lo, bucket.with(unix.NFTA_LIMIT_FLAGS, u32(1)), count, accept},
		"limit of bytes":          {in, lo, bucket.with(unix.NFTA_LIMIT_TYPE, u32(1)), count, accept},
		"limit after the counter": {in, lo, count, bucket, accept},
		"masquerade with flags":   {count, rawExpr{name: "masq", attrs: map[int]string{1: u32(1)}}},
		"inner expression":        {in, lo, rawExpr{name: "counter", attrs: count.attrs, inner: []rawExpr{bucket}}, accept},
		"dynset without a family": {loadPayload(sourceAddress6), rawExpr{name: "dynset", attrs: map[int]string{}, inner: []rawExpr{bucket}}, count, accept},
	} {
		if r := read(exprs...); r.Other == "" {
			t.Errorf("%s: read as %v", name, r)
		}
	}
}

// What a hub's clients may reach is for the spec to say, and a host without
// pods forwards none of their packets.
func TestFirewallForwardOfHub(t *testing.T) {
	spec := firewallSpec()
	spec.Roles = nil
	spec.Network.WireGuard.Clients = []hosts.WireGuardClient{{Name: "laptop", Addresses: firewallPrefixes("10.9.0.200/32")}}
	spec.Firewall.Forward = &hosts.Forward{Allow: []hosts.ForwardAllow{
		{Name: "admins", Protocol: "tcp", Ports: []uint16{22}, From: firewallPrefixes("10.9.0.200/32"), Inbound: []string{"wg0"}, Outbound: []string{"wg0"}},
	}}
	var got []string
	for _, r := range wantFirewall(spec).Forward.Rules {
		got = append(got, r.Name+": "+r.String())
	}
	want := []string{
		"replies: accept established, related connections",
		"icmp errors: accept icmp type 3, 11, 12",
		"icmpv6 errors: accept icmpv6 type 1, 2, 3, 4",
		"admins: accept tcp 22 from 10.9.0.200/32 on wg0 out by wg0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a hub forwards (-want +got):\n%s", diff)
	}
}

func FuzzFirewallRule(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		raw, err := decodeRule(data)
		if err == nil {
			_, _ = parseRule(raw, nil)
		}
	})
}

// with returns the expression with one more attribute.
func (e rawExpr) with(number int, value string) rawExpr {
	attrs := maps.Clone(e.attrs)
	attrs[number] = value
	return rawExpr{e.name, attrs, e.inner}
}
