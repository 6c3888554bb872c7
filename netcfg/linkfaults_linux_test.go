package netcfg

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// refused applies the plan, which must fail and say so.
func refused(t *testing.T, sys *System, changes []plan.Change, texts ...string) {
	t.Helper()
	err := sys.Apply(t.Context(), changes, plan.Silent{})
	if err == nil {
		t.Fatalf("apply met no error; plan was\n%s", printed(changes))
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error is\n%v\nwant in it\n%s", err, text)
		}
	}
}

// TestLinkThatVanishesBetweenObserveAndApply: the error names it, and the next
// run makes it again.
func TestLinkThatVanishesBetweenObserveAndApply(t *testing.T) {
	newNamespace(t)
	somebodysVeth(t, "lan0", "wire0")
	sys := open(t)
	bridge := func(stp bool) State {
		return network([]hosts.Link{{Name: "br0", Kind: hosts.LinkBridge, Bridge: &hosts.Bridge{STP: &stp}, Addresses: hosts.Plain(netip.MustParsePrefix("10.0.0.1/24"))}})
	}
	converge(t, sys, bridge(false))
	changes := diffNow(t, sys, bridge(true))
	must(t, netlink.LinkDel(linkNamed(t, "br0")))
	refused(t, sys, changes, `find link "br0": it is not on this host`)
	converge(t, sys, bridge(true))

	macvlan := network([]hosts.Link{physical("lan0"), {Name: "mv0", Kind: hosts.LinkMacvlan, Parent: "lan0", Macvlan: &hosts.Macvlan{Mode: "bridge"}}})
	changes = diffNow(t, sys, macvlan)
	must(t, netlink.LinkDel(linkNamed(t, "lan0")))
	refused(t, sys, changes, `create macvlan "mv0": find link "lan0": it is not on this host`)
	refused(t, sys, diffNow(t, sys, macvlan), `link "lan0" is not on this host; links found: `, `the link "lan0" that it lies upon cannot be had`)
	somebodysVeth(t, "lan0", "wire0")
	converge(t, sys, macvlan)
}

// TestLinkThatIsBusy: macvlan and master exclude each other.
func TestLinkThatIsBusy(t *testing.T) {
	newNamespace(t)
	somebodysVeth(t, "lan0", "wire0")
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "docker0", TxQLen: -1}}))
	must(t, netlink.LinkSetMaster(linkNamed(t, "lan0"), linkNamed(t, "docker0")))
	sys := open(t)
	macvlan := network([]hosts.Link{physical("lan0"), {Name: "mv0", Kind: hosts.LinkMacvlan, Parent: "lan0", Macvlan: &hosts.Macvlan{Mode: "bridge"}}})
	refused(t, sys, diffNow(t, sys, macvlan), `create macvlan "mv0": device or resource busy`, `link "lan0" is taken: it is a port of a bridge or bond`)
	must(t, netlink.LinkSetNoMaster(linkNamed(t, "lan0")))
	converge(t, sys, macvlan)

	// The macvlan that the spec drops makes room for the master; somebody's does not.
	port := network([]hosts.Link{{Name: "br0", Kind: hosts.LinkBridge}, {Name: "lan0", Kind: hosts.LinkPhysical, Master: "br0"}})
	converge(t, sys, port)
	converge(t, sys, State{})
	must(t, netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "theirs", TxQLen: -1, ParentIndex: linkNamed(t, "lan0").Attrs().Index}, Mode: netlink.MACVLAN_MODE_BRIDGE}))
	refused(t, sys, diffNow(t, sys, port), `set master of link "lan0" to "br0": device or resource busy`, "it is a port of another master, or has a macvlan upon it")
	must(t, netlink.LinkDel(linkNamed(t, "theirs")))
	converge(t, sys, port)
}

