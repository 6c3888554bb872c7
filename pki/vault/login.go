package vault

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

// session is a login that holds: a token, and the connections on which it is
// used. A token of a certificate login can be renewed only by who shows the
// same certificate, so the two belong together.
type session struct {
	*conn
	method string
	// leaf is the DER of the certificate that logged in, "" for other methods.
	leaf string
	// lease is for how long the token was given when it was new, since and ends
	// from when to when it holds now.
	lease       time.Duration
	since, ends time.Time
	renewable   bool
}

// halfway tells whether half of the token's life is over.
func (s *session) halfway(now time.Time) bool {
	return !now.Before(s.since.Add(s.ends.Sub(s.since) / 2))
}

// over tells whether the token ends too soon for a request.
func (s *session) over(now time.Time) bool {
	return !now.Before(s.ends.Add(-min(requestTimeout, s.lease/10)))
}

// lock waits for its turn at the session, as long as ctx lets it.
func (i *Issuer) lock(ctx context.Context) error {
	select {
	case i.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (i *Issuer) unlock() { <-i.turn }

// current is the session to use: the one there is, renewed when half of its
// token's life is over, or a new login.
func (i *Issuer) current(ctx context.Context) (*session, error) {
	if err := i.lock(ctx); err != nil {
		return nil, err
	}
	defer i.unlock()
	i.used = i.now()
	return i.fresh(ctx)
}

// Ready logs in where that is not done yet, for what will be asked for in a
// moment.
func (i *Issuer) Ready(ctx context.Context) error {
	_, err := i.current(ctx)
	return err
}

// fresh is current for who has the turn. While Vault cannot be reached a token
// that is good for a while yet serves on, and who waited for the turn does not
// find the outage out once more.
func (i *Issuer) fresh(ctx context.Context) (*session, error) {
	now, s := i.now(), i.session
	if s != nil && s.over(now) {
		s = nil
	}
	if s != nil && !s.halfway(now) {
		return s, nil
	}
	err := i.out()
	if s != nil && err == nil {
		var renewed bool
		if renewed, err = i.renew(ctx, s); renewed {
			return s, nil
		}
	}
	if err == nil {
		var next *session
		if next, err = i.logIn(ctx); err == nil {
			i.replace(ctx, next)
			return next, nil
		}
	}
	if err = i.noticed(err); s != nil {
		return s, nil
	}
	return nil, err
}

// replace makes s the session. The token before it is of no more use to
// anybody.
func (i *Issuer) replace(ctx context.Context, s *session) {
	if old := i.session; old != nil {
		i.end(ctx, old)
	}
	i.session = s
}

// end gives a token back. It ends by itself, too, so a failure is no matter.
func (i *Issuer) end(ctx context.Context, s *session) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout/5)
	defer cancel()
	if _, err := s.write(ctx, "auth/token/revoke-self", nil); err != nil {
		i.log.Debug("token not given back", "because", plain(err))
	}
	s.close()
}

// renew prolongs the token, and tells whether the session goes on. It does not
// where the token is near the end that Vault set it, or where the host has got
// another certificate since: Vault renews for the old one only. The error is
// that Vault cannot be reached, so that to log in is of no use either.
func (i *Issuer) renew(ctx context.Context, s *session) (bool, error) {
	if !s.renewable || s.leaf != "" && s.leaf != i.leafOnDisk() {
		return false, nil
	}
	began := i.now()
	answer, err := s.write(ctx, "auth/token/renew-self", nil)
	if err != nil {
		a := i.loginAsked(s.method)
		if a.what = "renew the token"; passing(err) && !ended(err) || ctx.Err() != nil {
			return false, refuse(a, err)
		}
		return false, nil
	}
	lease, err := leaseOf(answer)
	if err != nil || lease < s.lease/2 {
		return false, nil
	}
	s.since, s.ends = began, began.Add(lease)
	return true, nil
}

// alive tells whether Vault still takes the session's token for one; it says
// no more than 403 to both a path that is denied and a token that was revoked.
// Where it cannot be asked, the token is not to blame.
func (i *Issuer) alive(ctx context.Context, s *session) bool {
	_, err := s.write(ctx, "auth/token/renew-self", nil)
	return !ended(err)
}

// ended tells whether the answer to a token's renewal is that it is none any
// more. 500 is the one about a token that is past the longest life that its
// role gives it now, and not yet gone.
func ended(err error) bool {
	return status(err) == http.StatusForbidden || status(err) == http.StatusInternalServerError
}

// drop forgets a session whose token is none any more, unless somebody else has
// already.
func (i *Issuer) drop(ctx context.Context, s *session) {
	if i.lock(ctx) != nil {
		return
	}
	defer i.unlock()
	if i.session == s {
		i.session = nil
		s.close()
	}
}

