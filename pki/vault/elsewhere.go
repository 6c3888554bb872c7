package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/pki"
)

// Unsigned is an authority whose key a change of its CA has made in Vault, and
// whose certificate somebody outside of this Vault signs.
type Unsigned struct {
	// Request is what is to be signed, PEM, with the Subject to be kept.
	Request []byte
	Subject string
	// Signer is who signed the authority before it; its own name for a root.
	Signer string
	// Leaf is the least time that its certificate must live.
	Leaf time.Duration
}

// Write writes the request to a file. Nothing in it is secret.
func (u Unsigned) Write(file string) error {
	if err := atomicfile.Write(file, u.Request, 0o644); err != nil {
		return fmt.Errorf("write signing request of %s: %w", u.Subject, err)
	}
	return nil
}

// Prepare begins the change of a CA that is signed outside of this Vault, or is
// to be from now on (elsewhere): it makes the next authority's key, which waits
// for its certificate; see [Changer.Import]. Asked again it answers a request
// for the same key. It is nil where nobody has to sign anything: where the next
// authority is there, or is a root that Vault makes.
//
// What it makes is remembered before, so that it is found again, or withdrawn,
// wherever a run is cut off.
func (c *Changer) Prepare(ctx context.Context, ca string, elsewhere bool) (*Unsigned, error) {
	a, change, err := c.under(ctx, ca)
	if err != nil || len(a.signing()) == 2 {
		return nil, err
	}
	signer := a.signer().Certificate
	if change == nil {
		change = &pki.Change{CA: ca, Old: pki.KeyID(signer)}
	}
	switch {
	case change.Waiting == "" && (change.New != "" || change.Back || pki.KeyID(signer) != change.Old):
		return nil, nil // it is past that: hosts are to forget the old one
	case change.Waiting == "" && !elsewhere && selfSigned(signer):
		return nil, nil
	case change.Waiting == "":
		change.Waiting = successor()
		if err := c.Save(ctx, *change); err != nil {
			return nil, err
		}
	}
	request, err := c.request(ctx, a, change.Waiting)
	if err != nil {
		return nil, fmt.Errorf("change CA %q: %w", ca, err)
	}
	want := c.want.authority(ca)
	return &Unsigned{Request: request, Subject: fmt.Sprintf("CN=%s, O=%s", ca+" "+change.Waiting, want.Cluster), Signer: signer.Issuer.String(), Leaf: want.Leaf}, nil
}

// under is the authority and the change of it that is under way, nil for none.
func (c *Changer) under(ctx context.Context, ca string) (Authority, *pki.Change, error) {
	a, err := c.read(ctx, ca)
	if err != nil {
		return a, nil, err
	}
	change, err := c.Load(ctx, ca)
	return a, change, err
}

// successor is the name of a new authority's key.
func successor() string { return "since-" + time.Now().UTC().Format("20060102-150405") }

// request answers the signing request for the key of a name, which is made where
// there is none.
func (c *Changer) request(ctx context.Context, a Authority, name string) ([]byte, error) {
	there, err := c.keyOf(ctx, a, name)
	if err != nil {
		return nil, err
	}
	data := c.want.authority(a.Name).request(map[string]any{"common_name": a.Name + " " + name, "key_name": name})
	path := a.Engine + "/intermediate/generate/internal"
	if there != "" {
		path = a.Engine + "/intermediate/generate/existing"
		data["key_ref"] = there
		for _, field := range []string{"key_type", "key_bits", "key_name"} {
			delete(data, field)
		}
	}
	secret, err := c.client.Logical().WriteWithContext(ctx, path, data)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", path, plain(err))
	}
	return csrIn(secret)
}

// keyOf is the id of the key of a name; empty where there is none.
func (c *Changer) keyOf(ctx context.Context, a Authority, name string) (string, error) {
	ids, err := listKeys(ctx, c.client, a.Engine+"/keys")
	if err != nil {
		return "", err
	}
	for _, id := range ids {
		key, err := read(ctx, c.client, a.Engine+"/key/"+id)
		if err != nil {
			return "", err
		}
		if key["key_name"] == name {
			return id, nil
		}
	}
	return "", nil
}

