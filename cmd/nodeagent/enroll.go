package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/pki"
	"github.com/nodeagent/nodeagent/pki/vault"
)

// longestToken is far above the length of any token of Vault's.
const longestToken = 4096

func newEnroll(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "enroll [-]",
		Short: "Make this host known to Vault with an enrolment token",
		Long: `enroll takes the host's first login out of an enrolment token, which an administrator
mints with 'nodeagent pki token HOST', gets the host its own certificate, and proves that
it can log in by the way that the fleet names (pki.vault.auth). The token is read from
standard input, from a file, or asked for; never from the command line, which every user
of the host can see.

The token is good for one use. One that wraps anything else than the login of this host is
left unused; one that somebody has unwrapped before is reported as such. Interrupted, the
same command goes on; it needs no token where the first was unwrapped already.

A host that is enrolled stays as it is. A host that was off until its certificate ended,
or that Vault does not know any more, comes back in by the same command with a new token.`,
		Example: `  nodeagent enroll                              asks for the token
  nodeagent enroll --token-file /run/token
  ssh admin@laptop nodeagent pki token n1 | nodeagent enroll -
  nodeagent enroll --again                      a new login, though there is one`,
		Args: tokenIsNoArgument,
	}
	file := cmd.Flags().String("token-file", "", "read the token from this `file`")
	again := cmd.Flags().Bool("again", false, "enrol though this host is enrolled")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *file != "" && len(args) > 0 {
			return usageError{errors.New("give either --token-file or -")}
		}
		spec, err := o.spec()
		if err != nil {
			return err
		}
		if err := enrols(spec); err != nil {
			return err
		}
		lock, err := agent.Acquire(cmd.Context(), "", []string{agent.DomainPKI}, lockPatience)
		if err != nil {
			return err
		}
		defer lock.Release()
		issuer := vault.New(spec, "", logger(o.stderr))
		defer issuer.Close(cmd.Context())
		e := enrolment{o, issuer, func() (string, error) { return readToken(o, *file, len(args) > 0) }}
		return e.run(cmd, spec, *again)
	}
	return cmd
}

// tokenIsNoArgument takes "-" and nothing else.
func tokenIsNoArgument(cmd *cobra.Command, args []string) error {
	if len(args) == 0 || len(args) == 1 && args[0] == "-" {
		return nil
	}
	return usageError{withHint(
		errors.New("a token on the command line can be read by every user of this host while the command runs, and stays in the shell's history"),
		"leave it out to be asked for it, or use --token-file FILE, or - for standard input; if what you gave was a token, have another minted")}
}

// enrols tells whether there is anything to enrol.
func enrols(spec *hosts.Spec) error {
	switch {
	case spec.PKI.Issuer != pki.IssuerVault:
		return fmt.Errorf("the issuer of cluster %s is %q: its hosts are not enrolled anywhere", spec.Cluster, spec.PKI.Issuer)
	case len(spec.Roles) == 0:
		return fmt.Errorf("host %s has no role, so it needs no certificate and no login", spec.Name)
	}
	return nil
}

// enrolment is one run of the command.
type enrolment struct {
	*options
	issuer *vault.Issuer
	token  func() (string, error)
}

func (e enrolment) run(cmd *cobra.Command, spec *hosts.Spec, again bool) error {
	ctx := cmd.Context()
	if !again {
		found, err := e.issuer.CheckEnrolment(ctx)
		if err == nil {
			return e.print(spec, found, true)
		}
		if pki.CauseOf(err) != pki.CauseLogin || spec.PKI.Vault.Auth == "jwt" {
			return err
		}
	}
	made, err := e.issuer.Enroll(ctx, "")
	if errors.Is(err, vault.ErrNoToken) || pki.CauseOf(err) == pki.CauseLogin {
		var token string
		if token, err = e.token(); err == nil {
			made, err = e.issuer.Enroll(ctx, token)
		}
	}
	if err != nil {
		return err
	}
	return e.print(spec, made, false)
}

func (e enrolment) print(spec *hosts.Spec, made vault.Enrolled, already bool) error {
	if e.json() {
		return printJSON(e.options, struct {
			vault.Enrolled
			Already bool `json:"already"`
		}{made, already})
	}
	with := "the token in " + spec.PKI.Vault.JWTFile
	switch made.Method {
	case "cert":
		with = fmt.Sprintf("its own certificate, which ends on %s and is renewed before", made.CertificateEnds.UTC().Format(time.RFC3339))
	case "approle":
		with = "a secret id that never ends and is replaced all the same"
		if !made.SecretIDEnds.IsZero() {
			with = fmt.Sprintf("a secret id, which ends on %s and is replaced before", made.SecretIDEnds.UTC().Format(time.RFC3339))
		}
	}
	word := "Enrolled"
	if already {
		word = "Enrolled already"
	}
	fmt.Fprintf(e.stdout, "%s: %s logs in to %s with %s.\n", word, made.Host, spec.PKI.Vault.Address, with)
	return nil
}

// readToken reads the token from the file, from standard input, or from who
// sits before the terminal, without showing it.
func readToken(o *options, file string, stdin bool) (string, error) {
	if file != "" {
		content, err := readShort(file)
		if err != nil {
			return "", fmt.Errorf("read token: %w", err)
		}
		return checkToken(content, file)
	}
	if fd := int(os.Stdin.Fd()); !stdin && term.IsTerminal(fd) {
		fmt.Fprint(o.stderr, "Enrolment token: ")
		content, err := term.ReadPassword(fd)
		fmt.Fprintln(o.stderr)
		if err != nil {
			return "", fmt.Errorf("read token: %w", err)
		}
		return checkToken(content, "what was typed")
	}
	content, err := io.ReadAll(io.LimitReader(os.Stdin, longestToken+1))
	if err != nil {
		return "", fmt.Errorf("read token from standard input: %w", err)
	}
	return checkToken(content, "standard input")
}

func readShort(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, longestToken+1))
}

// checkToken refuses what cannot be a token, without printing it.
func checkToken(content []byte, from string) (string, error) {
	token := strings.TrimSpace(string(content))
	switch {
	case token == "":
		return "", withHint(fmt.Errorf("%s holds no enrolment token", from), "an administrator mints one with 'nodeagent pki token HOST'")
	case len(content) > longestToken:
		return "", fmt.Errorf("%s is too long for an enrolment token", from)
	}
	return token, nil
}
