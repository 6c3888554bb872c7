package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/pki"
)

func newCertsPassphrase(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "passphrase",
		Short: "Change what opens the keys of the local issuer's CAs",
		Long: `passphrase encrypts the keys of the local issuer's CAs with another passphrase, or with
a credential of another content. It is one file that is written anew, so that either the
one or the other opens them at any moment; certificates and CAs stay as they are. Without
--old-file and --new-file it asks on the terminal for what is found nowhere else.

Then give nodeagent.service the new one: the spec's passphrase_file, or systemd's
credential and a restart. Or give it that first, and name the one before with --old-file.
In between it cannot issue, and says so.

A passphrase that somebody else has seen, together with a copy of the host's files, has
given the CAs away: change those with 'nodeagent certs rotate-ca', after the spec's
ca_keys was "plain" for one apply, which makes a new key pair for their keys.`,
		Example: `  nodeagent certs passphrase
  nodeagent certs passphrase --old-file /run/old --new-file /run/secrets/ca`,
		Args: noArgs,
	}
	before := cmd.Flags().String("old-file", "", "the `file` with what opens the keys now")
	after := cmd.Flags().String("new-file", "", "the `file` with what is to open them")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		host, err := o.open(cmd)
		if err != nil {
			return err
		}
		defer host.Close()
		protection, serve, err := host.CAProtection()
		if err != nil {
			return err
		}
		var was, secret string
		if *before != "" {
			if was, err = agent.ReadSecret(*before); err != nil {
				return err
			}
		}
		if *after != "" {
			secret, err = agent.ReadSecret(*after)
		} else if ask := o.prompt(); ask != nil {
			secret, err = ask(cmd.Context(), pki.SecretAsk{Protection: "new " + protection, New: true})
		} else {
			err = usageError{errors.New("there is no terminal to ask on: name the file with the new one, --new-file")}
		}
		if err != nil {
			return err
		}
		if err := host.ChangeCAPassphrase(cmd.Context(), was, secret); err != nil {
			return err
		}
		if o.json() {
			return printJSON(o, map[string]any{"changed": true})
		}
		fmt.Fprintf(o.stdout, "Changed: another %s opens the keys of the CAs.\n", protection)
		if serve != "" {
			fmt.Fprintf(o.stdout, "Now %s: until then nodeagent.service cannot issue.\n", serve)
		}
		return nil
	}
	return cmd
}

// prompt asks on the terminal that standard input is; nil where it is none.
func (o *options) prompt() agent.Prompt {
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return nil
	}
	return func(ctx context.Context, ask pki.SecretAsk) (string, error) {
		o.asking.Lock()
		defer o.asking.Unlock()
		text := "The " + ask.Protection + " of the CAs' keys: "
		if ask.Again {
			text = "That does not open them. " + text
		}
		secret, err := o.readHidden(ctx, text)
		if err != nil || !ask.New {
			return secret, err
		}
		again, err := o.readHidden(ctx, "Once more: ")
		if err == nil && again != secret {
			err = errors.New("the two that were typed are not the same: run the command again")
		}
		return secret, err
	}
}

// readHidden reads one line that is not shown. Interrupted, it gives the terminal
// back as it was.
func (o *options) readHidden(ctx context.Context, text string) (string, error) {
	terminal := int(os.Stdin.Fd())
	before, err := term.GetState(terminal)
	if err != nil {
		return "", fmt.Errorf("ask on the terminal: %w", err)
	}
	fmt.Fprintf(o.stderr, "\r\x1b[K%s", text)
	defer fmt.Fprintln(o.stderr)
	type line struct {
		text []byte
		err  error
	}
	typed := make(chan line, 1)
	go func() { // it ends with the line, or with the process
		text, err := term.ReadPassword(terminal)
		typed <- line{text, err}
	}()
	select {
	case <-ctx.Done():
		return "", errors.Join(ctx.Err(), term.Restore(terminal, before))
	case l := <-typed:
		if l.err != nil {
			return "", fmt.Errorf("ask on the terminal: %w", l.err)
		}
		return strings.TrimRight(string(l.text), "\r\n"), nil
	}
}
