package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/vault/api"
)

// patience is how long, and how often, Vault is asked again when it cannot be
// reached. It bridges the moment in which a server restarts or another takes
// over; who waits longer is the daemon, which keeps the rest of the host going
// meanwhile.
type patience struct {
	tries int           // at most, the first one included
	first time.Duration // wait after the first; each further one is twice as long
	total time.Duration // after this no further try begins
}

// usual takes 2.5 seconds at most with a server that refuses at once, and one
// request's timeout with one that is silent.
var usual = patience{tries: 4, first: 250 * time.Millisecond, total: 5 * time.Second}

// ask calls do until it succeeds or fails for a reason that waiting does not
// cure. Where again is false, a request that Vault may have carried out is not
// sent a second time.
func (p patience) ask(ctx context.Context, again bool, do func() error) error {
	began, wait := time.Now(), p.first
	for try := 1; ; try++ {
		err := do()
		if err == nil || ctx.Err() != nil || !passing(err) || !again && !notDone(err) {
			return err
		}
		if try == p.tries || time.Since(began) > p.total {
			return err
		}
		// Between half and the whole of the wait, so that hosts that met the
		// same outage don't come back in step.
		timer := time.NewTimer(wait/2 + rand.N(wait/2))
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
		wait *= 2
	}
}

// status is the HTTP status with which Vault answered, 0 where it did not.
func status(err error) int {
	var answer *api.ResponseError
	if errors.As(err, &answer) {
		return answer.StatusCode
	}
	return 0
}

// passing tells whether an error may be gone in a moment.
func passing(err error) bool {
	switch code := status(err); {
	case code == http.StatusTooManyRequests, code == http.StatusPreconditionFailed, code >= 500:
		// 412: a standby has not yet heard of what the active server wrote. 472
		// and 473, of standbys, answer health checks only.
		return true
	case code != 0:
		return false
	}
	var network net.Error
	return !distrusted(err) && (errors.As(err, &network) || errors.Is(err, context.DeadlineExceeded) || cutOff(err))
}

// notDone tells whether Vault has certainly not carried a request out: it was
// never sent, or refused before it was looked at.
func notDone(err error) bool {
	switch status(err) {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return true
	}
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" || distrusted(err)
}

// distrusted tells whether TLS found that the one who answered is not Vault.
func distrusted(err error) bool {
	var (
		unverified *tls.CertificateVerificationError
		unknown    x509.UnknownAuthorityError
		name       x509.HostnameError
		invalid    x509.CertificateInvalidError
		record     tls.RecordHeaderError
		file       *caFileError
	)
	return errors.As(err, &unverified) || errors.As(err, &unknown) || errors.As(err, &name) ||
		errors.As(err, &invalid) || errors.As(err, &record) || errors.As(err, &file) || errors.Is(err, http.ErrSchemeMismatch)
}