// TestLinkOfSomebodysName is left alone unless the spec takes it over.
func TestLinkOfSomebodysName(t *testing.T) {
	newNamespace(t)
	sys := open(t)
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "docker0", TxQLen: -1}}))
	somebodysAddress(t, "docker0", "172.17.0.1/16")
	before := dumpNetwork(t)
	link := hosts.Link{Name: "docker0", Kind: hosts.LinkBridge, Addresses: hosts.Plain(netip.MustParsePrefix("172.17.0.1/16"), netip.MustParsePrefix("10.0.0.1/24"))}
	refused(t, sys, diffNow(t, sys, network([]hosts.Link{link})), `link "docker0" is a bridge that Docker made; write adopt = true to take it over`)
	if d := cmp.Diff(before, dumpNetwork(t)); d != "" {
		t.Errorf("somebody's link changed (-before +after):\n%s", d)
	}

	link.Adopt = true
	want := network([]hosts.Link{link})
	have, err := sys.Before(t.Context(), "", want)
	must(t, err)
	back, err := Back(have, want)
	must(t, err)
	changes := converge(t, sys, want)
	if a := linkNamed(t, "docker0").Attrs(); a.Alias != LinkAlias {
		t.Errorf("alias is %q; plan was\n%s", a.Alias, printed(changes))
	}
	converge(t, sys, stored(t, back))
	if a := linkNamed(t, "docker0").Attrs(); a.Alias != "" {
		t.Errorf("alias is %q on the way back", a.Alias)
	}
	if left := diffNow(t, sys, State{}); len(left) > 0 {
		t.Errorf("given back, it is still ours:\n%s", printed(left))
	}

	vxlan := func(id int) State {
		return network([]hosts.Link{{Name: "docker0", Kind: hosts.LinkVXLAN, Adopt: true, VXLAN: &hosts.VXLAN{ID: id, Port: 4789}}})
	}
	refused(t, sys, diffNow(t, sys, vxlan(5)), `link "docker0" is a bridge that nodeagent did not make`)
}

// TestPortIsReleased when no spec names the link any more; a port that somebody
// else put into nodeagent's bridge stays.
func TestPortIsReleased(t *testing.T) {
	newNamespace(t)
	somebodysVeth(t, "lan0", "wire0")
	somebodysVeth(t, "pod0", "podwire0")
	sys := open(t)
	bridge := hosts.Link{Name: "br0", Kind: hosts.LinkBridge}
	converge(t, sys, network([]hosts.Link{bridge, {Name: "lan0", Kind: hosts.LinkPhysical, Master: "br0"}}))
	must(t, netlink.LinkSetMaster(linkNamed(t, "pod0"), linkNamed(t, "br0")))
	changes := converge(t, sys, network([]hosts.Link{bridge}))
	want := "update link lan0 [disconnect] \"veth to wire0, master br0, mtu 1500, up\" -> \"veth to wire0, mtu 1500, up\": nodeagent made it a port of br0 and the spec no longer names it\n"
	if got := printed(changes); got != want {
		t.Errorf("plan is\n%swant\n%s", got, want)
	}
	if a := linkNamed(t, "lan0").Attrs(); a.MasterIndex != 0 || a.Group != 0 {
		t.Errorf("lan0 has master %d and group %d", a.MasterIndex, a.Group)
	}
	if a := linkNamed(t, "pod0").Attrs(); a.MasterIndex == 0 {
		t.Error("somebody's port was taken out")
	}
}

