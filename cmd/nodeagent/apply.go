package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// lockPatience is how long apply waits for a running agent to finish.
const lockPatience = 2 * time.Minute

func newApply(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Make this host be as its spec says",
		Long: `apply carries out what plan shows, domain by domain, shows each change as it is
made, and then looks at the host again: it answers 0 only when a fresh plan is empty.
Otherwise it names what did not converge and answers 1. It can be interrupted and run
again at any time.

With --confirm the network, and the sysctls of the network, are changed on trial: unless
'nodeagent confirm' comes in time over a connection that was opened after the change,
they go back to what was last confirmed, early enough for the host to be reachable again
when the time is over (a quarter before, 10 seconds at most). A timer of systemd's sees
to it, also when this command is killed; after a reboot they go back at once. The other
domains follow only once the network is confirmed, since the restart of a component is not undone.

A change of the network that would certainly cut a way that is open now is refused, with
exit code 4: that of your SSH session, those to Vault, to the API endpoint, to and from
the other etcd members, and WireGuard's own. --force-lockout makes it all the same.

Where the spec names probes (network.probes), they are asked before and after the
change. What answered before and does not answer any more undoes the change at once.
Without --confirm the probes alone decide; --no-probes leaves them out. A network that
was undone is not tried again by 'nodeagent run' until the spec changes; apply tries it
again, and forgets that it was undone once it is made.`,
		Example: `  nodeagent apply
  nodeagent apply --confirm 60s         then from elsewhere: ssh host nodeagent confirm
  nodeagent apply --only kernel,network
  nodeagent apply --fleet ./fleet --host mercury`,
		Args: noArgs,
	}
	names := only(cmd)
	caution := cautionFlags(cmd)
	force := cmd.Flags().Bool("force-lockout", false, "go on although the spec cuts a way that is open now")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		host, err := o.open(cmd)
		if err != nil {
			return err
		}
		defer host.Close()
		if _, err := pick(host, *names); err != nil {
			return err
		}
		if err := caution.check(cmd, *names); err != nil {
			return err
		}
		lock, err := agent.Acquire(cmd.Context(), "", *names, lockPatience)
		if err != nil {
			return err
		}
		defer lock.Release()
		host.Holds(lock)
		if err := guardWays(cmd.Context(), o, host, *names, *force); err != nil {
			return err
		}
		if caution.tries(host, *names) {
			return caution.tryNetwork(cmd.Context(), o, host, *names)
		}
		progress := newProgress(o)
		result, err := host.Apply(cmd.Context(), *names, progress)
		progress.close()
		return errors.Join(printResult(o, agent.Trial{Result: result}), err)
	}
	return cmd
}

// applied is the JSON form of what apply did.
type applied struct {
	Converged bool            `json:"converged"`
	Applied   int             `json:"applied"`
	Domains   []domainApplied `json:"domains"`
	// Undone is why the network is as it was before, where it is.
	Undone string `json:"undone,omitempty"`
	// Until is when the network goes back unless a person confirms it.
	Until  time.Time       `json:"until,omitzero"`
	Probes []probedVerdict `json:"probes,omitempty"`
}

// probedVerdict is what one probe found before and after the change.
type probedVerdict struct {
	Name   string `json:"name"`
	Before bool   `json:"before"`
	After  bool   `json:"after"`
	Lost   bool   `json:"lost"` // which speaks against the change
	Detail string `json:"detail,omitempty"`
}

type domainApplied struct {
	Domain    string        `json:"domain"`
	Converged bool          `json:"converged"`
	Applied   int           `json:"applied"`
	Remaining []plan.Change `json:"remaining"`
	Error     string        `json:"error"`
}

// printResult prints what became of an apply; of one without a trial, trial holds
// the result alone.
func printResult(o *options, trial agent.Trial) error {
	result := trial.Result
	if o.json() {
		if err := printJSON(o, trialJSON(trial)); err != nil {
			return err
		}
	}
	if trial.Undone != "" {
		return withHint(trial.Err(), "`nodeagent run` does not try this network again until the spec changes; `nodeagent apply` does")
	}
	if err := result.Err(); err != nil {
		return withHint(fmt.Errorf("the host did not converge:\n%w", err),
			"`nodeagent plan` shows what is left; apply can be run again")
	}
	if o.json() {
		return nil
	}
	if result.Applied() == 0 {
		fmt.Fprintln(o.stdout, "Nothing to do: the host is as its spec says.")
		return nil
	}
	fmt.Fprintf(o.stdout, "Converged: %s applied, and a fresh look finds nothing more to do.\n",
		plan.Count(result.Applied(), "change"))
	return nil
}

func trialJSON(trial agent.Trial) applied {
	out := applied{
		Converged: trial.Err() == nil, Applied: trial.Result.Applied(),
		Undone: trial.Undone, Until: trial.Until, Domains: []domainApplied{},
	}
	for _, v := range trial.Verdicts {
		out.Probes = append(out.Probes, probedVerdict{v.Name, v.Before, v.After, v.Lost, v.Detail})
	}
	for _, r := range trial.Result {
		d := domainApplied{Domain: r.Domain, Converged: r.Converged(), Applied: r.Applied, Remaining: r.Remaining}
		if d.Remaining == nil {
			d.Remaining = []plan.Change{}
		}
		if r.Err != nil {
			d.Error = r.Err.Error()
		}
		out.Domains = append(out.Domains, d)
	}
	return out
}
