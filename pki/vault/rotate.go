package vault

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/pki"
)

// rotate replaces the secret id and returns the session to go on with: that of
// the new one, or s where that failed, since the old one still serves.
func (i *Issuer) rotate(ctx context.Context, s *session, c credential) *session {
	next := s
	if !i.now().Before(c.due()) {
		made, proved, err := i.replaceSecretID(ctx, s, c)
		if i.once("secret id", err) {
			i.log.Warn("secret id not replaced; the one in use serves on", "ends", ending(c.Ends), "because", err)
		}
		if err != nil {
			return s
		}
		i.log.Info("secret id replaced", "accessor", made.Accessor, "ends", ending(made.Ends))
		c, next = made, proved
		i.end(ctx, s)
	}
	if err := i.destroyOld(ctx, next, c); i.once("old secret id", err) {
		i.log.Warn("old secret id not destroyed; tried again at the next login", "because", err)
	}
	return next
}

// replaceSecretID makes a new secret id, proves it by a login and keeps it.
// Killed before it is kept, the old one is still in force and the new one ends
// unused; killed after, the old one is listed to be destroyed.
func (i *Issuer) replaceSecretID(ctx context.Context, s *session, c credential) (credential, *session, error) {
	a := i.loginAsked("")
	a.what = "make a new secret id"
	began := i.now()
	var answer *api.Secret
	err := i.patience.ask(ctx, false, func() (err error) {
		answer, err = s.write(ctx, i.secretIDPath(), nil)
		return err
	})
	if err != nil {
		return c, nil, refuse(a, err)
	}
	made, err := i.parseSecretID(answer, began)
	if err != nil {
		return c, nil, refuse(a, err)
	}
	if made.Uses > 0 {
		return c, nil, &pki.Refusal{
			Cause: pki.CauseUnfit, What: a.what, Err: fmt.Errorf("it can be used %d times only", made.Uses),
			Remedy: "set secret_id_num_uses of the host's AppRole to 0: let an administrator run nodeagent pki bootstrap",
		}
	}
	proved, err := i.useCredential(ctx, made)
	if err != nil {
		return c, nil, fmt.Errorf("prove the new secret id: %w", err)
	}
	made.Old = append(c.Old, c.Accessor)
	if err := i.keep(made); err != nil {
		i.end(ctx, proved)
		return c, nil, err
	}
	return made, proved, nil
}

// destroyOld ends the secret ids before this one in Vault.
func (i *Issuer) destroyOld(ctx context.Context, s *session, c credential) error {
	if len(c.Old) == 0 {
		return nil
	}
	for _, accessor := range c.Old {
		if err := i.destroy(ctx, s, accessor); err != nil {
			return err
		}
	}
	c.Old = nil
	return i.keep(c)
}

// destroy ends a secret id. One that has ended by itself is no error; for
// accessors that it does not know Vault has several answers.
func (i *Issuer) destroy(ctx context.Context, s *session, accessor string) error {
	_, err := s.write(ctx, i.secretIDPath()+"-accessor/destroy", map[string]any{"secret_id_accessor": accessor})
	if code := status(err); code == http.StatusNotFound || code != 0 && strings.Contains(plain(err).Error(), "accessor") {
		return nil
	}
	if err != nil {
		a := i.loginAsked("")
		a.what = fmt.Sprintf("destroy the secret id with the accessor %s", accessor)
		return refuse(a, err)
	}
	return nil
}

// secretIDPath is where secret ids of this host are made, by itself and by who
// mints its enrolment tokens.
func (i *Issuer) secretIDPath() string {
	return "auth/" + i.place.Auth(authAppRole) + "/role/" + i.host + "/secret-id"
}

// once tells whether an error is to be logged: the first time, until the thing
// has succeeded again.
func (i *Issuer) once(thing string, err error) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	told := i.silent[thing]
	i.silent[thing] = err != nil
	return err != nil && !told
}

func ending(at time.Time) string {
	if at.IsZero() {
		return "never"
	}
	return at.UTC().Format(time.RFC3339)
}