// TestDownAndUpKeepsWhatHangsOnTheLink, whoever made it.
func TestDownAndUpKeepsWhatHangsOnTheLink(t *testing.T) {
	newNamespace(t)
	withoutDAD(t)
	somebodysVeth(t, "lan0", "wire0")
	sys := open(t)
	must(t, sys.newLink(Link{Name: "mv0", Kind: hosts.LinkMacvlan, Parent: "lan0"}))
	must(t, netlink.LinkSetUp(linkNamed(t, "mv0")))
	somebodysAddress(t, "lan0", "192.0.2.7/24")
	somebodysAddress(t, "lan0", "2001:db8::7/64")
	must(t, sys.waitForSource(t.Context(), netip.MustParseAddr("2001:db8::7")))
	somebodysRoute(t, "lan0", "0.0.0.0/0", "192.0.2.1", 100, unix.RTPROT_DHCP)
	somebodysRoute(t, "lan0", "198.51.100.0/24", "", 0, unix.RTPROT_STATIC)
	for _, args := range []string{
		"-6 route add default via 2001:db8::1 dev lan0 proto static src 2001:db8::7",
		"route add 203.0.113.0/24 proto bird table 99 nexthop via 192.0.2.3 weight 2 nexthop via 192.0.2.4",
		"route add 10.9.0.0/16 via 192.0.2.1 dev lan0 mtu 1300 onlink",
	} {
		out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(args)...).CombinedOutput()
		if err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	before := dumpNetwork(t)
	wasDown := false
	must(t, sys.whileDown(t.Context(), "lan0", func() error {
		wasDown = !isUp(linkNamed(t, "lan0"))
		return nil
	}))
	if d := cmp.Diff(before, dumpNetwork(t)); d != "" || !wasDown {
		t.Errorf("down %v; afterwards (-before +after):\n%s", wasDown, d)
	}
}

// TestAddressOptions as ip(8) shows them; lifetimes count down and are no change.
func TestAddressOptionsOfLink(t *testing.T) {
	newNamespace(t)
	somebodysVeth(t, "lan0", "wire0")
	sys := open(t)
	prefix := netip.MustParsePrefix
	of := func(addresses ...hosts.Address) State {
		return network([]hosts.Link{{Name: "lan0", Kind: hosts.LinkPhysical, Addresses: addresses}})
	}
	want := of(
		hosts.Address{Prefix: prefix("192.0.2.1/24"), Scope: "link"},
		hosts.Address{Prefix: prefix("198.51.100.1/24"), Valid: time.Hour, Preferred: 30 * time.Minute},
		hosts.Address{Prefix: prefix("203.0.113.1/24"), Deprecated: true},
		hosts.Address{Prefix: prefix("2001:db8::1/64"), NoDAD: true, Deprecated: true},
		hosts.Address{Prefix: prefix("2001:db8::2/64"), NoDAD: true, Valid: time.Hour},
	)
	converge(t, sys, want)
	out, err := exec.CommandContext(t.Context(), "ip", "-o", "address", "show", "dev", "lan0").Output()
	must(t, err)
	for address, words := range map[string][]string{
		"192.0.2.1/24": {"scope link", "valid_lft forever"}, "198.51.100.1/24": {"dynamic", "preferred_lft 1"},
		"203.0.113.1/24": {"deprecated"}, "2001:db8::1/64": {"nodad", "deprecated", "preferred_lft 0sec"},
	} {
		line := linesWith(string(out), address)
		for _, word := range words {
			if !strings.Contains(line, word) {
				t.Errorf("%s is shown as %q, want %q", address, line, word)
			}
		}
	}
	// An address that is over is missing, and added again.
	ip(t, "address change 2001:db8::2/64 dev lan0 nodad valid_lft 1 preferred_lft 1")
	deadline := time.Now().Add(time.Minute)
	for len(addressLines(t, "2001:db8::2/64")) > 0 {
		if time.Now().After(deadline) {
			t.Fatal("an address of one second is there after a minute")
		}
		time.Sleep(20 * time.Millisecond) // polled
	}
	if got := printed(converge(t, sys, want)); got != "create address 2001:db8::2/64 on lan0 [quiet] \"\" -> \"2001:db8::2/64 nodad, valid 1h0m0s\": the spec names it and the host lacks it\n" {
		t.Errorf("plan is\n%s", got)
	}
	got := printed(converge(t, sys, of(
		hosts.Address{Prefix: prefix("192.0.2.1/24"), Scope: "global"},
		hosts.Address{Prefix: prefix("198.51.100.1/24"), Valid: time.Minute},
		hosts.Address{Prefix: prefix("203.0.113.1/24")},
		hosts.Address{Prefix: prefix("2001:db8::1/64")},
	)))
	for _, text := range []string{
		`[disconnect] "192.0.2.1/24 scope link" -> "192.0.2.1/24": the spec wants scope global in 192.0.2.0/24`,
		"the spec wants it valid for 1m0s, preferred for 1m0s", "the spec wants it preferred for ever",
		"the spec wants it with duplicate address detection, preferred for ever", "delete address 2001:db8::2/64",
	} {
		if !strings.Contains(got, text) {
			t.Errorf("plan is\n%swant in it\n%s", got, text)
		}
	}
}

