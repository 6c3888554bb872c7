package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
	"github.com/nodeagent/nodeagent/pki/proof"
)

// Proof is whether a component uses a certificate, or a server takes it.
type Proof struct {
	// Component is whose port was asked, and Address that port.
	Component string `json:"component"`
	Address   string `json:"address"`
	// Client tells that the certificate was tried as a client's.
	Client bool `json:"client"`
	// State is one of the Proof… constants; Problem is why it is not proven.
	State   string `json:"state"`
	Problem string `json:"problem,omitempty"`
}

// The states of a Proof.
const (
	Proven    = "proven"
	ProofDown = "down" // nothing answers there
	ProofNot  = "not proven"
)

// ProveCertificate asks the live ports that a certificate is for. It changes
// nothing. There is none to ask for some, such as the host's own towards Vault.
func ProveCertificate(ctx context.Context, h *Host, name string) ([]Proof, error) {
	want, err := h.wantProof(ctx)
	if err != nil {
		return nil, err
	}
	var asked proof.State
	for _, c := range want.Checks {
		if c.Certificate == name {
			asked.Checks = append(asked.Checks, c)
		}
	}
	have, err := proof.Observe(ctx, h.root, asked)
	if err != nil {
		return nil, err
	}
	list := []Proof{}
	for i, c := range have.Checks {
		one := Proof{Component: c.Component, Address: c.Address, Client: c.Client, State: Proven}
		switch w := asked.Checks[i]; {
		case c.Down:
			one.State = ProofDown
		case c.Problem != "":
			one.State, one.Problem = ProofNot, c.Problem
		case c.Serial != w.Serial:
			one.State, one.Problem = ProofNot, "it serves serial "+c.Serial
		}
		list = append(list, one)
	}
	return list, nil
}

// proven fails unless every live port that the certificates are for was asked
// and uses them. That nothing is left to do is not enough here: a component that
// does not answer leaves nothing to do, and proves nothing.
func (h *Host) proven(ctx context.Context, names []string) error {
	var failed []error
	for _, name := range names {
		list, err := ProveCertificate(ctx, h, name)
		if err != nil {
			failed = append(failed, err)
		}
		for _, p := range list {
			switch p.State {
			case ProofDown:
				failed = append(failed, fmt.Errorf("certificate %s is not proven: %s does not answer at %s (nodeagent status says more)", name, p.Component, p.Address))
			case ProofNot:
				failed = append(failed, fmt.Errorf("certificate %s is not proven: %s at %s: %s", name, p.Component, p.Address, p.Problem))
			}
		}
	}
	return errors.Join(failed...)
}

// RenewCertificates issues certificates anew although they are not due, has the
// host use them, and with revoke revokes the pairs before them. The caller holds
// the lock of FollowDomains.
func (h *Host) RenewCertificates(ctx context.Context, names []string, revoke bool, rep plan.Reporter) ([]pki.Renewed, error) {
	renewal := pki.Renewal{
		Applier: &pki.Applier{Root: h.root, Issuer: h.issuer, Keys: h.keyring}, Want: pki.Want(h.Spec()),
		Prove: func(ctx context.Context) error {
			result, err := h.Converge(ctx, FollowDomains(), rep)
			return errors.Join(err, result.Err(), h.proven(ctx, names))
		},
	}
	if h.Spec().PKI.Issuer == pki.IssuerVault {
		renewal.Revoke = func(ctx context.Context, ca string, chain, key []byte) error {
			return h.vault(h.Spec()).Revoke(ctx, ca, chain, key)
		}
	}
	return renewal.Run(ctx, names, revoke, rep)
}
