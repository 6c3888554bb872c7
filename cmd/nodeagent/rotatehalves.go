package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
	"github.com/nodeagent/nodeagent/pki/vault"
)

// halves is a change of a CA whose new authority somebody outside of Vault
// signs: one run writes the request, another goes on with the certificate.
type halves struct {
	*options
	csr, signed string // files
}

// check refuses what the issuer does not know, before anything is changed.
func (h halves) check(issuer, ca string) error {
	switch {
	case issuer == pki.IssuerVault:
		return nil
	case ca == layout.CANodeagent:
		return usageError{fmt.Errorf("the local issuer has no CA %q: hosts log in to Vault with its certificates", ca)}
	case h.csr != "" || h.signed != "":
		return usageError{fmt.Errorf("--csr and --signed are for CAs in Vault; the issuer of this cluster is %q, whose CAs are roots", issuer)}
	}
	return nil
}

// prepare does what comes before the change that goes on by itself; done tells
// that nothing comes after it.
func (h halves) prepare(ctx context.Context, client *api.Client, fleet *hosts.Fleet, ca string, back bool) (done bool, err error) {
	changer, err := vault.NewChanger(client, fleet)
	if err != nil {
		return false, err
	}
	if back {
		if done, err = changer.Withdraw(ctx, ca); done {
			h.withdrawn(ca)
		}
		return done, err
	}
	if h.signed != "" {
		chain, err := os.ReadFile(h.signed)
		if err != nil {
			return false, fmt.Errorf("import the signed certificate of CA %q: %w", ca, err)
		}
		return false, changer.Import(ctx, ca, string(chain), time.Now())
	}
	unsigned, err := changer.Prepare(ctx, ca, h.csr != "")
	if err != nil || unsigned == nil {
		return false, err
	}
	return true, h.ask(ca, *unsigned)
}

func (h halves) withdrawn(ca string) {
	if h.json() {
		_ = printJSON(h.options, map[string]any{"ca": ca, "done": true, "steps": []rotationStep{}})
		return
	}
	fmt.Fprintf(h.stdout, "The new CA %s, which waited for its certificate, is given up; nothing has changed.\n", ca)
}

// ask writes the request and says what to do with it. It ends as an error: the
// CA is not changed.
func (h halves) ask(ca string, u vault.Unsigned) error {
	file := cmp.Or(h.csr, ca+".csr")
	if err := u.Write(file); err != nil {
		return err
	}
	if h.json() {
		if err := printJSON(h.options, map[string]any{"ca": ca, "done": false, "request": file, "subject": u.Subject, "steps": []rotationStep{}}); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(h.stdout, "request %s\n", file)
	}
	return withHint(
		fmt.Errorf("CA %s is not changed yet: its next authority waits for a certificate that is signed outside of Vault (the one before it was signed by %s)", ca, u.Signer),
		fmt.Sprintf("sign %s as a CA (CA:TRUE, keyCertSign) with its subject %q and for longer than %s, put the chain up to the root behind it, then run 'nodeagent certs rotate-ca %s --signed FILE'; --back gives it up", file, u.Subject, u.Leaf, ca))
}
