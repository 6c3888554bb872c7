package vault

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"

	"github.com/nodeagent/nodeagent/pki"
)

// Revoke puts a certificate of a CA on the engine's list of revoked ones. chain
// and key are PEM, the leaf first. Vault is shown the key, which proves that the
// host may do so though Vault has kept no copy of the certificate (no_store):
// revoke only a pair that a newer one has replaced, whose key is of no more use.
//
// Revoking a certificate again does nothing.
func (i *Issuer) Revoke(ctx context.Context, ca string, chain, key []byte) error {
	a := i.asked("revoke a certificate of "+ca, ca)
	// Vault answers a key of another pair as a failure of its own, which would be
	// asked again.
	if _, err := tls.X509KeyPair(chain, key); err != nil {
		return fmt.Errorf("%s: its key does not serve: %w", a.what, err)
	}
	leaf, _ := pem.Decode(chain)
	return i.do(ctx, a, func(ctx context.Context, c *conn) error {
		answer, err := c.write(ctx, a.engine+"/revoke-with-key", map[string]any{
			"certificate": string(pem.EncodeToMemory(leaf)), "private_key": string(key),
		})
		if err != nil {
			return err
		}
		if number(answer, "revocation_time") == 0 {
			return &pki.Refusal{Cause: pki.CauseUnfit, What: a.what, Err: fmt.Errorf("it was not revoked: %s", oneLine(fmt.Sprint(answer.Warnings)))}
		}
		return nil
	})
}
