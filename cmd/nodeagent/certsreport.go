package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

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
	for _, p := range powers {
		rows := [][]string{{p.Reach, p.Key, p.As, p.Can, p.Signs, p.AcceptedBy, moment(p.Until), p.File}}
		if out.table {
			fmt.Fprintf(out.w, "\n%s, worth %s\n", out.head(p.Key), worth(out, p))
			rows = powerLines(p)
		}
		if err := out.rows(rows); err != nil {
			return err
		}
	}
	return nil
}

func worth(out screen, p pki.Power) string {
	switch p.Reach {
	case pki.ReachCluster:
		return out.bad("the whole cluster")
	case pki.ReachNone:
		return out.good("nothing any more")
	}
	return "a part of the cluster"
}

// powerLines are a paragraph's lines, without those that have nothing to say.
func powerLines(p pki.Power) [][]string {
	rows := [][]string{
		{"passes for", p.As},
		{"may", p.Can},
		{"signs", p.Signs},
		{"accepted by", p.AcceptedBy},
		{"until", cmp.Or(moment(p.Until), "it is changed")},
		{"ended by", p.Ending},
		{"file", p.File},
	}
	return slices.DeleteFunc(rows, func(row []string) bool { return row[1] == "" })
}
