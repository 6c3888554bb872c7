package netcfg

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"

	"github.com/nodeagent/nodeagent/hosts"
)

// libraryElements are the elements of a set as package nftables takes them.
func libraryElements(s keySet) []nftables.SetElement {
	var elements []nftables.SetElement
	for _, r := range s.ranges {
		elements = append(elements, nftables.SetElement{Key: r.first})
		if next, ok := after(r.last); ok && s.interval {
			elements = append(elements, nftables.SetElement{Key: next, IntervalEnd: true})
		}
	}
	return elements
}

func mustFirewall(t testing.TB) *Firewall {
	t.Helper()
	have, err := observeFirewall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return have
}

// convergeFirewall applies the difference and asserts that none is left.
func convergeFirewall(t testing.TB, want *Firewall) {
	t.Helper()
	changes := diffFirewall(mustFirewall(t), want)
	for _, c := range changes {
		if err := c.Payload.(op).apply(t.Context(), nil); err != nil {
			t.Fatalf("%s: %v", c.Key, err)
		}
	}
	for _, c := range diffFirewall(mustFirewall(t), want) {
		t.Errorf("left after converging: %s: %s: %q, want %q", c.Action, c.Key, c.Before, c.After)
	}
	if t.Failed() {
		t.FailNow()
	}
}

func TestFirewallRoundTrip(t *testing.T) {
	newNamespace(t)
	if have := mustFirewall(t); have != nil {
		t.Fatalf("a fresh namespace has %v", have)
	}
	convergeFirewall(t, wantFirewall(firewallSpec()))
	convergeFirewall(t, &Firewall{Base: firewallBase})
	convergeFirewall(t, nil)
}

// Law: any firewall that can be wanted is read back as it was wanted, whatever
// was there before, and tables of others stay as they are.
func TestFirewallLaw(t *testing.T) {
	for seed := range uint64(8) { // side by side: the kernel makes every edit wait
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			newNamespace(t)
			others := othersTable(t)
			random := rand.New(rand.NewPCG(seed, 6))
			var before *Firewall
			for range 40 {
				want := randomFirewall(random, before)
				convergeFirewall(t, want)
				before = want
			}
			if now := others(); now != 1 {
				t.Errorf("the table of others has %d rules, want 1", now)
			}
		})
	}
}

// othersTable makes a table and returns how many rules it has.
func othersTable(t testing.TB) func() int {
	t.Helper()
	conn, err := nftables.New()
	must(t, err)
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "others"})
	chain := conn.AddChain(&nftables.Chain{Name: inputChain, Table: table})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}})
	must(t, conn.Flush())
	return func() int {
		rules, err := conn.GetRules(table, chain)
		must(t, err)
		return len(rules)
	}
}

// randomFirewall is one of any chains, with rules of before among its own.
func randomFirewall(random *rand.Rand, before *Firewall) *Firewall {
	if random.IntN(10) == 0 {
		return nil
	}
	f := &Firewall{}
	for _, name := range []string{inputChain, forwardChain, masqueradeChain} {
		if random.IntN(3) == 0 {
			continue
		}
		var rules []FirewallRule
		if c := before.chain(name); c != nil {
			rules = slices.DeleteFunc(slices.Clone(c.Rules), func(FirewallRule) bool { return random.IntN(4) == 0 })
			if random.IntN(3) == 0 {
				random.Shuffle(len(rules), func(i, j int) { rules[i], rules[j] = rules[j], rules[i] })
			}
		}
		for range random.IntN(8) {
			n := 0
			if len(rules) > 0 {
				n = random.IntN(len(rules) + 1)
			}
			rules = slices.Insert(rules, n, byFamily(randomRule(random, name))...)
		}
		f.put(name, FirewallChain{firewallChain{name: name}.wantBase(), uniqueNames(rules)})
	}
	if len(f.chains()) == 0 {
		return nil
	}
	return f
}

