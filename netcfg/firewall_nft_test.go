package netcfg

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
)

// nft runs the tool that others wrote in the test's namespace.
func nft(t testing.TB, input string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("nft")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("nft is not installed; the cross-check must run in CI")
		}
		t.Skip("nft is not installed; install nftables")
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Stdin = strings.NewReader(input)
	var out, failed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failed
	if err := cmd.Run(); err != nil {
		t.Fatalf("nft %q: %v: %s", args, err, failed.String())
	}
	return out.String()
}

// everythingSpec has a rule of every kind.
func everythingSpec() *hosts.Spec {
	spec := firewallSpec()
	spec.Network.WireGuard.Address = netip.MustParsePrefix("10.9.0.1/24")
	spec.Network.WireGuard.Clients = []hosts.WireGuardClient{{Name: "laptop", Addresses: firewallPrefixes("10.9.0.200/32")}}
	spec.Firewall.Allow = append(spec.Firewall.Allow,
		hosts.Allow{Name: "slow", Protocol: "tcp", Ports: []uint16{8022}, Limit: &hosts.Limit{Count: 6, Per: time.Minute, Burst: 5}},
		hosts.Allow{Name: "slow each", Protocol: "tcp", Ports: []uint16{8023}, Limit: &hosts.Limit{Count: 6, Per: time.Minute, Burst: 5, BySource: true}},
	)
	spec.Firewall.Forward = &hosts.Forward{Allow: []hosts.ForwardAllow{
		{Name: "admins", Protocol: "tcp", Ports: []uint16{22}, From: firewallPrefixes("10.9.0.200/32"), Inbound: []string{"wg0"}, Outbound: []string{"wg0"}},
		{Name: "mail", Protocol: "tcp", Ports: []uint16{25}, To: firewallPrefixes("198.51.100.7/32", "2001:db8::7/128"), Outbound: []string{"lan0"}},
	}}
	spec.Firewall.Masquerade = []hosts.Masquerade{{
		Name: "pods", From: firewallPrefixes("10.244.0.0/16"), Except: firewallPrefixes("10.244.0.0/16", "10.9.0.0/24", "192.0.2.0/24"),
	}}
	return spec
}

// The nft command reads the table as we mean it, and its own listing loads.
func TestFirewallReadsWellInNFT(t *testing.T) {
	newNamespace(t)
	want := wantFirewall(everythingSpec())
	convergeFirewall(t, want)
	listing := nft(t, "", "--stateless", "list", "table", "inet", FirewallTable)
	for _, line := range []string{
		`iifname { "lo" } counter accept comment "loopback"`,
		`ct state { established, related } counter accept comment "replies"`,
		`icmp type { destination-unreachable, time-exceeded, parameter-problem } counter accept comment "icmp errors"`,
		`ip saddr { 198.51.100.0/24 } tcp dport { 22 } counter accept comment "ssh"`,
		`iifname { "lan0" } ip saddr { 203.0.113.0/24 } udp dport { 53 } counter accept comment "both"`,
		`tcp dport { 8022 } limit rate 6/minute counter accept comment "slow"`,
		`tcp dport { 8023 } update @input-slow_each { ip saddr limit rate 6/minute } counter accept comment "slow each"`,
		`counter drop comment "everything else"`,
		`type filter hook forward priority filter; policy drop;`,
		`ct status dnat counter accept comment "services"`,
		`iifname { "wg0" } oifname { "wg0" } ip saddr { 10.9.0.200 } tcp dport { 22 } counter accept comment "admins"`,
		`oifname { "lan0" } ip daddr { 198.51.100.7 } tcp dport { 25 } counter accept comment "mail"`,
		`type nat hook postrouting priority srcnat; policy accept;`,
		`ip saddr { 10.244.0.0/16 } ip daddr != { 10.9.0.0/24, 10.244.0.0/16, 192.0.2.0/24 } counter masquerade comment "pods"`,
	} {
		if !strings.Contains(listing, line) {
			t.Errorf("nft does not list %q", line)
		}
	}
	if t.Failed() {
		t.Log(listing)
	}
	// Loaded by nft itself the table is the same, but for sets of one element, in
	// the place of which nft makes a comparison.
	alone := regexp.MustCompile(`\{ ([^,{}]+) \}`)
	nft(t, "delete table inet "+FirewallTable+"\n"+listing, "-f", "-")
	if again := nft(t, "", "--stateless", "list", "table", "inet", FirewallTable); alone.ReplaceAllString(again, "$1") != alone.ReplaceAllString(listing, "$1") {
		t.Errorf("its listing loads as\n%s\nwas\n%s", again, listing)
	}
	convergeFirewall(t, want)
}

// nft's JSON has the chains, and as many rules as we mean to have, each with
// its name and its counter.
func TestFirewallInNFTJSON(t *testing.T) {
	newNamespace(t)
	want := wantFirewall(everythingSpec())
	convergeFirewall(t, want)
	var document struct {
		NFTables []struct {
			Chain *struct{ Name, Type, Hook, Policy string }
			Rule  *struct {
				Chain, Comment string
				Expr           []map[string]json.RawMessage
			}
		}
	}
	must(t, json.Unmarshal([]byte(nft(t, "", "-j", "list", "ruleset")), &document))
	chains := map[string]string{}
	rules := map[string][]string{}
	for _, object := range document.NFTables {
		if c := object.Chain; c != nil {
			chains[c.Name] = fmt.Sprintf("%s %s %s", c.Type, c.Hook, c.Policy)
		}
		if r := object.Rule; r != nil {
			rules[r.Chain] = append(rules[r.Chain], r.Comment)
			if last := len(r.Expr) - 2; last < 0 || r.Expr[last]["counter"] == nil {
				t.Errorf("rule %q does not end with a counter and a verdict: %v", r.Comment, r.Expr)
			}
		}
	}
	for name, shape := range map[string]string{inputChain: "filter input drop", forwardChain: "filter forward drop", masqueradeChain: "nat postrouting accept"} {
		if chains[name] != shape {
			t.Errorf("chain %s is %q, want %q", name, chains[name], shape)
		}
	}
	for _, c := range want.chains() {
		meant := names(c.Rules)
		if chainShapes[c.name].drops {
			meant += ", " + restName
		}
		if got := strings.Join(rules[c.name], ", "); got != meant {
			t.Errorf("chain %s has rules %s, want %s", c.name, got, meant)
		}
	}
}

