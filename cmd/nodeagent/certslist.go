package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

func newCertsList(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List this host's certificates and the time that they have left",
		Long: `list shows every certificate that this host's roles need, and with the local issuer its
CAs: when it ends, when it is renewed, and whether it is as it should be. On a terminal a
bar shows the time left, with a mark where it is renewed; elsewhere each row is name, CA,
end, renewal, serial number and state, with one tab between them. What is not issued yet
because of the clock is in state held, with the reason and for how long at most; JSON tells
it under held too, which else is null.

It reads this host's disk alone and changes nothing.`,
		Example: `  nodeagent certs list
  nodeagent certs list | awk -F'\t' '$6 != "ok"'
  nodeagent certs list -o json | jq -r '.certificates[] | select(.state != "ok").name'`,
		Args: noArgs,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		seen, err := o.certificates(cmd)
		if seen == nil {
			return err
		}
		if o.json() {
			return errors.Join(printJSON(o, map[string]any{
				"host": seen.spec.Name, "time": seen.now, "held": seen.held, "certificates": seen.details, "authorities": nonNil(seen.authorities),
			}), err)
		}
		return errors.Join(printCertificates(newScreen(o.stdout), seen), err)
	}
	return cmd
}

// certificatesSeen is what lies on this host's disk.
type certificatesSeen struct {
	spec        *hosts.Spec
	now         time.Time
	have, want  pki.State
	details     []pki.Detail
	authorities []pki.Status
	held        *pki.Hold
}

// certificates looks at this host's certificates. What could not be read is
// named by the error, beside what could; nothing was seen at all where the
// result is nil.
func (o *options) certificates(cmd *cobra.Command) (*certificatesSeen, error) {
	spec, err := o.spec()
	if err != nil {
		return nil, err
	}
	have, err := agent.ObserveCertificates(cmd.Context(), layout.Root(""))
	s := see(layout.Root(""), spec, have, time.Now())
	return &s, withHint(err, "certificates and keys can be read by root alone")
}

func see(root layout.Root, spec *hosts.Spec, have pki.State, now time.Time) certificatesSeen {
	want := pki.Want(spec)
	return certificatesSeen{
		spec: spec, now: now, have: have, want: want,
		details: pki.Details(root, have, want, now), authorities: pki.Authorities(have, want, now),
		held: pki.HeldBack(have, want, now),
	}
}

func printCertificates(out screen, seen *certificatesSeen) error {
	var rows [][]string
	add := func(s pki.Status, serial string) {
		if !out.table {
			rows = append(rows, []string{s.Name, s.CA, moment(s.NotAfter), moment(s.RenewAt), serial, stateWords(s)})
			return
		}
		if s.State == pki.StateHeld && seen.held != nil {
			s.Reason = "" // it stands above the table
		}
		rows = append(rows, []string{s.Name, s.CA, ends(s, seen.now), renews(s, seen.now), lifeBar(out, s, seen.now) + " " + stateWords(s)})
	}
	if out.table {
		if seen.held != nil {
			fmt.Fprintf(out.w, "%s %s\n", out.bad("!"), seen.held)
		}
		rows = append(rows, []string{"NAME", "CA", "ENDS IN", "RENEWED IN", "TIME LEFT"})
	}
	for _, d := range seen.details {
		add(d.Status, d.Serial)
	}
	for _, a := range seen.authorities {
		a.CA = "(authority)"
		add(a, "")
	}
	return out.rows(rows)
}

func stateWords(s pki.Status) string {
	if s.Reason == "" {
		return s.State
	}
	return s.State + ": " + s.Reason
}

// moment is a time for scripts, empty for none.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func ends(s pki.Status, now time.Time) string {
	switch {
	case s.NotAfter.IsZero():
		return "-"
	case !now.Before(s.NotAfter):
		return "ended"
	}
	return age(s.NotAfter.Sub(now))
}

func renews(s pki.Status, now time.Time) string {
	switch {
	case s.RenewAt.IsZero():
		return "-"
	case !now.Before(s.RenewAt):
		return "due"
	}
	return age(s.RenewAt.Sub(now))
}

// barWidth is how many cells a bar has.
const barWidth = 24

// lifeBar shows how much of a life is left, and where in it lies the renewal:
// "██████████╎████······" has passed a third of the way to it.
func lifeBar(out screen, s pki.Status, now time.Time) string {
	life := s.NotAfter.Sub(s.NotBefore)
	if life <= 0 {
		return out.bad(strings.Repeat("·", barWidth))
	}
	cells := func(d time.Duration) int {
		return int(max(0, min(float64(d)/float64(life), 1))*barWidth + 0.5)
	}
	left, mark := cells(s.NotAfter.Sub(now)), cells(s.NotAfter.Sub(s.RenewAt))
	bar := []rune(strings.Repeat("█", left) + strings.Repeat("·", barWidth-left))
	if mark > 0 && mark < barWidth {
		bar[mark] = '╎'
	}
	return out.verdict(s.State == pki.StateOK, string(bar), string(bar))
}

// certificateNames completes the names of this host's certificates.
func (o *options) certificateNames(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	spec, err := o.quietSpec()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := slices.DeleteFunc(namesOf(pki.Want(spec)), func(name string) bool { return slices.Contains(args, name) })
	return names, cobra.ShellCompDirectiveNoFileComp
}

func namesOf(want pki.State) []string {
	var names []string
	for _, c := range want.Certificates {
		names = append(names, c.Name)
	}
	return names
}

// unknownCertificate is the error of a name that is none of this host's.
func unknownCertificate(name string, spec *hosts.Spec, want pki.State) error {
	names := namesOf(want)
	if len(names) == 0 {
		return fmt.Errorf("host %s has no certificate %q: it has no role", spec.Name, name)
	}
	return usageError{withHint(fmt.Errorf("host %s has no certificate %q", spec.Name, name), "it has "+strings.Join(names, ", "))}
}
