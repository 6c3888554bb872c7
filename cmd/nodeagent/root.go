package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// Exit codes. Scripts rely on them.
const (
	exitOK      = 0
	exitFailed  = 1 // something went wrong, or did not converge
	exitChanges = 2 // plan --exit-code: there are changes
	exitInvalid = 3 // the fleet is not valid; nothing was done
	exitLockout = 4 // the spec would cut a way that is open now; nothing was done
	exitUsage   = 64
)

// errChanges makes plan --exit-code answer exitChanges without a message.
var errChanges = errors.New("there are changes")

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// hintError adds one line that says what to do.
type hintError struct {
	error
	hint string
}

func (e hintError) Unwrap() error { return e.error }

// withHint adds a hint to an error; a nil error stays nil.
func withHint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return hintError{err, hint}
}

// run executes one command line and maps its error to an exit code: the one
// place that does.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot(stdout, stderr)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if errors.Is(err, errChanges) {
		return exitChanges
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		fmt.Fprintln(stderr, "nodeagent: interrupted; what was done stays, and the same command goes on from there")
		return exitFailed
	}
	var invalid *hosts.InvalidError
	if errors.As(err, &invalid) {
		fmt.Fprintln(stderr, invalid.Error())
		fmt.Fprintf(stderr, "nodeagent: the fleet in %s is not valid (%d problem(s)); nothing was done\n", invalid.Dir, len(invalid.Problems))
		return exitInvalid
	}
	var lockout lockoutError
	if errors.As(err, &lockout) {
		fmt.Fprintf(stderr, "nodeagent: %s\n", lockout)
		return exitLockout
	}
	fmt.Fprintf(stderr, "nodeagent: %s\n", strings.ReplaceAll(err.Error(), "\n", "\n           "))
	var hint hintError
	if errors.As(err, &hint) {
		fmt.Fprintf(stderr, "hint: %s\n", hint.hint)
	}
	var usage usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

// options are the flags that all commands share.
type options struct {
	fleet  string
	host   string
	chosen func() bool // whether --fleet is given
	noted  bool        // that a folder hides the fleet within the program
	output string
	stdout io.Writer
	stderr io.Writer
	// asking is held while a person types; nothing else may move the cursor.
	asking sync.Mutex
}

func newRoot(stdout, stderr io.Writer) *cobra.Command {
	o := &options{stdout: stdout, stderr: stderr}
	root := &cobra.Command{
		Use:   "nodeagent",
		Short: "Make a bare-metal Kubernetes host be as its fleet's TOML files say",
		Long: `nodeagent reads a fleet (a folder with cluster.toml and one <host>.toml for each
host), compares this host with its spec, and prints the difference or makes it so:
kernel modules and sysctls, the network, certificates, and etcd, containerd and the
Kubernetes components as systemd units.

Exit codes: 0 done; 1 failed or not converged; 2 there are changes (plan
--exit-code); 3 the fleet is not valid and nothing was done; 4 apply would have cut off
its own way in and did nothing; 64 wrong usage.`,
		Example: `  nodeagent validate ./fleet            check every file of a fleet
  nodeagent plan                        show what would change on this host
  nodeagent apply                       change it
  nodeagent status                      tell how the host is
  nodeagent snapshot                    take an etcd snapshot
  nodeagent explain pki.lifetime        tell what a key of the fleet's files means`,
		Args:          noArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version(),
	}
	root.SuggestionsMinimumDistance = 2
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{withHint(err, fmt.Sprintf("see '%s --help'", cmd.CommandPath()))}
	})
	flags := root.PersistentFlags()
	flags.StringVar(&o.fleet, "fleet", cmp.Or(os.Getenv(fleetVariable), layout.Root("").Fleet()), "the fleet's `folder`")
	o.chosen = func() bool { return flags.Changed("fleet") || os.Getenv(fleetVariable) != "" }
	flags.StringVar(&o.host, "host", os.Getenv(hostVariable), "the `name` of this host in the fleet (default: the machine's host name)")
	flags.StringVarP(&o.output, "output", "o", "text", "how to print: `text|json`")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if o.output != "text" && o.output != "json" {
			return usageError{fmt.Errorf("--output %q: it is text or json", o.output)}
		}
		return nil
	}
	must(root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp)))
	must(root.RegisterFlagCompletionFunc("host", o.completeHost))
	must(root.MarkPersistentFlagDirname("fleet"))
	root.AddCommand(
		newValidate(o), newPlan(o), newApply(o), newRun(o), newStatus(o), newSnapshot(o),
		newConfirm(o), newRollback(o), newWireGuard(o), newFirewall(o), newEnroll(o), newCerts(o), newKubeconfig(o), newPKI(o), newHold(), newEtcd(o),
		newExplain(o), newCompletion(o), newVersion(o),
	)
	root.CompletionOptions.DisableDefaultCmd = true // there is one of our own
	return root
}