// manyRanges are n ranges that no two of which can be merged.
func manyRanges(n int) []netip.Prefix {
	var list []netip.Prefix
	for i := range n {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 7), byte(i << 1), 0}), 24))
	}
	return list
}

// manySpec opens a port to 5,000 ranges.
func manySpec(from []netip.Prefix) *hosts.Spec {
	return &hosts.Spec{Firewall: hosts.Firewall{Enabled: true, Allow: []hosts.Allow{{Name: "many", Protocol: "tcp", Ports: []uint16{22}, From: from}}}}
}

// A set of thousands of ranges is read back as it was written.
func TestFirewallManyRanges(t *testing.T) {
	newNamespace(t)
	ranges := manyRanges(5000)
	six := make([]netip.Prefix, 0, 3000)
	for i := range 3000 {
		six = append(six, netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 4: byte(i >> 7), 5: byte(i << 1)}), 48))
	}
	convergeFirewall(t, wantFirewall(manySpec(append(ranges, six...))))
	convergeFirewall(t, wantFirewall(manySpec(ranges[1:])))
}

// BenchmarkFirewallSet sets a table with a set of 5,000 ranges beside the nft
// command, in one run: from nothing, once more, and with one range changed. What
// nodeagent does includes reading the table before and after, as converge does.
func BenchmarkFirewallSet(b *testing.B) {
	ranges := manyRanges(5000)
	changed := append([]netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}, ranges[1:]...)
	first, second := wantFirewall(manySpec(ranges)), wantFirewall(manySpec(changed))
	apply := func(b *testing.B, want *Firewall) {
		changes := diffFirewall(mustFirewall(b), want)
		if len(changes) == 0 {
			return
		}
		must(b, changes[0].Payload.(op).apply(b.Context(), nil))
		if left := diffFirewall(mustFirewall(b), want); len(left) > 0 {
			b.Fatal(left)
		}
	}
	file := func(b *testing.B, want *Firewall) string {
		apply(b, want)
		list := nft(b, "", "--stateless", "list", "table", "inet", FirewallTable)
		apply(b, nil)
		path := b.TempDir() + "/rules.nft"
		must(b, os.WriteFile(path, []byte("table inet "+FirewallTable+"\ndelete table inet "+FirewallTable+"\n"+list), 0o600))
		return path
	}
	newNamespace(b)
	one, two := file(b, first), file(b, second)
	run := func(name string, before, nodeagent, tool func(b *testing.B)) {
		for who, f := range map[string]func(*testing.B){"nodeagent": nodeagent, "nft": tool} {
			b.Run(name+"/"+who, func(b *testing.B) {
				newNamespace(b)
				for b.Loop() {
					b.StopTimer()
					before(b)
					b.StartTimer()
					f(b)
				}
			})
		}
	}
	load := func(path string) func(*testing.B) { return func(b *testing.B) { nft(b, "", "-f", path) } }
	set := func(want *Firewall) func(*testing.B) { return func(b *testing.B) { apply(b, want) } }
	run("from nothing", set(nil), set(first), load(one))
	run("no-op", set(first), set(first), load(one))
	run("one changed", set(first), set(second), load(two))
}

// The way back restores the table exactly, from what a file kept of it.
func TestFirewallGoesBack(t *testing.T) {
	newNamespace(t)
	full := wantFirewall(everythingSpec())
	fewer := everythingSpec()
	fewer.Firewall.Allow, fewer.Firewall.Forward.Allow, fewer.Firewall.Masquerade = nil, nil, nil
	alone := &hosts.Spec{Firewall: hosts.Firewall{Masquerade: everythingSpec().Firewall.Masquerade}}
	// Chain by chain: the order in which the table holds its chains means
	// nothing, and is that in which they were made.
	list := func() string {
		if mustFirewall(t) == nil {
			return ""
		}
		all := nft(t, "", "--stateless", "list", "sets")
		for _, c := range mustFirewall(t).chains() {
			all += nft(t, "", "--stateless", "list", "chain", "inet", FirewallTable, c.name)
		}
		return all
	}
	for name, want := range map[string]*Firewall{"fewer rules": wantFirewall(fewer), "masquerade alone": wantFirewall(alone), "none": nil} {
		convergeFirewall(t, full)
		before := list()
		back, err := Back(State{Firewall: mustFirewall(t)}, State{Firewall: want})
		must(t, err)
		convergeFirewall(t, want)
		if list() == before {
			t.Fatalf("%s: nothing changed: this proves nothing", name)
		}
		convergeFirewall(t, stored(t, back).Firewall)
		if after := list(); after != before {
			t.Errorf("%s: gone back it is\n%s\nwas\n%s", name, after, before)
		}
	}
}
