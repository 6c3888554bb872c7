package main

import (
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/netcfg"
)

// TestPrintFirewall holds the words for people: a line for each rule, what is
// not as the spec says marked, and the firewall called off when it is.
func TestPrintFirewall(t *testing.T) {
	on := netcfg.FirewallList{Wanted: true, Present: true, Converged: true, Chains: []netcfg.ListedChain{{
		Name: "input", State: netcfg.ListedSame,
		Rules: []netcfg.ListedRule{{Name: "ssh", Rule: "accept tcp 22", State: netcfg.ListedSame, Counter: netcfg.Counter{Packets: 7}}},
	}}, Tables: []netcfg.Foreign{{Name: "ip kube-proxy", Detail: "9 chains", By: "kube-proxy"}}}
	differs := netcfg.FirewallList{Wanted: true, Present: true, Chains: []netcfg.ListedChain{{
		Name: "input", State: netcfg.ListedDiffers, Was: "accept what no rule drops",
		Rules: []netcfg.ListedRule{
			{Name: "ssh", Rule: "accept tcp 23", Want: "accept tcp 22", State: netcfg.ListedDiffers},
			{Name: "web", Want: "accept tcp 80", State: netcfg.ListedMissing},
			{Rule: "accept everything", State: netcfg.ListedExtra},
		},
	}}, Other: []string{"chain x"}}
	masquerade := netcfg.FirewallList{Wanted: true, Present: true, Converged: true, Chains: []netcfg.ListedChain{{Name: "postrouting", State: netcfg.ListedSame}}}
	for name, tc := range map[string]struct {
		list netcfg.FirewallList
		want []string
	}{
		"on": {on, []string{
			"firewall on, as the spec says: what no rule accepts is dropped",
			"input\tssh\t7 packets\taccept tcp 22",
			"others\tip kube-proxy\t9 chains\tby kube-proxy, left alone",
		}},
		"differs": {differs, []string{
			"firewall not as the spec says: see what is marked; apply puts it right",
			"input\tthe chain\taccept what no rule drops\tnot as nodeagent makes it",
			"input\tssh\t0 packets\tDIFFERS: accept tcp 23; the spec says: accept tcp 22",
			"input\tweb\t0 packets\tMISSING: accept tcp 80",
			"input\t\t0 packets\tNOT IN THE SPEC: accept everything",
			"others\tchain x\tin nodeagent's table, but not nodeagent's: apply removes it",
		}},
		"off":        {netcfg.FirewallList{Converged: true}, []string{"firewall off: the spec has no [firewall], and nodeagent leaves the host's packet filter alone"}},
		"not made":   {netcfg.FirewallList{Wanted: true}, []string{"firewall off: the spec has one, which apply makes"}},
		"masquerade": {masquerade, []string{"firewall off: the spec has no [firewall]; packets are only masqueraded"}},
	} {
		var out strings.Builder
		if err := printFirewall(newScreen(&out), tc.list); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimRight(out.String(), "\n"); got != strings.Join(tc.want, "\n") {
			t.Errorf("%s:\n%s", name, got)
		}
	}
}
