package main

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
)

func newStatus(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell at a glance how this host is",
		Long: `status tells what is converged and what drifted, each component, each certificate
and when it ends, etcd, the nodes and the newest snapshot. It changes nothing. It
answers 0 when it could look; with --exit-code it answers 2 when the host is not
converged or not healthy.`,
		Example: `  nodeagent status
  nodeagent status -o json | jq .problems
  nodeagent status --exit-code >/dev/null || echo look at this host`,
		Args: noArgs,
	}
	exitCode := cmd.Flags().Bool("exit-code", false, "exit with 2 when the host is not converged or not healthy")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		host, err := o.open(cmd)
		if err != nil {
			return err
		}
		defer host.Close()
		status := host.Status(cmd.Context())
		if o.json() {
			err = printJSON(o, status)
		} else {
			err = printStatus(newScreen(o.stdout), status)
		}
		if err != nil {
			return err
		}
		if *exitCode && !(status.Converged && status.Healthy) {
			return errChanges
		}
		return nil
	}
	return cmd
}

func printStatus(out screen, s agent.Status) error {
	fmt.Fprintf(out.w, "%s of cluster %s: %s, %s\n", out.head(s.Host), s.Cluster,
		out.verdict(s.Converged, "converged", "not converged"), out.verdict(s.Healthy, "healthy", "not healthy"))
	fmt.Fprintf(out.w, "spec %s\n", s.Spec)
	fmt.Fprintf(out.w, "fleet %s\n", s.Fleet)
	for _, problem := range s.Problems {
		fmt.Fprintf(out.w, "%s %s\n", out.bad("!"), problem)
	}
	for _, warning := range s.Warnings {
		fmt.Fprintf(out.w, "%s %s\n", out.head("note:"), warning)
	}
	return errors.Join(
		out.section("domain", domainRows(out, s)),
		out.section("component", componentRows(out, s)),
		out.section("certificate", certificateRows(out, s)),
		out.section("issuer", issuerRows(out, s)),
		out.section("cluster", clusterRows(out, s)),
	)
}

// shownChanges is how many changes status names for each domain.
const shownChanges = 5

func domainRows(out screen, s agent.Status) [][]string {
	var rows [][]string
	for _, d := range s.Domains {
		text := out.verdict(d.Converged, "converged", plan.Count(len(d.Changes), "change")+" to make")
		if d.Drift != "" {
			text += ", only reported"
		}
		if d.Error != "" {
			text = out.bad(strings.ReplaceAll(d.Error, "\n", "; "))
		}
		rows = append(rows, []string{d.Name, text})
		for i, c := range d.Changes {
			if i == shownChanges {
				rows = append(rows, []string{"", fmt.Sprintf("… and %d more (nodeagent plan)", len(d.Changes)-shownChanges)})
				break
			}
			rows = append(rows, []string{"", fmt.Sprintf("%s %s: %s", c.Action, c.Key, c.Reason)})
		}
	}
	return rows
}

func componentRows(out screen, s agent.Status) [][]string {
	var rows [][]string
	for _, c := range s.Components {
		since := "-"
		if !c.Since.IsZero() {
			since = age(s.Time.Sub(c.Since))
		}
		rows = append(rows, []string{
			c.Name, c.State, since, memory(c.MemoryBytes),
			plan.Count(c.Restarts, "restart"), out.verdict(c.Ready, "ready", "not ready"),
		})
	}
	return rows
}

func certificateRows(out screen, s agent.Status) [][]string {
	var rows [][]string
	for _, c := range s.Certificates {
		ends, renews := "-", "-"
		if !c.NotAfter.IsZero() {
			ends, renews = "ends in "+age(c.NotAfter.Sub(s.Time)), "renews in "+age(c.RenewAt.Sub(s.Time))
		}
		state := out.verdict(c.State == pki.StateOK, c.State, c.State)
		if c.Reason != "" {
			state += ": " + c.Reason
		}
		name := c.Name
		if c.Name == c.CA && c.CommonName == c.CA {
			name = "CA " + c.Name
		}
		rows = append(rows, []string{name, ends, renews, state})
	}
	return rows
}

