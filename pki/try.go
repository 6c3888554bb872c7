package pki

import (
	"context"
	"time"
)

// Try has an issuer sign the request for a key made in memory and checks what
// it answers as if it were to be used. Key and certificate are forgotten.
func Try(ctx context.Context, issuer Issuer, r Request, now time.Time) error {
	bundle, err := issuer.Bundle(ctx, r.CA)
	if err != nil {
		return err
	}
	_, err = issue(ctx, issuer, r, bundle, now)
	return err
}
