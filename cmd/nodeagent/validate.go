package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

func newValidate(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "validate [FLEET ...]",
		Short: "Check every file of a fleet",
		Long: `validate reads fleets and prints every problem as one line "file:line: field:
reason". It needs no root, no network and no Vault. Without an argument it checks
the fleet that --fleet names.

It warns of what is valid and most likely not meant, and of ways that a spec would
certainly cut, as far as the fleet alone shows it: those of etcd, Vault, the API
endpoint and WireGuard and, in an SSH session on a host of the fleet, the session's.
'nodeagent plan' on the host itself knows more.`,
		Example: `  nodeagent validate hosts/fleets/*
  nodeagent validate --fleet ./fleet -o json`,
		RunE: func(_ *cobra.Command, dirs []string) error {
			if len(dirs) == 0 {
				return validate(o, o.source())
			}
			var fleets []hosts.Source
			for _, dir := range dirs {
				fleets = append(fleets, hosts.Source{Dir: dir})
			}
			return validate(o, fleets...)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
}

// verdict is what validate says of one fleet.
type verdict struct {
	Fleet    string          `json:"fleet"`
	Valid    bool            `json:"valid"`
	Hosts    []string        `json:"hosts"`
	Problems []hosts.Problem `json:"problems"`
	Warnings []hosts.Problem `json:"warnings"`
}

// validate checks all fleets, also after one was found invalid, and joins the
// problems of all of them.
func validate(o *options, fleets ...hosts.Source) error {
	verdicts := []verdict{}
	here := agent.Session{Connection: sshSession()}
	here.Host, _ = o.hostName() // of a machine without a name nothing is said
	invalid := &hosts.InvalidError{}
	for _, source := range fleets {
		dir := source.Name()
		v := verdict{Fleet: dir, Hosts: []string{}, Problems: []hosts.Problem{}, Warnings: []hosts.Problem{}}
		fleet, err := source.Load()
		var bad *hosts.InvalidError
		switch {
		case errors.As(err, &bad):
			v.Problems = bad.Problems
			invalid.Dir = dir
			invalid.Problems = append(invalid.Problems, within(dir, bad.Problems, len(fleets) > 1)...)
		case err != nil:
			return err
		default:
			v.Valid = true
			v.Warnings = append(append(v.Warnings, fleet.Warnings...), agent.FleetCuts(fleet, here)...)
			for _, h := range fleet.Hosts {
				v.Hosts = append(v.Hosts, h.Name)
			}
		}
		verdicts = append(verdicts, v)
	}
	if err := printVerdicts(o, verdicts); err != nil {
		return err
	}
	if len(invalid.Problems) > 0 {
		return invalid
	}
	return nil
}

// within names the fleet's folder with each file where several are checked.
func within(dir string, problems []hosts.Problem, several bool) []hosts.Problem {
	if !several {
		return problems
	}
	named := slices.Clone(problems)
	for i := range named {
		named[i].File = filepath.Join(dir, named[i].File)
	}
	return named
}

func printVerdicts(o *options, verdicts []verdict) error {
	if o.json() {
		return printJSON(o, map[string]any{"fleets": verdicts})
	}
	for _, v := range verdicts {
		for _, w := range within(v.Fleet, v.Warnings, len(verdicts) > 1) {
			fmt.Fprintf(o.stderr, "warning: %s\n", w)
		}
		if v.Valid {
			fmt.Fprintf(o.stdout, "%s: valid, %s\n", v.Fleet, plan.Count(len(v.Hosts), "host"))
		}
	}
	return nil
}
