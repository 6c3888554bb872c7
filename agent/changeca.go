package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
	"github.com/nodeagent/nodeagent/pki/vault"
)

// How often a change of a CA looks whether hosts have followed.
const (
	localPoll = 200 * time.Millisecond
	vaultPoll = 3 * time.Second
)

// FollowDomains are what a host converges to follow a change of a CA.
func FollowDomains() []string { return []string{DomainPKI, DomainUnits, DomainProof} }

// ChangeLocalCA leads the change of a CA of the local issuer on this host, and
// lets the host follow step by step. The caller holds the lock of FollowDomains.
func (h *Host) ChangeLocalCA(ctx context.Context, ca string, back bool, tell func(pki.Do, pki.Change, []pki.Use), rep plan.Reporter) error {
	if h.Spec().PKI.Issuer != pki.IssuerLocal {
		return fmt.Errorf("change CA %q on this host: its issuer is %q", ca, h.Spec().PKI.Issuer)
	}
	c := pki.Coordinator{
		Issuer: &pki.Local{Root: h.root, Keys: h.keyring}, Store: pki.LocalChanges{Root: h.root}, Poll: localPoll, Tell: tell,
		Uses: func(ctx context.Context, ca string) ([]pki.Use, error) {
			r, err := h.Report(ctx)
			if err != nil {
				return nil, err
			}
			return pki.Uses([]*hosts.Spec{h.Spec()}, map[string]pki.Report{r.Host: r}, ca, r.At), nil
		},
		Follow: func(ctx context.Context) error {
			result, err := h.Converge(ctx, FollowDomains(), rep)
			return errors.Join(err, result.Err())
		},
	}
	return c.Run(ctx, ca, back)
}

// ChangeVaultCA leads the change of a CA in Vault, with an administrator's
// client. The hosts follow by themselves, and say how far they are.
func ChangeVaultCA(ctx context.Context, client *api.Client, fleet *hosts.Fleet, ca string, back bool, tell func(pki.Do, pki.Change, []pki.Use)) error {
	changer, err := vault.NewChanger(client, fleet)
	if err != nil {
		return err
	}
	c := pki.Coordinator{
		Issuer: changer, Store: changer, Poll: vaultPoll, Tell: tell,
		Uses: func(ctx context.Context, ca string) ([]pki.Use, error) {
			reports, err := changer.Reports(ctx)
			if err != nil {
				return nil, err
			}
			return pki.Uses(fleet.Hosts, reports, ca, time.Now()), nil
		},
	}
	return c.Run(ctx, ca, back)
}