func randomRule(random *rand.Rand, chain string) FirewallRule {
	one := func(in int) bool { return random.IntN(in) == 0 }
	r := FirewallRule{Name: []string{"ssh", "web", "a longer name", "ünïcode", "X_y", "DNS (IPv6)"}[random.IntN(6)], Drop: one(4)}
	links := func() []string {
		if one(2) {
			return nil
		}
		return sorted([]string{"lo", "eth0", "a-15-byte-name0"}[:1+random.IntN(3)])
	}
	ranges := func() (list []netip.Prefix) {
		for range random.IntN(4) {
			a := netip.AddrFrom4([4]byte{byte(random.IntN(256)), byte(random.IntN(256)), 0, 0})
			if one(2) {
				a = netip.AddrFrom16([16]byte{0x20, 1, byte(random.IntN(256)), 15: byte(random.IntN(256))})
			}
			list = append(list, netip.PrefixFrom(a, random.IntN(a.BitLen()+1)))
		}
		return list
	}
	r.From = ranges()
	if chain != masqueradeChain {
		r.Interfaces = links()
	}
	if chain != inputChain {
		r.Outbound, r.To, r.NotTo = links(), ranges(), ranges()
	}
	if chain == masqueradeChain {
		r.Drop, r.Masquerade = false, true
		return r
	}
	if one(3) {
		r.Limit = &FirewallLimit{
			Count: 1 + random.IntN(3000), Burst: 1 + random.IntN(100), BySource: one(2),
			Per: []time.Duration{time.Second, time.Minute, time.Hour, 24 * time.Hour}[random.IntN(4)],
		}
	}
	var ports []uint16
	for range random.IntN(5) {
		ports = append(ports, uint16(random.IntN(65536)), uint16(random.IntN(8)), uint16(65535-random.IntN(4)))
	}
	r.DNAT = one(5)
	switch random.IntN(4) {
	case 0:
		r.Protocol, r.Ports = "tcp", portRanges(ports)
	case 1:
		r.Protocol, r.SourcePorts = "udp", portRanges(ports)
	case 2:
		r.Protocol, r.Types = "icmpv6", []uint8{1, 128, 255}[:random.IntN(4)]
		if len(r.Types) == 0 {
			r.Types = nil
		}
	default:
		r.States = []string{"established", "invalid", "related"}[:random.IntN(4)]
		if len(r.States) == 0 {
			r.States = nil
		}
	}
	return r
}

// Whatever somebody changes in nodeagent's table is seen and mended, even where
// the comment says that it is a rule of nodeagent's.
func TestFirewallTampering(t *testing.T) {
	newNamespace(t)
	want := wantFirewall(firewallSpec())
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: FirewallTable}
	chain := &nftables.Chain{Name: inputChain, Table: table}
	accept := &expr.Verdict{Kind: expr.VerdictAccept}
	comment := func(name string) []byte {
		return userdata.AppendString(nil, userdata.TypeComment, name)
	}
	rule := func(t *testing.T, c *nftables.Conn, name string) *nftables.Rule {
		rules, err := c.GetRules(table, chain)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			if got, _ := userdata.GetString(r.UserData, userdata.TypeComment); got == name {
				r.Table, r.Chain = table, chain
				return r
			}
		}
		t.Fatalf("no rule %q", name)
		return nil
	}
	// again is the rule with sets of its own: an anonymous set serves one rule.
	again := func(t *testing.T, c *nftables.Conn, name string) *nftables.Rule {
		r := rule(t, c, name)
		i := slices.IndexFunc(want.Rules, func(w FirewallRule) bool { return w.Name == name })
		exprs, err := compileRule(inputChain, want.Rules[i], Counter{}, func(s keySet) (string, uint32) {
			set := &nftables.Set{Table: table, Anonymous: true, Constant: true, Interval: s.interval, KeyType: s.key}
			if err := c.AddSet(set, libraryElements(s)); err != nil {
				t.Fatal(err)
			}
			return set.Name, set.ID
		})
		if err != nil {
			t.Fatal(err)
		}
		r.Exprs = exprs
		return r
	}
	for name, tamper := range map[string]func(*testing.T, *nftables.Conn){
		"rule deleted": func(t *testing.T, c *nftables.Conn) {
			if err := c.DelRule(rule(t, c, "ssh")); err != nil {
				t.Fatal(err)
			}
		},
		"accept all in front": func(t *testing.T, c *nftables.Conn) {
			c.InsertRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{accept}})
		},
		"accept all under a name of ours": func(t *testing.T, c *nftables.Conn) {
			r := rule(t, c, "loopback")
			r.Exprs = []expr.Any{accept}
			c.ReplaceRule(r)
		},
		"a counter in front": func(t *testing.T, c *nftables.Conn) {
			r := again(t, c, "loopback")
			r.Exprs = append([]expr.Any{&expr.Counter{}}, r.Exprs...)
			c.ReplaceRule(r)
		},
		"numgen before the verdict": func(t *testing.T, c *nftables.Conn) {
			r := again(t, c, "web")
			last := len(r.Exprs) - 1
			r.Exprs = slices.Insert(r.Exprs, last, expr.Any(&expr.Numgen{Register: 1, Modulus: 2, Type: 0}))
			c.ReplaceRule(r)
		},
		"inverted lookup": func(t *testing.T, c *nftables.Conn) {
			set := &nftables.Set{Table: table, Anonymous: true, Constant: true, KeyType: nftables.TypeIFName}
			if err := c.AddSet(set, libraryElements(interfaceSet([]string{"lo"}))); err != nil {
				t.Fatal(err)
			}
			r := rule(t, c, "loopback")
			r.Exprs = []expr.Any{
				&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
				&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID, Invert: true}, accept,
			}
			c.ReplaceRule(r)
		},
		"a named set in place of ours": func(t *testing.T, c *nftables.Conn) {
			set := &nftables.Set{Table: table, Name: "mine", KeyType: nftables.TypeIFName}
			if err := c.AddSet(set, libraryElements(interfaceSet([]string{"lo"}))); err != nil {
				t.Fatal(err)
			}
			r := rule(t, c, "loopback")
			r.Exprs = []expr.Any{
				&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
				&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID}, accept,
			}
			c.ReplaceRule(r)
		},
		"renamed": func(t *testing.T, c *nftables.Conn) {
			r := again(t, c, "ssh")
			r.UserData = comment("web")
			c.ReplaceRule(r)
		},
		"policy": func(t *testing.T, c *nftables.Conn) {
			policy := nftables.ChainPolicyAccept
			c.AddChain(&nftables.Chain{
				Name: inputChain, Table: table, Type: nftables.ChainTypeFilter,
				Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Policy: &policy,
			})
		},
		"emptied": func(t *testing.T, c *nftables.Conn) { c.FlushChain(chain) },
		"another chain": func(t *testing.T, c *nftables.Conn) {
			c.AddChain(&nftables.Chain{
				Name: "late", Table: table, Type: nftables.ChainTypeFilter,
				Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
			})
		},
		"chain deleted": func(t *testing.T, c *nftables.Conn) { c.DelTable(table); c.AddTable(table) },
		"table deleted": func(t *testing.T, c *nftables.Conn) { c.DelTable(table) },
	} {
		t.Run(name, func(t *testing.T) {
			newNamespace(t)
			convergeFirewall(t, want)
			conn, err := nftables.New()
			if err != nil {
				t.Fatal(err)
			}
			tamper(t, conn)
			if err := conn.Flush(); err != nil {
				t.Fatal(err)
			}
			changes := diffFirewall(mustFirewall(t), want)
			if len(changes) == 0 {
				t.Fatal("not seen")
			}
			for _, c := range changes {
				t.Logf("%s %s: %s: %q, want %q", c.Action, c.Key, c.Reason, c.Before, c.After)
			}
			convergeFirewall(t, want)
		})
	}
}

