package vault

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"

	"github.com/nodeagent/nodeagent/pki"
)

var _ pki.KeyStore = (*Changer)(nil)

// ReadKey implements pki.KeyStore; the version is that of the KV entry.
func (c *Changer) ReadKey(ctx context.Context, name string) ([]byte, int, error) {
	path := c.place.Secret(name)
	answer, err := c.client.Logical().ReadWithContext(ctx, path)
	if err != nil {
		return nil, 0, fmt.Errorf("read key %q in Vault: %w", name, err)
	}
	if answer == nil {
		return nil, 0, fmt.Errorf("read key %q in Vault: nothing is at %s: the first control plane of the cluster makes it", name, path)
	}
	content, err := decodeSecret(answer)
	if err != nil {
		return nil, 0, fmt.Errorf("read key %q in Vault: %s %w", name, path, err)
	}
	version, err := versionOf(answer)
	if err != nil {
		return nil, 0, fmt.Errorf("read key %q in Vault: %w", name, err)
	}
	return content, version, nil
}

// WriteKey implements pki.KeyStore by check-and-set: of two who write at once
// one is refused.
func (c *Changer) WriteKey(ctx context.Context, name string, content []byte, version int) error {
	err := write(ctx, c.client, c.place.Secret(name), map[string]any{
		"data":    map[string]any{secretField: base64.StdEncoding.EncodeToString(content)},
		"options": map[string]any{"cas": version},
	})
	switch {
	case status(err) == http.StatusBadRequest:
		return fmt.Errorf("write key %q in Vault: %w; somebody else has changed it just now: run the command again, which goes on from what is there", name, err)
	case err != nil:
		return fmt.Errorf("write key %q in Vault: %w", name, err)
	}
	return nil
}

// ForgetKey implements pki.KeyStore. Older versions of the service account key
// are destroyed: whoever has one can sign tokens that some server may still
// accept, and none is of use. Those of the encryption key stay, as many as Vault
// keeps, for snapshots of etcd that were taken with them.
func (c *Changer) ForgetKey(ctx context.Context, name string) error {
	if name != pki.KeyServiceAccount {
		return nil
	}
	_, version, err := c.ReadKey(ctx, name)
	if err != nil || version == 1 {
		return err
	}
	var older []int
	for v := max(1, version-keptVersions); v < version; v++ {
		older = append(older, v)
	}
	if err := write(ctx, c.client, c.place.destroyed(name), map[string]any{"versions": older}); err != nil {
		return fmt.Errorf("destroy older versions of key %q in Vault: %w", name, err)
	}
	return nil
}

// destroyed is where versions of a secret are destroyed.
func (p Place) destroyed(name string) string { return p.Secrets() + "/destroy/" + name }
