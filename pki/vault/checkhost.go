package vault

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/pki"
)

// Check looks at Vault with the host's own login: what its token may not do of
// what it needs, which CAs end too soon, and what comes of having each of its
// certificates signed. Roles and policies are hidden from hosts.
func (i *Issuer) Check(ctx context.Context, spec *hosts.Spec, now time.Time) ([]Finding, error) {
	missing, err := lacking(hostRules(i.place, spec), func(paths []string) (map[string]any, error) {
		var granted map[string]any
		err := i.do(ctx, i.asked("ask what the token may do", loginAuthority), func(ctx context.Context, c *conn) error {
			secret, err := c.write(ctx, "sys/capabilities-self", map[string]any{"paths": paths})
			if err == nil {
				granted = secret.Data
			}
			return err
		})
		return granted, err
	})
	if err != nil {
		return nil, err
	}
	var findings []Finding
	for _, what := range missing {
		findings = append(findings, Finding{SeverityError, "host " + spec.Name, what, bootstrap})
	}
	leaves := map[string]time.Duration{}
	for _, r := range pki.Requests(spec) {
		leaves[r.CA] = max(leaves[r.CA], r.Lifetime)
	}
	for ca, leaf := range leaves {
		bundle, err := i.Bundle(ctx, ca)
		if err != nil {
			return nil, err
		}
		list, err := parseChain(string(bundle))
		if err != nil {
			return nil, fmt.Errorf("check authority %q: its bundle %w", ca, err)
		}
		// Which of several signs is hidden from hosts: the youngest, unless the
		// CA is being changed at this moment.
		signer := slices.MaxFunc(list, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
		if f, ok := life("authority "+i.place.Engine(ca), ca, signer, leaf, now); ok {
			findings = append(findings, f)
		}
	}
	findings = append(findings, try(ctx, i, spec, now)...)
	sortFindings(findings)
	return findings, nil
}
