package netcfg

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/nodeagent/nodeagent/hosts"
)

// ip runs ip(8) as somebody else would.
func ip(t testing.TB, line string) {
	t.Helper()
	assertApart(t)
	out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(line)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", line, err, out)
	}
}

func TestForeignRoutesAndRules(t *testing.T) {
	newNamespace(t)
	withoutDAD(t)
	somebodysVeth(t, "lan0", "wire0")
	sys := open(t)
	want := network([]hosts.Link{physical("lan0", "192.0.2.10/24")},
		hosts.Route{Destination: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.0.2.1")},
		hosts.Route{Destination: netip.MustParsePrefix("10.9.0.0/16"), Via: netip.MustParseAddr("192.0.2.1")})
	want.Rules = wantRules([]hosts.Rule{{Priority: 100, From: netip.MustParsePrefix("10.0.0.0/8"), Table: 100}})
	converge(t, sys, network([]hosts.Link{physical("lan0", "192.0.2.10/24")}))
	ip(t, "route add default via 192.0.2.1 dev lan0 proto dhcp") // serves as the wanted one
	converge(t, sys, want)
	for _, line := range []string{
		"route add 10.1.0.0/16 via 192.0.2.7 dev lan0 table 100 proto static",
		"-6 route add blackhole fd09::/64 proto boot",
		"rule add pref 200 from 10.2.0.0/16 lookup 100 proto static",
	} {
		ip(t, line)
	}
	for i := range 30 {
		must(t, netlink.RouteAdd(&netlink.Route{
			LinkIndex: linkNamed(t, "lan0").Attrs().Index, Gw: netip.MustParseAddr("192.0.2.7").AsSlice(), Protocol: 12,
			Dst: ipNet(netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(i), 0}), 24)),
		}))
	}
	list, err := sys.Foreign(t.Context(), want)
	must(t, err)
	var got []Foreign
	for _, f := range list {
		if f.Kind == "route" || f.Kind == "rule" {
			got = append(got, f)
		}
	}
	if diff := cmp.Diff([]Foreign{
		{"route", "10.1.0.0/16 table 100", "10.1.0.0/16 via 192.0.2.7 dev lan0 table 100", "an administrator (protocol static)"},
		{"route", "30 routes in table 254", "such as 172.16.0.0/24 via 192.0.2.7 dev lan0", "bird"},
		{"route", "fd09::/64 metric 1024", "blackhole fd09::/64 metric 1024", "hand (protocol boot)"},
		{"rule", "200", "200: from 10.2.0.0/16 lookup 100", "an administrator (protocol static)"},
	}, got); diff != "" {
		t.Errorf("foreign (-want +got):\n%s", diff)
	}
}
