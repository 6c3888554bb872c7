package vault

import (
	"context"
	"time"
)

const (
	// idle is how long a token is kept that nobody has used. Certificates are due
	// on few days of a year: a fleet that kept its tokens all the time would
	// renew them for nothing.
	idle = time.Hour
	// longestKeep is the longest time between two looks.
	longestKeep = 10 * time.Minute
)

// Keep renews the token while it is in use, gives it back when it is not, and
// replaces the secret id when it is due, until ctx is done. Without it a token
// is renewed only when it is needed, and ends by itself.
func (i *Issuer) Keep(ctx context.Context) {
	for wait := time.Duration(0); ; {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		wait = i.look(ctx)
	}
}

// look does what is due and says in how long to look again.
func (i *Issuer) look(ctx context.Context) time.Duration {
	if i.lock(ctx) != nil {
		return longestKeep
	}
	defer i.unlock()
	now := i.now()
	if s := i.session; s != nil && (s.over(now) || now.Sub(i.used) > idle) {
		i.session = nil
		i.end(ctx, s)
	}
	var err error
	if i.secretIDDue(now) {
		var s *session
		if s, err = i.logInAppRole(ctx); err == nil {
			i.replace(ctx, s)
		}
	} else if i.session != nil {
		_, err = i.fresh(ctx)
	}
	if i.once("keep", err) {
		i.log.Warn("login to Vault not kept; tried again when it is needed", "because", err)
	}
	if i.session == nil {
		return longestKeep
	}
	half := i.session.since.Add(i.session.ends.Sub(i.session.since) / 2)
	// Not below a second: a renewal that fails until the token ends must not
	// make this busy.
	return min(longestKeep, max(time.Second, half.Sub(i.now())))
}

// secretIDDue tells whether the secret id is to be replaced now.
func (i *Issuer) secretIDDue(now time.Time) bool {
	if i.vault.Auth != authAppRole {
		return false
	}
	c, err := i.credential()
	return err == nil && (!now.Before(c.due()) || len(c.Old) > 0)
}
