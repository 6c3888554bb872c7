package vault

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	"golang.org/x/sync/errgroup"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/pki"
)

// Check looks at everything with an administrator's token: what Lint finds,
// what the token may not do, and what comes of having every certificate of the
// hosts signed.
func Check(ctx context.Context, client *api.Client, fleet *hosts.Fleet, now time.Time) ([]Finding, error) {
	want, err := Want(fleet)
	if err != nil {
		return nil, err
	}
	have, err := Observe(ctx, client, want.Place)
	if err != nil {
		return nil, err
	}
	findings := Lint(have, want, now)
	missing, err := lacking(adminRules(want.Place), func(paths []string) (map[string]any, error) {
		return capabilities(ctx, client, paths)
	})
	if err != nil {
		return nil, err
	}
	for _, what := range missing {
		findings = append(findings, Finding{SeverityWarning, "token", what, "nodeagent pki bootstrap --print-policy prints what it needs"})
	}
	jwt, err := checkJWT(ctx, client, want)
	if err != nil {
		return nil, err
	}
	findings = append(findings, jwt...)
	for _, spec := range fleet.Hosts {
		findings = append(findings, try(ctx, trial{client, want.Place, spec.Name, have}, spec, now)...)
	}
	sortFindings(findings)
	return findings, nil
}

// checkJWT tells of a JWT method that knows nobody whose tokens it could check.
// Whose they are is the administrator's to say.
func checkJWT(ctx context.Context, client *api.Client, want State) ([]Finding, error) {
	mount := want.Place.Auth(authJWT)
	if want.object(Object{Kind: KindMethod, Mount: mount}) == nil {
		return nil, nil
	}
	config, err := read(ctx, client, "auth/"+mount+"/config")
	if err != nil || config != nil {
		return nil, err
	}
	return []Finding{{
		SeverityError, "method " + mount, "it knows nobody whose tokens it could check, and no host can log in",
		"vault write auth/" + mount + "/config jwks_url=… or oidc_discovery_url=… or jwt_validation_pubkeys=…",
	}}, nil
}

// lacking says what a token may not do of what the rules have, one line each.
func lacking(rules []rule, ask func(paths []string) (map[string]any, error)) ([]string, error) {
	var paths []string
	for _, r := range rules {
		paths = append(paths, r.example())
	}
	have, err := ask(paths)
	if err != nil {
		return nil, err
	}
	var missing []string
	for _, r := range rules {
		granted, _ := normal(have[r.example()]).([]string)
		if slices.Contains(granted, "root") {
			continue
		}
		var lacks []string
		for _, c := range r.capabilities {
			if !slices.Contains(granted, c) {
				lacks = append(lacks, c)
			}
		}
		if len(lacks) > 0 {
			missing = append(missing, fmt.Sprintf("the token may not %s %s", strings.Join(lacks, ", "), r.path))
		}
	}
	return missing, nil
}

// example is a path that the rule covers.
func (r rule) example() string {
	if r.sample != "" {
		return r.sample
	}
	return r.path
}

var errNoAnswer = errors.New("an empty answer, where Vault has one")

// capabilities asks Vault what the client's token may do at each path.
func capabilities(ctx context.Context, client *api.Client, paths []string) (map[string]any, error) {
	secret, err := client.Logical().WriteWithContext(ctx, "sys/capabilities-self", map[string]any{"paths": paths})
	if err == nil && secret == nil {
		err = errNoAnswer
	}
	if err != nil {
		return nil, fmt.Errorf("ask what the token may do: %w", plain(err))
	}
	return secret.Data, nil
}

// try has every certificate of a host signed and tells of what fails.
func try(ctx context.Context, issuer pki.Issuer, spec *hosts.Spec, now time.Time) []Finding {
	var group errgroup.Group
	group.SetLimit(atOnce)
	requests := pki.Requests(spec)
	failed := make([]error, len(requests))
	for i, r := range requests {
		group.Go(func() error {
			failed[i] = pki.Try(ctx, issuer, r, now)
			return nil
		})
	}
	_ = group.Wait() // no function of it fails
	var findings []Finding
	for i, err := range failed {
		if err != nil {
			findings = append(findings, Finding{
				SeverityError, "certificate " + spec.Name + "." + requests[i].Name, "the signing trial failed: " + oneLine(err.Error()), "",
			})
		}
	}
	return findings
}

// trial is an issuer that signs for a host with an administrator's token.
type trial struct {
	client *api.Client
	place  Place
	host   string
	have   State
}

// Sign implements pki.Issuer.
func (t trial) Sign(ctx context.Context, r pki.Request, csr []byte) ([]byte, error) {
	parameters := SignParameters(r)
	parameters["csr"] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))
	secret, err := t.client.Logical().WriteWithContext(ctx, signPath(t.place, t.host, r), parameters)
	if err == nil && secret == nil {
		err = errNoAnswer
	}
	if err != nil {
		return nil, plain(err)
	}
	certificate, _ := secret.Data["certificate"].(string)
	return []byte(certificate + "\n"), nil
}

// Bundle implements pki.Issuer.
func (t trial) Bundle(_ context.Context, ca string) ([]byte, error) {
	a := t.have.authority(ca)
	if a == nil || len(a.Issuers) == 0 {
		return nil, fmt.Errorf("the authority %s has no certificate", t.place.Engine(ca))
	}
	return []byte(a.bundle()), nil
}

// Secret implements pki.Issuer; a trial makes none.
func (t trial) Secret(context.Context, string, func() ([]byte, error)) ([]byte, error) {
	return nil, errors.New("a signing trial makes no secrets")
}