// must panics on an error that only a mistake in this package can cause.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func (o *options) json() bool { return o.output == "json" }

// spec loads the fleet and picks this host's spec, printing warnings.
func (o *options) spec() (*hosts.Spec, error) {
	return o.specOf(func(w string) { fmt.Fprintf(o.stderr, "warning: %s\n", w) })
}

// quietSpec is spec for a command that works without a fleet as well.
func (o *options) quietSpec() (*hosts.Spec, error) { return o.specOf(func(string) {}) }

func (o *options) specOf(warn func(string)) (*hosts.Spec, error) {
	fleet, err := o.load()
	if err != nil {
		return nil, err
	}
	for _, w := range fleet.Warnings {
		warn(w.String())
	}
	name, err := o.hostName()
	if err != nil {
		return nil, err
	}
	spec, err := fleet.Host(name)
	if err != nil {
		return nil, withHint(err, "--host NAME picks another host of the fleet, --fleet DIR another fleet")
	}
	return spec, nil
}

// hostName is --host, or the machine's host name up to its first dot.
func (o *options) hostName() (string, error) {
	if o.host != "" {
		return o.host, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", withHint(fmt.Errorf("read the machine's host name: %w", err), "--host NAME names the host")
	}
	name, _, _ = strings.Cut(name, ".")
	return name, nil
}

// open loads the spec and opens the host that it is about.
func (o *options) open(cmd *cobra.Command) (*agent.Host, error) {
	spec, err := o.spec()
	if err != nil {
		return nil, err
	}
	host, err := agent.Open(cmd.Context(), "", spec, logger(o.stderr))
	if err == nil {
		host.AskBy(o.prompt())
	}
	return host, err
}

// only adds the --only flag to a command.
func only(cmd *cobra.Command) *[]string {
	names := cmd.Flags().StringSlice("only", nil, "only these `domains`: "+strings.Join(agent.DomainNames(), ", "))
	must(cmd.RegisterFlagCompletionFunc("only", cobra.FixedCompletions(agent.DomainNames(), cobra.ShellCompDirectiveNoFileComp)))
	return names
}

// pick returns the domains of the host that --only names.
func pick(host *agent.Host, names []string) ([]agent.Domain, error) {
	domains, err := agent.Only(host.Domains(), names)
	if err != nil {
		return nil, usageError{err}
	}
	return domains, nil
}

// noArgs is a cobra argument check for commands that take none.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	what := fmt.Sprintf("%s takes no argument, but got %q", cmd.CommandPath(), args[0])
	if cmd.HasAvailableSubCommands() {
		what = fmt.Sprintf("%s has no command %q", cmd.CommandPath(), args[0])
	}
	if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
		what += fmt.Sprintf("; did you mean %q?", similar[0])
	}
	return usageError{withHint(errors.New(what), fmt.Sprintf("see '%s --help'", cmd.CommandPath()))}
}