// addressLines are those of ip(8) that show the address.
func addressLines(t *testing.T, address string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ip", "-o", "address", "show").Output()
	must(t, err)
	return linesWith(string(out), address)
}

// TestAddressThatVanishesBetweenObserveAndApply is added by the very plan that
// was to change it.
func TestAddressThatVanishesBetweenObserveAndApply(t *testing.T) {
	newNamespace(t)
	somebodysVeth(t, "lan0", "wire0")
	sys := open(t)
	of := func(valid time.Duration, scope string) State {
		return network([]hosts.Link{{Name: "lan0", Kind: hosts.LinkPhysical, Addresses: []hosts.Address{
			{Prefix: netip.MustParsePrefix("192.0.2.1/24"), Valid: valid, Scope: scope},
			{Prefix: netip.MustParsePrefix("2001:db8::1/64"), Valid: valid, NoDAD: true},
		}}})
	}
	for _, want := range []State{of(time.Minute, ""), of(time.Minute, "link"), {}} {
		converge(t, sys, State{}) // what is left of a lifetime is never made longer
		converge(t, sys, of(time.Hour, ""))
		changes := diffNow(t, sys, want)
		if len(changes) < 2 {
			t.Fatalf("the plan under test is too small:\n%s", printed(changes))
		}
		ip(t, "address flush dev lan0 scope global")
		must(t, sys.Apply(t.Context(), changes, plan.Silent{}))
		if left := diffNow(t, sys, want); len(left) > 0 {
			t.Errorf("there is still\n%s\nplan was\n%s", printed(left), printed(changes))
		}
	}
}

// TestLifetimeThatEnds: in its last second the kernel reports 0, which is not
// for ever.
func TestLifetimeThatEnds(t *testing.T) {
	prefix := netip.MustParsePrefix("2001:db8::2/64")
	for name, k := range map[string]kernelAddress{
		"both":                    {prefix: prefix},
		"the preferred one":       {prefix: prefix, valid: 7},
		"the preferred one, seen": {prefix: prefix, valid: 7, deprecated: true},
	} {
		w := Address{Prefix: prefix, Valid: 8 * time.Second, Preferred: 2 * time.Second}
		if reasons := addressReasons(k.managed(true), w); len(reasons) > 0 {
			t.Errorf("%s: the spec wants it %v", name, reasons)
		}
		if reasons := addressReasons(k.managed(true), Address{Prefix: prefix}); len(reasons) == 0 {
			t.Errorf("%s: it passes for one without an end", name)
		}
	}
}

// TestForeign lists what nodeagent neither made nor manages.
func TestForeignLinksAndAddresses(t *testing.T) {
	newNamespace(t)
	somebodysVeth(t, "lan0", "wire0")
	somebodysAddress(t, "lan0", "192.0.2.77/24")
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "docker0", TxQLen: -1}}))
	somebodysAddress(t, "docker0", "172.17.0.1/16")
	sys := open(t)
	want := Want(mercury())
	converge(t, sys, want)
	list, err := sys.Foreign(t.Context(), want)
	must(t, err)
	var got []Foreign
	for _, f := range list {
		if f.Kind == "link" || f.Kind == "address" {
			got = append(got, f)
		}
	}
	expected := []Foreign{
		{"link", "docker0", "bridge, mtu 1500, down", "Docker"},
		{"link", "wire0", "veth to lan0, mtu 1500, up", "somebody else"},
		{"address", "172.17.0.1/16 on docker0", "for ever", "somebody else"},
		{"address", "192.0.2.77/24 on lan0", "for ever", "somebody else"},
	}
	if d := cmp.Diff(expected, got); d != "" {
		t.Errorf("foreign (-want +got):\n%s", d)
	}
}
