package vault

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/pki"
)

// Changer changes the CAs of a cluster in Vault, with an administrator's token.
type Changer struct {
	client *api.Client
	place  Place
	want   State
}

var (
	_ pki.Rotator     = (*Changer)(nil)
	_ pki.ChangeStore = (*Changer)(nil)
)

// NewChanger changes CAs of the fleet's cluster.
func NewChanger(client *api.Client, fleet *hosts.Fleet) (*Changer, error) {
	want, err := Want(fleet)
	if err != nil {
		return nil, err
	}
	return &Changer{client: client, place: want.Place, want: want}, nil
}

// read observes the authority, which must be able to sign.
func (c *Changer) read(ctx context.Context, ca string) (Authority, error) {
	a, err := readAuthority(ctx, c.client, ca, c.place.Engine(ca))
	if err == nil && a.Condition != Signing {
		err = errors.New("it has no authority that signs: run nodeagent pki bootstrap")
	}
	if err == nil && len(a.signing()) > 2 {
		err = fmt.Errorf("engine %s has %d issuers with keys, and a change knows two: delete those that sign for nobody", a.Engine, len(a.signing()))
	}
	if err != nil {
		return a, fmt.Errorf("look at CA %q in Vault: %w", ca, err)
	}
	return a, nil
}

// signing are the issuers that could sign, the one that does first. Others in
// the engine are what stands above them.
func (a Authority) signing() []IssuerCertificate {
	var list []IssuerCertificate
	for _, i := range a.Issuers {
		switch {
		case i.Key == "":
		case i.ID == a.Default:
			list = append([]IssuerCertificate{i}, list...)
		default:
			list = append(list, i)
		}
	}
	return list
}

// Authorities implements pki.Rotator.
func (c *Changer) Authorities(ctx context.Context, ca string) ([]*x509.Certificate, error) {
	a, err := c.read(ctx, ca)
	if err != nil {
		return nil, err
	}
	var list []*x509.Certificate
	for _, i := range a.signing() {
		list = append(list, i.Certificate)
	}
	return list, nil
}

// Add implements pki.Rotator: a new root in Vault beside the one that signs,
// which stays the default.
func (c *Changer) Add(ctx context.Context, ca string) error {
	a, err := c.read(ctx, ca)
	if err != nil || len(a.signing()) == 2 {
		return err
	}
	switch {
	case !selfSigned(a.signer().Certificate):
		return fmt.Errorf("change CA %q: its next authority is signed outside of this Vault, and was not prepared", ca)
	case a.Follows:
		return fmt.Errorf("change CA %q: %w", ca, a.mustNotFollow())
	}
	want, name := c.want.authority(ca), successor()
	err = write(ctx, c.client, a.Engine+"/root/rotate/internal", want.request(map[string]any{
		"common_name": ca + " " + name, "ttl": seconds(want.Lifetime), "issuer_name": name, "key_name": name,
		"max_path_length": 0, "not_before_duration": seconds(pki.Backdate),
	}))
	if err != nil {
		return fmt.Errorf("change CA %q: make a second authority: %w", ca, err)
	}
	return nil
}

// Switch implements pki.Rotator.
func (c *Changer) Switch(ctx context.Context, ca, keyID string) error {
	a, err := c.read(ctx, ca)
	if err != nil {
		return err
	}
	for n, i := range a.signing() {
		if pki.KeyID(i.Certificate) != keyID {
			continue
		}
		if n == 0 {
			return nil
		}
		if err := c.trustLogins(ctx, a); err != nil {
			return fmt.Errorf("change CA %q: have logins trust both authorities: %w", ca, err)
		}
		if err := write(ctx, c.client, a.Engine+"/root/replace", map[string]any{"default": i.ID}); err != nil {
			return fmt.Errorf("change CA %q: let issuer %q sign: %w", ca, i.Name, err)
		}
		return nil
	}
	return fmt.Errorf("change CA %q: there is no issuer with the key %s", ca, keyID)
}

// Drop implements pki.Rotator: the issuer first, then its key, so that a run
// that was interrupted between the two leaves a key that signs for nobody. Forms
// of it that were cross-signed go with it.
func (c *Changer) Drop(ctx context.Context, ca, keyID string) error {
	a, err := c.read(ctx, ca)
	if err != nil {
		return err
	}
	if pki.KeyID(a.signer().Certificate) == keyID {
		return fmt.Errorf("drop an authority of CA %q: the one with the key %s signs", ca, keyID)
	}
	// First of all: a run that goes on after this one was cut off finds nothing
	// to drop any more.
	if err := c.trustLogins(ctx, a, keyID); err != nil {
		return fmt.Errorf("drop an authority of CA %q: have logins trust the other one alone: %w", ca, err)
	}
	for _, i := range a.Issuers {
		if pki.KeyID(i.Certificate) != keyID {
			continue
		}
		if err := erase(ctx, c.client, a.Engine+"/issuer/"+i.ID); err != nil {
			return fmt.Errorf("drop issuer %q of CA %q: %w", i.Name, ca, err)
		}
		if i.Key == "" {
			continue
		}
		if err := erase(ctx, c.client, a.Engine+"/key/"+i.Key); err != nil {
			return fmt.Errorf("drop the key of issuer %q of CA %q: %w", i.Name, ca, err)
		}
	}
	return nil
}