// Close gives the token back and closes every connection. The issuer can be
// used again, and then logs in anew.
func (i *Issuer) Close(ctx context.Context) error {
	if err := i.lock(ctx); err != nil {
		return err
	}
	defer i.unlock()
	if s := i.session; s != nil {
		i.session = nil
		i.end(ctx, s)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.public != nil {
		i.public.close()
		i.public = nil
	}
	return nil
}

// logIn logs in by the method that the fleet names. A host that has been
// enrolled and has not got its certificate yet, because it was interrupted,
// logs in with what enrolment left.
func (i *Issuer) logIn(ctx context.Context) (*session, error) {
	switch i.vault.Auth {
	case authJWT:
		return i.logInJWT(ctx)
	case authAppRole:
		return i.logInAppRole(ctx)
	}
	s, err := i.logInCert(ctx)
	if err == nil || pki.CauseOf(err) != pki.CauseLogin {
		return s, err
	}
	c, missing := i.credential()
	if missing != nil {
		return nil, err
	}
	return i.useCredential(ctx, c)
}

// logInCert logs in with the host's own certificate, as it lies on disk now.
func (i *Issuer) logInCert(ctx context.Context) (*session, error) {
	a := i.loginAsked(authCert)
	pair, err := i.pair()
	if err != nil {
		return nil, &pki.Refusal{Cause: pki.CauseLogin, What: a.what, Err: err, Remedy: enrolAgain}
	}
	c, err := dial(&i.vault, pair)
	if err != nil {
		return nil, refuse(a, err)
	}
	return i.open(ctx, a, c, string(pair.Leaf.Raw), map[string]any{"name": i.host})
}

// pair is the host's own certificate and key, if it can log in with them.
func (i *Issuer) pair() (*tls.Certificate, error) {
	files := i.root.Certificate(layout.CertNodeagent)
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("this host has no certificate of its own yet: it is not enrolled")
	}
	if err != nil {
		return nil, fmt.Errorf("read this host's own certificate %q: %w", files.Cert, err)
	}
	if end := pair.Leaf.NotAfter; !i.now().Before(end) {
		return nil, fmt.Errorf("this host's own certificate has ended on %s", end.UTC().Format(time.RFC3339))
	}
	return &pair, nil
}

// leafOnDisk is the DER of the host's own certificate, "" where it is no use.
func (i *Issuer) leafOnDisk() string {
	pair, err := i.pair()
	if err != nil {
		return ""
	}
	return string(pair.Leaf.Raw)
}

// logInJWT logs in with the token in the spec's file, as it is now.
func (i *Issuer) logInJWT(ctx context.Context) (*session, error) {
	a := i.loginAsked(authJWT)
	token, err := i.jwt()
	if err != nil {
		return nil, &pki.Refusal{Cause: pki.CauseLogin, What: a.what, Err: err, Remedy: a.loginRemedy()}
	}
	c, err := dial(&i.vault, nil)
	if err != nil {
		return nil, refuse(a, err)
	}
	return i.open(ctx, a, c, "", map[string]any{"role": i.host, "jwt": token})
}

// jwt reads the token in the spec's file.
func (i *Issuer) jwt() (string, error) {
	content, err := os.ReadFile(i.vault.JWTFile)
	token := strings.TrimSpace(string(content))
	if err == nil && token == "" {
		err = fmt.Errorf("%q is empty", i.vault.JWTFile)
	}
	if err != nil {
		return "", fmt.Errorf("read the host's token: %w", err)
	}
	return token, nil
}

func (i *Issuer) loginAsked(method string) asked {
	return asked{vault: &i.vault, host: i.host, what: fmt.Sprintf("log in as %q (%s)", i.host, method), login: method}
}

// open logs in over c, which it closes when that fails. It is not asked twice
// where the first may have counted: a secret id can be of one use.
func (i *Issuer) open(ctx context.Context, a asked, c *conn, leaf string, data map[string]any) (*session, error) {
	began := i.now()
	var answer *api.Secret
	err := i.patience.ask(ctx, false, func() (err error) {
		answer, err = c.write(ctx, "auth/"+i.place.Auth(a.login)+"/login", data)
		return err
	})
	var lease time.Duration
	if err == nil {
		lease, err = leaseOf(answer)
	}
	if err != nil {
		c.close()
		return nil, refuse(a, err)
	}
	c.client.SetToken(answer.Auth.ClientToken)
	return &session{
		conn: c, method: a.login, leaf: leaf, lease: lease,
		since: began, ends: began.Add(lease), renewable: answer.Auth.Renewable,
	}, nil
}

// endless stands for the lease of a token that never ends.
const endless = 365 * 24 * time.Hour

func leaseOf(answer *api.Secret) (time.Duration, error) {
	if answer.Auth == nil || answer.Auth.ClientToken == "" {
		return 0, errors.New("the answer has no token")
	}
	if answer.Auth.LeaseDuration == 0 {
		return endless, nil
	}
	return time.Duration(answer.Auth.LeaseDuration) * time.Second, nil
}