// Tables of others stay as they are, down to the handles of their rules.
func TestFirewallLeavesOtherTables(t *testing.T) {
	newNamespace(t)
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	var tables []*nftables.Table
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyIPv4} {
		for _, name := range []string{"filter", "nodeagent-other", FirewallTable} {
			if family == nftables.TableFamilyINet && name == FirewallTable {
				continue // ours; one of family ip is not
			}
			table := conn.AddTable(&nftables.Table{Family: family, Name: name})
			chain := conn.AddChain(&nftables.Chain{Name: inputChain, Table: table})
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}})
			tables = append(tables, table)
		}
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	handles := func() (list []string) {
		for _, table := range tables {
			rules, err := conn.GetRules(table, &nftables.Chain{Name: inputChain})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rules {
				list = append(list, fmt.Sprint(table.Family, table.Name, r.Handle))
			}
		}
		return list
	}
	before := handles()
	if len(before) != len(tables) {
		t.Fatalf("rules %v in %d tables", before, len(tables))
	}
	convergeFirewall(t, wantFirewall(firewallSpec()))
	convergeFirewall(t, wantFirewall(&hosts.Spec{Firewall: hosts.Firewall{Enabled: true}}))
	convergeFirewall(t, nil)
	if after := handles(); !slices.Equal(before, after) {
		t.Errorf("rules of others: %v, they were %v", after, before)
	}
}

// BenchmarkFirewallObserve is what the firewall adds to a converge without
// changes.
func BenchmarkFirewallObserve(b *testing.B) {
	newNamespace(b)
	want := wantFirewall(firewallSpec())
	convergeFirewall(b, want)
	for b.Loop() {
		if changes := diffFirewall(mustFirewall(b), want); len(changes) > 0 {
			b.Fatal(changes)
		}
	}
}
