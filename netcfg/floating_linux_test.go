package netcfg

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
)

var floatingAddresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.9/32"), netip.MustParsePrefix("2001:db8::9/128")}

// A held address is on the link as long as somebody holds it, and no longer: the
// kernel takes it away when the agent does not come back.
func TestFloatingLapses(t *testing.T) {
	newFirewallPair(t)
	sys := open(t)
	for _, address := range floatingAddresses {
		here := func() bool {
			here, up, err := sys.FloatingHere("lan0", address)
			must(t, err)
			if !up {
				t.Error("lan0 has no carrier")
			}
			return here
		}
		if here() {
			t.Fatalf("%s is there before it was put", address)
		}
		must(t, sys.Drop(t.Context(), "lan0", address)) // not there: no error
		must(t, sys.Hold(t.Context(), "lan0", address, 60*time.Second))
		if !here() {
			t.Fatalf("%s is not there", address)
		}
		if left := lifetime(t, "lan0", address); left < 50 || left > 60 {
			t.Errorf("%s lives for %d s, want 60", address, left)
		}
		must(t, sys.Hold(t.Context(), "lan0", address, 1500*time.Millisecond))
		if left := lifetime(t, "lan0", address); left > 1 { // or none: over already
			t.Errorf("%s lives for %d s, want 1: rounded down", address, left)
		}
		eventually(t, address.String()+" lapses", func() bool { return !here() })
		must(t, sys.Hold(t.Context(), "lan0", address, time.Minute))
		must(t, sys.Drop(t.Context(), "lan0", address))
		if here() {
			t.Errorf("%s is there after it was dropped", address)
		}
	}
}

// lifetime is what is left of an address' valid lifetime in seconds, 0 of one
// that is not there.
func lifetime(t *testing.T, link string, address netip.Prefix) int {
	t.Helper()
	addresses, err := netlink.AddrList(linkNamed(t, link), netlink.FAMILY_ALL)
	must(t, err)
	for _, a := range addresses {
		if ip, _ := netip.AddrFromSlice(a.IP); ip.Unmap() == address.Addr() {
			return a.ValidLft
		}
	}
	return 0
}

// Plans neither add nor delete a floating address, on any kind of link.
func TestFloatingIsNoDrift(t *testing.T) {
	newFirewallPair(t)
	sys := open(t)
	want := Want(&hosts.Spec{Network: hosts.Network{Links: []hosts.Link{
		{Name: "lan0", Kind: hosts.LinkPhysical, Addresses: hosts.Plain(netip.MustParsePrefix("192.0.2.1/24"))},
		{Name: "br0", Kind: hosts.LinkBridge, Addresses: hosts.Plain(netip.MustParsePrefix("198.51.100.1/24"))},
	}}})
	converge(t, sys, want)
	for _, link := range []string{"lan0", "br0"} {
		for _, address := range floatingAddresses {
			must(t, sys.Hold(t.Context(), link, address, time.Minute))
			if changes := diffNow(t, sys, want); len(changes) > 0 {
				t.Errorf("with %s on %s the plan has\n%s", address, link, printed(changes))
			}
			must(t, sys.Drop(t.Context(), link, address))
		}
	}
}

func TestFloatingOfSomebodyElse(t *testing.T) {
	newFirewallPair(t)
	sys := open(t)
	somebodysAddress(t, "lan0", "192.0.2.9/32")
	if _, _, err := sys.FloatingHere("lan0", floatingAddresses[0]); err == nil {
		t.Error("an address of somebody else's passes for ours")
	}
	if here, up, err := sys.FloatingHere("eth9", floatingAddresses[0]); here || up || err != nil {
		t.Errorf("on a link that is not there: %v %v %v", here, up, err)
	}
	must(t, netlink.LinkSetDown(linkNamed(t, "lan0")))
	if _, up, err := sys.FloatingHere("lan0", floatingAddresses[1]); up || err != nil {
		t.Errorf("a link that is down: up %v, %v", up, err)
	}
}

// A neighbour that knew the address elsewhere learns by the announcement alone
// where it is now, and whoever asks finds the one who has it.
func TestFloatingMoves(t *testing.T) {
	p := newFirewallPair(t)
	sys := open(t)
	own := linkNamed(t, "lan0").Attrs().HardwareAddr
	const alternative = "the-lan" // by which a spec may call the link
	must(t, netlink.LinkAddAltName(linkNamed(t, "lan0"), alternative))
	elsewhere := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	for _, address := range floatingAddresses {
		must(t, sys.Hold(t.Context(), alternative, address, time.Minute))
		p.atStranger(t, func() {
			far, err := netlink.LinkByName("far0")
			must(t, err)
			must(t, netlink.NeighSet(&netlink.Neigh{
				LinkIndex: far.Attrs().Index, State: unix.NUD_STALE, IP: address.Addr().AsSlice(), HardwareAddr: elsewhere,
			}))
		})
		must(t, Announce(t.Context(), alternative, address.Addr()))
		eventually(t, "the neighbour learns of "+address.String(), func() bool {
			known := ""
			p.atStranger(t, func() { known = neighbour(t, "far0", address.Addr()) })
			return known == own.String()
		})
		p.atStranger(t, func() {
			rival, err := Rival(t.Context(), "far0", address.Addr())
			if err != nil || rival != own.String() {
				t.Errorf("who asks for %s finds %q, %v; want %s", address, rival, err, own)
			}
		})
		if rival, err := Rival(t.Context(), "lan0", address.Addr()); err != nil || rival != "" {
			t.Errorf("the holder of %s finds the rival %q, %v", address, rival, err)
		}
		// Two hosts with the address see each other.
		p.atStranger(t, func() { upWith(t, "far0", address.String()) })
		if rival, err := Rival(t.Context(), "lan0", address.Addr()); err != nil || rival == "" {
			t.Errorf("the holder of %s finds no rival, %v", address, err)
		}
	}
}

// neighbour is the hardware address that the neighbour table has for an address.
func neighbour(t *testing.T, link string, address netip.Addr) string {
	far, err := netlink.LinkByName(link)
	must(t, err)
	family := netlink.FAMILY_V6
	if address.Is4() {
		family = netlink.FAMILY_V4
	}
	table, err := netlink.NeighList(far.Attrs().Index, family)
	must(t, err)
	for _, n := range table {
		if ip, _ := netip.AddrFromSlice(n.IP); ip.Unmap() == address {
			return n.HardwareAddr.String()
		}
	}
	return ""
}