func issuerRows(out screen, s agent.Status) [][]string {
	i := s.Issuer
	if i == nil {
		return nil
	}
	name, answer := i.Kind, ""
	if i.Kind == pki.IssuerLocal && i.Problem != "" {
		answer = out.bad("cannot issue: " + i.Problem)
	}
	if i.Kind == pki.IssuerVault && i.SurvivesDays != nil {
		name += " at " + i.Address
		answer = "no answer heard since the boot"
		if !i.LastAnswer.IsZero() {
			answer = "last answered " + age(s.Time.Sub(i.LastAnswer)) + " ago"
		}
		if i.Problem != "" {
			answer = out.bad(answer + "; " + i.Problem)
		}
	}
	row := []string{name, i.Span()}
	if answer != "" {
		row = append(row, answer)
	}
	return [][]string{row}
}

func clusterRows(out screen, s agent.Status) [][]string {
	var rows [][]string
	if e := s.Etcd; e != nil {
		text := out.verdict(e.Healthy, "healthy", "not healthy")
		for _, m := range e.Members {
			if m.Endpoint != "" {
				text += fmt.Sprintf(", %s, revision %d, database %s", m.Version, m.Revision, bytes(m.DBSize))
			}
		}
		rows = append(rows, []string{"etcd", fmt.Sprintf("%s, leader %s, %s", text, cmp.Or(e.Leader, "none"), plan.Count(len(e.Members), "member"))})
	}
	for _, n := range s.Nodes {
		rows = append(rows, []string{"node " + n.Name, fmt.Sprintf("%s, %s", out.verdict(n.Ready, "Ready", "not Ready: "+n.Reason), n.Version)})
	}
	for _, f := range s.Floating {
		text := "elsewhere"
		if f.Here {
			text = "here, on " + f.Link
		}
		rows = append(rows, []string{"floating " + f.Name, f.Address.String() + " " + text})
	}
	if sn := s.Snapshots; sn != nil {
		text := "none yet"
		if sn.Newest != nil {
			text = fmt.Sprintf("newest %s ago, %s, %d in %s", age(s.Time.Sub(sn.Newest.Taken)), bytes(sn.Newest.Size), sn.Count, sn.Folder)
		}
		if last := sn.Shared; last != nil {
			text += fmt.Sprintf("; for all hosts the last by %s %s ago", last.Host, age(s.Time.Sub(last.At)))
		}
		if !sn.Next.IsZero() {
			text += fmt.Sprintf("; next in %s", age(sn.Next.Sub(s.Time)))
		}
		rows = append(rows, []string{"snapshots", text})
		rows = append(rows, copyRows(out, sn.Copies, s.Time)...)
		rows = append(rows, []string{"drill", drillText(out, *sn.Drill, s.Time)})
	}
	return rows
}

// drillText says whether snapshots restore.
func drillText(out screen, d agent.DrillStatus, now time.Time) string {
	text := "none yet: whether a snapshot restores is not known"
	if r := d.Last; r != nil && !d.Running {
		text = fmt.Sprintf("%s, %s ago", out.verdict(r.Good(), "good", "failed: "+r.Failed), age(now.Sub(r.Began)))
	}
	if r := d.Good; r != nil {
		if d.Running || !d.Last.Good() {
			text += fmt.Sprintf("; the last good one %s ago", age(now.Sub(r.Began)))
		}
		text += fmt.Sprintf(", RPO %s, RTO %s", span(r.RPOSeconds), span(r.Seconds.RTO()))
	}
	if d.Running {
		text = "runs; " + text
	}
	if !d.Next.IsZero() {
		text += fmt.Sprintf("; next in %s", age(d.Next.Sub(now)))
	}
	return text
}

// age prints a span for people, in its two largest units: "89d 23h", "3m 5s".
func age(d time.Duration) string {
	if d < 0 {
		return "-" + age(-d)
	}
	day := 24 * time.Hour
	switch {
	case d >= day:
		return fmt.Sprintf("%dd %dh", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh %dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm %ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// memory prints what a component uses, "-" where systemd does not account for
// it.
func memory(n uint64) string {
	if n == 0 {
		return "-"
	}
	return bytes(int64(n))
}