func erase(ctx context.Context, client *api.Client, path string) error {
	_, err := client.Logical().DeleteWithContext(ctx, path)
	return err
}

// Load implements pki.ChangeStore.
func (c *Changer) Load(ctx context.Context, ca string) (*pki.Change, error) {
	change := &pki.Change{}
	found, err := readEntry(ctx, c.client, c.place.change(ca), change)
	if err != nil || !found {
		return nil, err
	}
	return change, nil
}

// Save implements pki.ChangeStore.
func (c *Changer) Save(ctx context.Context, change pki.Change) error {
	return writeEntry(ctx, c.client, c.place.change(change.CA), change)
}

// Remove implements pki.ChangeStore: every version of the entry goes.
func (c *Changer) Remove(ctx context.Context, ca string) error {
	path := strings.Replace(c.place.change(ca), "/data/", "/metadata/", 1)
	if err := erase(ctx, c.client, path); err != nil {
		return fmt.Errorf("forget the change of %q: %w", ca, err)
	}
	return nil
}

// Reports are what the hosts have last said, by name.
func (c *Changer) Reports(ctx context.Context) (map[string]pki.Report, error) {
	names, err := listKeys(ctx, c.client, c.place.Secrets()+"/metadata/"+reportFolder)
	if err != nil {
		return nil, err
	}
	reports := map[string]pki.Report{}
	for _, name := range names {
		var r pki.Report
		found, err := readEntry(ctx, c.client, c.place.Report(name), &r)
		if err != nil {
			return nil, err
		}
		if found {
			reports[name] = r
		}
	}
	return reports, nil
}

// Report says what a host's certificates are like, for those who lead changes
// of the whole cluster.
func (i *Issuer) Report(ctx context.Context, r pki.Report) error {
	a := i.asked("report", "")
	a.engine = i.place.Secrets()
	return i.do(ctx, a, func(ctx context.Context, c *conn) error {
		path := i.place.Report(i.host)
		before, err := c.read(ctx, path)
		if err != nil && status(err) != http.StatusNotFound {
			return err
		}
		data, err := entry(r, before)
		if err != nil {
			return err
		}
		_, err = c.write(ctx, path, data)
		return err
	})
}

// reportFolder is where in the KV engine hosts report.
const reportFolder = "hosts"

// Report is the path of the entry that a host, and no other, writes its report
// to.
func (p Place) Report(host string) string { return p.Secret(reportFolder + "/" + host) }

// change is the path of the entry that remembers the change of a CA.
func (p Place) change(ca string) string { return p.Secret("changes/" + ca) }

// entry is a value as KV v2 takes it, to be written over what was read before.
// The value is one JSON text, so that what Vault makes of numbers and lists does
// not matter.
func entry(value any, before *api.Secret) (map[string]any, error) {
	content, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"data":    map[string]any{"json": string(content)},
		"options": map[string]any{"cas": entryVersion(before)},
	}, nil
}

// entryVersion is the version of an entry, 0 where there is none: the engine
// takes a write only over the version that the writer has seen.
func entryVersion(secret *api.Secret) any {
	if secret != nil {
		if metadata, ok := secret.Data["metadata"].(map[string]any); ok {
			return metadata["version"]
		}
	}
	return 0
}

func writeEntry(ctx context.Context, client *api.Client, path string, value any) error {
	before, err := findEntry(ctx, client, path)
	if err != nil {
		return err
	}
	data, err := entry(value, before)
	if err != nil {
		return err
	}
	return write(ctx, client, path, data)
}

// findEntry reads an entry; nil where there has never been one.
func findEntry(ctx context.Context, client *api.Client, path string) (*api.Secret, error) {
	secret, err := client.Logical().ReadWithContext(ctx, path)
	if err != nil && status(err) != http.StatusNotFound {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return secret, nil
}

// readEntry reads what writeEntry wrote; false where nothing is there.
func readEntry(ctx context.Context, client *api.Client, path string, into any) (bool, error) {
	secret, err := findEntry(ctx, client, path)
	if err != nil || secret == nil {
		return false, err
	}
	data, _ := secret.Data["data"].(map[string]any)
	text, ok := data["json"].(string)
	if !ok {
		return false, nil // deleted
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	return true, nil
}