// Import gives the authority that Prepare has begun its certificate: PEM, with
// the chain up to the root behind it. Everything about it is checked before it is
// used. From then on the change goes on as any other.
func (c *Changer) Import(ctx context.Context, ca, chain string, now time.Time) error {
	a, change, err := c.under(ctx, ca)
	if err != nil {
		return err
	}
	if err := c.imports(ctx, a, change, chain, now); err != nil {
		return fmt.Errorf("import the signed certificate of CA %q: %w", ca, err)
	}
	return nil
}

func (c *Changer) imports(ctx context.Context, a Authority, change *pki.Change, chain string, now time.Time) error {
	list, err := parseChain(chain)
	if err != nil {
		return fmt.Errorf("the file %w", err)
	}
	id, signer := pki.KeyID(list[0]), a.signer().Certificate
	switch {
	case a.holds(id) && id != pki.KeyID(signer):
		return nil // an earlier run did it
	case change == nil || change.Waiting == "" || len(a.signing()) == 2:
		return errors.New("nothing waits for it: without --signed the command says what is to be signed")
	case a.Follows:
		return a.mustNotFollow()
	case bytes.Equal(list[0].RawSubject, signer.RawSubject):
		return fmt.Errorf("it has the subject of the authority before it (%s), and chains lead to one of them by that name alone: sign it with the subject that the request names", signer.Subject)
	}
	request, err := c.request(ctx, a, change.Waiting)
	if err != nil {
		return err
	}
	if err := CheckSigned(chain, request, c.want.authority(a.Name).Leaf, now); err != nil {
		return err
	}
	if err := write(ctx, c.client, a.Engine+"/intermediate/set-signed", map[string]any{"certificate": chain}); err != nil {
		return err
	}
	after, err := c.read(ctx, a.Name)
	if err == nil && (!after.holds(id) || pki.KeyID(after.signer().Certificate) != pki.KeyID(signer)) {
		err = fmt.Errorf("it is in Vault now, which has not both the one before it as its default and this one beside it: look at the issuers of %s", a.Engine)
	}
	return err
}

// mustNotFollow refuses an engine in which a new issuer signs at once, before
// any host trusts it.
func (a Authority) mustNotFollow() error {
	return fmt.Errorf("engine %s lets a new issuer sign at once (default_follows_latest_issuer), before hosts trust it: vault write %[1]s/config/issuers default=%s default_follows_latest_issuer=false", a.Engine, a.Default)
}

// Withdraw gives up an authority that waits for its certificate, and forgets
// that it was begun; it tells whether there was one. What is past that, a change
// turned back does.
func (c *Changer) Withdraw(ctx context.Context, ca string) (bool, error) {
	a, change, err := c.under(ctx, ca)
	if err != nil || change == nil || change.Waiting == "" || len(a.signing()) == 2 || pki.KeyID(a.signer().Certificate) != change.Old {
		return false, err
	}
	id, err := c.keyOf(ctx, a, change.Waiting)
	if err == nil && id != "" {
		err = erase(ctx, c.client, a.Engine+"/key/"+id)
	}
	if err == nil {
		err = c.Remove(ctx, ca)
	}
	if err != nil {
		return false, fmt.Errorf("withdraw the change of CA %q: %w", ca, err)
	}
	return true, nil
}

// trustLogins has every login by certificate trust the authorities that sign
// hosts' own certificates, less one that is about to be dropped. Without it a
// host whose certificate is of the next authority could not log in.
func (c *Changer) trustLogins(ctx context.Context, a Authority, less ...string) error {
	if a.Name != loginAuthority {
		return nil
	}
	bundle := a.bundle(less...)
	for _, o := range c.want.Objects {
		if o.Kind != KindLogin || o.method() != authCert {
			continue
		}
		have, err := readObject(ctx, c.client, o)
		if err != nil {
			return err
		}
		// One that is not there would come without the name that it is bound to.
		if have == nil || have["certificate"] == fingerprint(bundle) {
			continue
		}
		if err := write(ctx, c.client, o.path(), map[string]any{"certificate": bundle}); err != nil {
			return err
		}
	}
	return nil
}
