package main

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/netcfg"
)

func newFirewall(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "firewall",
		Short: "Tell in words what the host's packet filter does",
		Long: `firewall lists what is open on this host and to whom, from which interface, up to
what limit, and how many packets each rule has matched; what is forwarded; by whose
address packets leave; and which tables of others there are, which nodeagent never
touches. It reads the kernel as it is now and compares it with the spec: a rule that
differs, lacks or is nobody's is marked. It writes nothing.

The first rule that matches decides; what none accepts is dropped. Rules count from
when their chain was made; a change of other rules leaves their counters alone.`,
		Example: `  nodeagent firewall
  nodeagent firewall --json | jq '.chains[].rules[] | select(.state != "same")'
  nodeagent firewall --exit-code        2 where the kernel is not as the spec says`,
		Args: noArgs,
	}
	asJSON := cmd.Flags().Bool("json", false, "the same as --output json")
	exitCode := cmd.Flags().Bool("exit-code", false, "exit with 2 when the firewall is not as the spec says")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		spec, err := o.spec()
		if err != nil {
			return err
		}
		list, err := netcfg.ListFirewall(cmd.Context(), spec)
		if err != nil {
			return err
		}
		if *asJSON || o.json() {
			out := json.NewEncoder(o.stdout)
			out.SetIndent("", "  ")
			err = out.Encode(list)
		} else {
			err = printFirewall(newScreen(o.stdout), list)
		}
		if err == nil && *exitCode && !list.Converged {
			return errChanges
		}
		return err
	}
	return cmd
}

// firewallTitles are the titles of chains.
var firewallTitles = map[string]string{"input": "input", "forward": "forward", "postrouting": "masquerade"}

func printFirewall(s screen, list netcfg.FirewallList) error {
	fmt.Fprintln(s.w, firewallSummary(s, list))
	for _, c := range list.Chains {
		var rows [][]string
		if c.State != netcfg.ListedSame {
			rows = append(rows, []string{"the chain", string(c.Was), s.bad(chainState(c))})
		}
		for _, r := range c.Rules {
			rows = append(rows, firewallRow(s, r))
		}
		if err := s.section(firewallTitles[c.Name], rows); err != nil {
			return err
		}
	}
	var others [][]string
	for _, other := range list.Other {
		others = append(others, []string{other, s.bad("in nodeagent's table, but not nodeagent's: apply removes it")})
	}
	for _, t := range list.Tables {
		others = append(others, []string{t.Name, t.Detail, "by " + t.By + ", left alone"})
	}
	if len(others) == 0 {
		return nil
	}
	return s.section("others", others)
}

func firewallSummary(s screen, list netcfg.FirewallList) string {
	drops := false
	for _, c := range list.Chains {
		drops = drops || c.Name != "postrouting" && c.State != netcfg.ListedMissing
	}
	switch {
	case !list.Wanted && !list.Present:
		return "firewall " + s.bad("off") + ": the spec has no [firewall], and nodeagent leaves the host's packet filter alone"
	case !list.Wanted:
		return "firewall " + s.bad("on") + ", but the spec has none: apply removes it"
	case !list.Present:
		return "firewall " + s.bad("off") + ": the spec has one, which apply makes"
	case !list.Converged:
		return "firewall " + s.bad("not as the spec says") + ": see what is marked; apply puts it right"
	case !drops:
		return "firewall " + s.bad("off") + ": the spec has no [firewall]; packets are only masqueraded"
	}
	return "firewall " + s.good("on") + ", as the spec says: what no rule accepts is dropped"
}

func chainState(c netcfg.ListedChain) string {
	switch c.State {
	case netcfg.ListedMissing:
		return "missing from the kernel"
	case netcfg.ListedExtra:
		return "not in the spec"
	}
	return "not as nodeagent makes it"
}

// firewallRow is a rule's name, packets, and what it does.
func firewallRow(s screen, r netcfg.ListedRule) []string {
	row := []string{r.Name, strconv.FormatUint(r.Packets, 10) + " packets"}
	switch r.State {
	case netcfg.ListedMissing:
		return append(row, s.bad("MISSING: "+r.Want))
	case netcfg.ListedExtra:
		return append(row, s.bad("NOT IN THE SPEC: "+r.Rule))
	case netcfg.ListedDiffers:
		return append(row, s.bad("DIFFERS: "+r.Rule+"; the spec says: "+r.Want))
	}
	return append(row, r.Rule)
}
