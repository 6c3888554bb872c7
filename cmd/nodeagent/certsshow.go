package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/pki"
)

func newCertsShow(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Show everything about one certificate",
		Long: `show prints all that is known of one of this host's certificates: subject, names, usage,
serial number, who signed it, its files, when it was issued and when it will be renewed,
a later one that was refused, and whether the components use it: their live ports are
asked.`,
		Example: `  nodeagent certs show etcd-peer
  nodeagent certs show kube-apiserver -o json | jq .proofs`,
		Args: exactlyOne("NAME"), ValidArgsFunction: upTo(1, o.certificateNames),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		seen, seenErr := o.certificates(cmd)
		if seen == nil {
			return seenErr
		}
		i := slices.IndexFunc(seen.details, func(d pki.Detail) bool { return d.Name == args[0] })
		if i < 0 {
			return errors.Join(unknownCertificate(args[0], seen.spec, seen.want), seenErr)
		}
		host, err := agent.Open(cmd.Context(), "", seen.spec, logger(o.stderr))
		if err != nil {
			return err
		}
		defer host.Close()
		proofs, err := agent.ProveCertificate(cmd.Context(), host, args[0])
		shown := certificateShown{seen.details[i], nonNil(proofs)}
		if o.json() {
			return errors.Join(printJSON(o, shown), seenErr, err)
		}
		return errors.Join(printCertificate(newScreen(o.stdout), shown, seen.now), seenErr, err)
	}
	return cmd
}

// certificateShown is the JSON form of one certificate.
type certificateShown struct {
	pki.Detail
	Proofs []agent.Proof `json:"proofs"`
}

func printCertificate(out screen, c certificateShown, now time.Time) error {
	rows := [][]string{
		{"name", c.Name},
		{"state", out.verdict(c.State == pki.StateOK, stateWords(c.Status), stateWords(c.Status))},
		{"subject", subject(c.Detail)},
		{"names", none(strings.Join(c.Names, ", "))},
		{"usage", c.Usage},
		{"key", c.KeyType},
		{"serial", none(c.Serial)},
	}
	for i, s := range c.Signers {
		word := "signed by"
		if i > 0 {
			word = "and that by"
		}
		rows = append(rows, []string{word, fmt.Sprintf("%s, key %.19s, until %s", s.Subject, s.KeyID, moment(s.NotAfter))})
	}
	if c.Serial != "" {
		rows = append(rows, []string{"trusted", out.verdict(c.Trusted, "yes, by CA "+c.CA, "no: it leads to no authority in the trust bundle of CA "+c.CA)})
		rows = append(rows, times(c.Detail, now)...)
	}
	rows = append(rows, []string{"certificate", c.Files.Certificate}, []string{"private key", c.Files.Key}, []string{"ca", c.Files.CA})
	rows = append(rows, past(out, c.Detail, now)...)
	for _, p := range c.Proofs {
		rows = append(rows, []string{"proof", out.verdict(p.State == agent.Proven, proofWords(p), proofWords(p))})
	}
	if len(c.Proofs) == 0 {
		rows = append(rows, []string{"proof", "no port on this host shows it or can be asked with it"})
	}
	return out.rows(rows)
}

func subject(d pki.Detail) string {
	if d.Organization == "" {
		return "CN=" + d.CommonName
	}
	return fmt.Sprintf("CN=%s, O=%s", d.CommonName, d.Organization)
}

func none(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

func times(d pki.Detail, now time.Time) [][]string {
	until := func(t time.Time, after string) string {
		if !now.Before(t) {
			return fmt.Sprintf("%s (%s)", moment(t), after)
		}
		return fmt.Sprintf("%s (in %s)", moment(t), age(t.Sub(now)))
	}
	return [][]string{
		{"issued", fmt.Sprintf("%s (%s ago)", moment(d.Issued), age(now.Sub(d.Issued)))},
		{"renewed", until(d.RenewAt, "due")},
		{"ends", until(d.NotAfter, "ended")},
	}
}

// past is what is left of other pairs of the same name.
func past(out screen, d pki.Detail, now time.Time) [][]string {
	var rows [][]string
	if now.Before(d.PreviousEnds) {
		rows = append(rows, []string{"before it", "an earlier one is kept, good until " + moment(d.PreviousEnds)})
	}
	if r := d.Refused; r != nil {
		rows = append(rows, []string{"refused", out.bad(fmt.Sprintf("serial %s on %s, attempt %d: %s; another one is made from %s on",
			r.Serial, moment(r.At), r.Attempts, r.Reason, moment(d.RetryAt)))})
	}
	if d.Revoke != "" {
		rows = append(rows, []string{"to revoke", out.bad(fmt.Sprintf("serial %s, which it has replaced: nodeagent certs renew --revoke %s goes on", d.Revoke, d.Name))})
	}
	return rows
}

func proofWords(p agent.Proof) string {
	does := "shows it"
	if p.Client {
		does = "takes it"
	}
	switch p.State {
	case agent.Proven:
		return fmt.Sprintf("%s at %s %s", p.Component, p.Address, does)
	case agent.ProofDown:
		return fmt.Sprintf("nothing answers at %s (%s)", p.Address, p.Component)
	}
	return fmt.Sprintf("%s at %s: %s", p.Component, p.Address, p.Problem)
}
