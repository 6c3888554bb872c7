package vault

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/pki"
)

// Adopt has the wanted authorities and secrets go on as those that a local
// issuer holds, so that whoever trusts these trusts Vault's. What Vault has of
// them already is not wanted again. It writes nothing.
//
// It refuses, naming everything that is in the way at once, where Vault has
// other ones: the cluster would be split in two that do not trust each other. It
// refuses an authority of another cluster, and one that ends before what it is
// to sign would, as Vault signs nothing then.
func Adopt(ctx context.Context, client *api.Client, have State, want *State, held pki.Held, now time.Time) error {
	var failed []error
	for i := range held.Authorities {
		h := &held.Authorities[i]
		if err := want.adopt(have.authority(h.Name), h, now); err != nil {
			failed = append(failed, fmt.Errorf("adopt CA %q: %w", h.Name, err))
		}
	}
	want.Adopted = nil
	for _, k := range held.Keys {
		there, err := adopted(ctx, client, want.Place, k)
		if err != nil {
			failed = append(failed, fmt.Errorf("adopt key %q: %w", k.Name, err))
		} else if !there {
			want.Adopted = append(want.Adopted, k)
		}
	}
	return errors.Join(failed...)
}

// adopt has the wanted authority of that name be the held one, unless Vault has
// that key already.
func (s *State) adopt(have *Authority, held *pki.HeldAuthority, now time.Time) error {
	want := s.authority(held.Name)
	c, id := held.Certificate, pki.KeyID(held.Certificate)
	switch {
	case want == nil:
		return errors.New("the fleet needs none of that name")
	case !slices.Contains(c.Subject.Organization, want.Cluster):
		return fmt.Errorf("it is of another cluster (%s), not of %s", c.Subject, want.Cluster)
	case have != nil && have.holds(id):
		want.Adopted = nil
		return nil
	case have != nil && have.Condition != Absent:
		return fmt.Errorf("engine %s has another one, and hosts that trust the one would not trust the other: if no host uses that (bootstrap was run without --adopt), remove it with vault secrets disable %[1]s, or choose another pki.vault.mount; if the cluster was moved to Vault before and the CA changed there since, nothing is left to adopt", have.Engine)
	case now.Before(c.NotBefore) || c.NotAfter.Before(now.Add(want.Leaf)):
		return fmt.Errorf("it ends on %s, before a certificate of %s would, and Vault signs none that outlives its CA: let the local issuer renew it first (nodeagent apply), or make pki.lifetime shorter", date(c.NotAfter), want.Leaf)
	}
	want.Adopted = held
	return nil
}

// adopted tells whether Vault has the secret, and fails where it has another.
func adopted(ctx context.Context, client *api.Client, place Place, k pki.HeldKey) (bool, error) {
	path := place.Secret(k.Name)
	answer, err := client.Logical().ReadWithContext(ctx, path)
	if status(err) == http.StatusNotFound || err == nil && answer == nil {
		return false, nil // no engine, or nothing in it
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", path, plain(err))
	}
	content, err := decodeSecret(answer)
	if errors.Is(err, errDeleted) {
		return false, fmt.Errorf("%s was deleted: bring it back (vault kv undelete), or, if nothing was ever protected by it, remove every trace of it (vault kv metadata delete)", path)
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	there, err := pki.KeyIDs(k.Name, content)
	if err != nil {
		return false, fmt.Errorf("what is at %s %w", path, err)
	}
	ours, err := pki.KeyIDs(k.Name, k.Content)
	if err != nil {
		return false, fmt.Errorf("the host's own %w", err)
	}
	if !slices.Equal(there, ours) {
		return false, fmt.Errorf("another one is at %s in Vault, and what one control plane signs or encrypts the other could not read: if no host uses that, remove every trace of it (vault kv metadata delete), or choose another pki.vault.mount", path)
	}
	return true, nil
}

// adoptAuthority imports the authority and its key. Done again it changes
// nothing: Vault knows both.
func adoptAuthority(ctx context.Context, client *api.Client, want, have Authority) error {
	id := pki.KeyID(want.Adopted.Certificate)
	if have.Condition != Absent && !have.holds(id) {
		return errors.New("another one was made since the plan: plan again")
	}
	bundle, err := want.Adopted.PEM()
	if err != nil {
		return err
	}
	if err := write(ctx, client, want.Engine+"/issuers/import/bundle", map[string]any{"pem_bundle": string(bundle)}); err != nil {
		return err
	}
	after, err := readAuthority(ctx, client, want.Name, want.Engine)
	if err != nil {
		return err
	}
	if s := after.signer(); after.Condition != Signing || pki.KeyID(s.Certificate) != id {
		return fmt.Errorf("it is in Vault now, and another one signs: somebody else has made one in the same moment: look at the issuers of %s", want.Engine)
	}
	return nil
}

// adoptSecret writes the secret where there has never been one.
func adoptSecret(ctx context.Context, client *api.Client, place Place, k pki.HeldKey) error {
	there, err := adopted(ctx, client, place, k)
	if err != nil || there {
		return err
	}
	return write(ctx, client, place.Secret(k.Name), map[string]any{
		"data":    map[string]any{secretField: base64.StdEncoding.EncodeToString(k.Content)},
		"options": map[string]any{"cas": 0},
	})
}

// Beside are the CAs of the cluster that a local issuer has and Vault has none
// of: CAs made there now would be others.
func Beside(have, want State, left []pki.LeftAuthority) []string {
	var names []string
	for _, l := range left {
		w, h := want.authority(l.Name), have.authority(l.Name)
		if w != nil && w.Cluster == l.Cluster && (h == nil || h.Condition == Absent) {
			names = append(names, l.Name)
		}
	}
	return names
}
