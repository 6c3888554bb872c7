package main

import (
	"cmp"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

func newCertsReport(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Tell what each key on this host is worth to a thief",
		Long: `report lists every key on this host, certificates' and others: whom its holder can pass
for, what it may do and sign, who accepts it, until when, and how to end that before.
Those that are worth the whole cluster come first.

What a user or a group may do is what Kubernetes and nodeagent bind to it; your own
bindings can give it more. It reads this host's disk alone and prints no key.`,
		Example: `  nodeagent certs report
  nodeagent certs report -o json | jq -r '.keys[] | select(.reach == "cluster").file'`,
		Args: noArgs,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		seen, err := o.certificates(cmd)
		if seen == nil {
			return err
		}
		powers := pki.Powers(layout.Root(""), seen.spec, seen.have, seen.now)
		sortPowers(powers)
		if o.json() {
			return errors.Join(printJSON(o, map[string]any{"host": seen.spec.Name, "time": seen.now, "keys": nonNil(powers)}), err)
		}
		return errors.Join(printPowers(newScreen(o.stdout), powers), err)
	}
	return cmd
}

// sortPowers puts the gravest first.
func sortPowers(list []pki.Power) {
	grave := []string{pki.ReachCluster, pki.ReachHost, pki.ReachNone}
	slices.SortStableFunc(list, func(a, b pki.Power) int {
		return cmp.Compare(slices.Index(grave, a.Reach), slices.Index(grave, b.Reach))
	})
}

// printPowers prints a row for each key; on a terminal, where the texts are too
// long for columns, a paragraph.
func printPowers(out screen, powers []pki.Power) error {
	var rows [][]string
	for _, p := range powers {
		until := cmp.Or(moment(p.Until), "until it is changed")
		if !out.table {
			rows = append(rows, []string{p.Reach, p.Key, p.As, p.Can, p.Signs, p.AcceptedBy, moment(p.Until), p.File})
			continue
		}
		if p.Reach == pki.ReachNone {
			until += " (ended)"
		}
		worth := map[string]string{
			pki.ReachCluster: out.bad("the whole cluster"), pki.ReachHost: "a part of it", pki.ReachNone: out.good("nothing any more"),
		}[p.Reach]
		rows = append(rows, []string{strings.ToUpper(p.Key[:1]) + p.Key[1:], "worth " + worth})
		for _, line := range [][2]string{
			{"passes for", p.As}, {"may", p.Can}, {"signs", p.Signs}, {"accepted by", p.AcceptedBy}, {"until", until}, {"ended by", p.Ending}, {"file", p.File},
		} {
			if line[1] != "" {
				rows = append(rows, []string{"  " + line[0], line[1]})
			}
		}
	}
	return out.rows(rows)
}
