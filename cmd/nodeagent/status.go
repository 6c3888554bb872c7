package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
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
			err = printStatus(o.stdout, status, palette{colored(o.stdout)})
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

// palette colours words on terminals.
type palette struct{ on bool }

func (p palette) good(s string) string { return p.paint("32", s) }
func (p palette) bad(s string) string  { return p.paint("31", s) }
func (p palette) head(s string) string { return p.paint("1", s) }

func (p palette) paint(code, s string) string {
	if !p.on {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p palette) verdict(good bool, yes, no string) string {
	if good {
		return p.good(yes)
	}
	return p.bad(no)
}

// printStatus prints the parts of the status one below the other. Each table
// is laid out apart: tabwriter counts the bytes of colours, so coloured words
// stand in last columns only.
func printStatus(w io.Writer, s agent.Status, p palette) error {
	fmt.Fprintf(w, "%s of cluster %s: %s, %s\n", p.head(s.Host), s.Cluster,
		p.verdict(s.Converged, "converged", "not converged"), p.verdict(s.Healthy, "healthy", "not healthy"))
	fmt.Fprintf(w, "spec %s\n", s.Spec)
	for _, problem := range s.Problems {
		fmt.Fprintf(w, "%s %s\n", p.bad("!"), problem)
	}
	return cmp.Or(
		printDomains(w, s, p),
		printComponents(w, s, p),
		printCertificates(w, s, p),
		printEtcd(w, s, p),
	)
}

func table(w io.Writer, p palette, title string, rows func(w io.Writer)) error {
	fmt.Fprintf(w, "\n%s\n", p.head(title))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	rows(t)
	return t.Flush()
}

func printDomains(w io.Writer, s agent.Status, p palette) error {
	return table(w, p, "DOMAINS", func(w io.Writer) {
		for _, d := range s.Domains {
			text := p.verdict(d.Converged, "converged", plan.Count(len(d.Changes), "change")+" to make")
			if d.Error != "" {
				text = p.bad(strings.ReplaceAll(d.Error, "\n", "; "))
			}
			fmt.Fprintf(w, "  %s\t%s\n", d.Name, text)
			const shown = 5
			for i, c := range d.Changes {
				if i == shown {
					fmt.Fprintf(w, "  \t… and %d more (nodeagent plan)\n", len(d.Changes)-shown)
					break
				}
				fmt.Fprintf(w, "  \t%s %s: %s\n", c.Action, c.Key, c.Reason)
			}
		}
	})
}

func printComponents(w io.Writer, s agent.Status, p palette) error {
	return table(w, p, "COMPONENTS", func(w io.Writer) {
		for _, c := range s.Components {
			since := "-"
			if !c.Since.IsZero() {
				since = age(s.Time.Sub(c.Since))
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\n", c.Name, c.State, since, memory(c.MemoryBytes),
				plan.Count(c.Restarts, "restart"), p.verdict(c.Ready, "ready", "not ready"))
		}
	})
}

func printCertificates(w io.Writer, s agent.Status, p palette) error {
	return table(w, p, "CERTIFICATES", func(w io.Writer) {
		for _, c := range s.Certificates {
			end := "-\t-"
			if !c.NotAfter.IsZero() {
				end = fmt.Sprintf("ends in %s\trenews in %s", age(c.NotAfter.Sub(s.Time)), age(c.RenewAt.Sub(s.Time)))
			}
			state := p.verdict(c.State == pki.StateOK, c.State, c.State)
			if c.Reason != "" {
				state += ": " + c.Reason
			}
			name := c.Name
			if c.Name == c.CA && c.CommonName == c.CA {
				name = "CA " + c.Name
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\n", name, end, state)
		}
	})
}

func printEtcd(w io.Writer, s agent.Status, p palette) error {
	return table(w, p, "CLUSTER", func(w io.Writer) {
		if e := s.Etcd; e != nil {
			text := p.verdict(e.Healthy, "healthy", "not healthy")
			for _, m := range e.Members {
				if m.Endpoint != "" {
					text += fmt.Sprintf(", %s, revision %d, database %s", m.Version, m.Revision, bytes(m.DBSize))
				}
			}
			fmt.Fprintf(w, "  etcd\t%s, leader %s, %s\n", text, cmp.Or(e.Leader, "none"), plan.Count(len(e.Members), "member"))
		}
		for _, n := range s.Nodes {
			fmt.Fprintf(w, "  node %s\t%s, %s\n", n.Name, p.verdict(n.Ready, "Ready", "not Ready: "+n.Reason), n.Version)
		}
		if sn := s.Snapshots; sn != nil {
			text := "none yet"
			if sn.Newest != nil {
				text = fmt.Sprintf("newest %s ago, %s, %d in %s", age(s.Time.Sub(sn.Newest.Taken)), bytes(sn.Newest.Size), sn.Count, sn.Folder)
			}
			if !sn.Next.IsZero() {
				text += fmt.Sprintf("; next in %s", age(sn.Next.Sub(s.Time)))
			}
			fmt.Fprintf(w, "  snapshots\t%s\n", text)
		}
	})
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
