package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/pki"
)

// hidden is a token or a secret id. Every way of printing it prints that it is
// hidden; only JSON, which is how it is kept and sent, has it.
type hidden string

const hiddenText = "(hidden)"

// Format implements fmt.Formatter, for every verb.
func (hidden) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hiddenText) }

func (hidden) String() string       { return hiddenText }
func (hidden) LogValue() slog.Value { return slog.StringValue(hiddenText) }

// credential is what a host logs in to AppRole with: its file in
// layout.Root.Enrolment, mode 0600.
type credential struct {
	RoleID   string `json:"role_id"`
	SecretID hidden `json:"secret_id"`
	// Accessor names the secret id without giving it away.
	Accessor string    `json:"accessor"`
	Made     time.Time `json:"made"`
	// Ends is zero where it does not.
	Ends time.Time `json:"ends,omitzero"`
	// Uses is how often it can be used in all; 0 for no limit.
	Uses int `json:"uses,omitempty"`
	// Token is the fingerprint of the enrolment token in which it came, until
	// the host has replaced it.
	Token string `json:"token,omitempty"`
	// Old are accessors of secret ids before this one that are still to be
	// destroyed in Vault.
	Old []string `json:"old,omitempty"`

	// exposed tells that others could read the file.
	exposed bool
}

// endlessSecretID is after how long a secret id that does not end is replaced.
const endlessSecretID = 30 * 24 * time.Hour

// due is when the secret id is to be replaced: at two thirds of its life; at
// once where it came in a token, which has been through other hands, or where
// others could read it.
func (c credential) due() time.Time {
	switch {
	case c.Token != "" || c.exposed:
		return c.Made
	case c.Ends.IsZero():
		return c.Made.Add(endlessSecretID)
	}
	return c.Made.Add(c.Ends.Sub(c.Made) * 2 / 3)
}

func (i *Issuer) credentialFile() string {
	return filepath.Join(i.root.Enrolment(), "approle.json")
}

// credential reads what was kept. The error is fs.ErrNotExist where there is
// nothing.
func (i *Issuer) credential() (credential, error) {
	path := i.credentialFile()
	content, err := os.ReadFile(path)
	if err != nil {
		return credential{}, err
	}
	var c credential
	if err := json.Unmarshal(content, &c); err != nil || c.SecretID == "" || c.RoleID == "" {
		// The decoder's error may have part of the content.
		return credential{}, fmt.Errorf("read secret id: %q is damaged", path)
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		c.exposed = true
	}
	return c, nil
}

// keep writes the credential, which replaces the one before it.
func (i *Issuer) keep(c credential) error {
	content, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("keep secret id: %w", err)
	}
	if err := atomicfile.MkdirAll(i.root.Enrolment(), 0o700); err != nil {
		return fmt.Errorf("keep secret id: %w", err)
	}
	if err := atomicfile.Write(i.credentialFile(), content, 0o600); err != nil {
		return fmt.Errorf("keep secret id: %w", err)
	}
	return nil
}

// forget removes the credential and its folder.
func (i *Issuer) forget() error {
	if err := atomicfile.Remove(i.credentialFile()); err != nil {
		return fmt.Errorf("remove secret id: %w", err)
	}
	if err := atomicfile.Remove(i.root.Enrolment()); err != nil {
		return fmt.Errorf("remove secret id: %w", err)
	}
	return nil
}

// parseSecretID is the credential that an answer with a new secret id gives.
func (i *Issuer) parseSecretID(answer *api.Secret, now time.Time) (credential, error) {
	id, err := text(answer, "secret_id")
	if err != nil {
		return credential{}, err
	}
	c := credential{RoleID: i.place.RoleID(i.host), SecretID: hidden(id), Made: now}
	if c.Accessor, err = text(answer, "secret_id_accessor"); err != nil {
		return credential{}, err
	}
	if ttl := number(answer, "secret_id_ttl"); ttl > 0 {
		c.Ends = now.Add(time.Duration(ttl) * time.Second)
	}
	c.Uses = int(number(answer, "secret_id_num_uses"))
	return c, nil
}

// number is a field of an answer that is a number, 0 where it is missing.
func number(s *api.Secret, field string) int64 {
	n, _ := s.Data[field].(json.Number)
	value, _ := n.Int64()
	return value
}

// logInAppRole logs in with the secret id that is kept, and replaces that when
// it is due.
func (i *Issuer) logInAppRole(ctx context.Context) (*session, error) {
	a := i.loginAsked(authAppRole)
	c, err := i.credential()
	if errors.Is(err, fs.ErrNotExist) {
		err = errors.New("this host has no secret id: it is not enrolled")
	}
	if err != nil {
		return nil, &pki.Refusal{Cause: pki.CauseLogin, What: a.what, Err: err, Remedy: enrolAgain}
	}
	s, err := i.useCredential(ctx, c)
	if err != nil || i.now().Before(c.due()) && len(c.Old) == 0 {
		return s, err
	}
	return i.rotate(ctx, s, c), nil
}

// useCredential logs in with a secret id.
func (i *Issuer) useCredential(ctx context.Context, c credential) (*session, error) {
	a := i.loginAsked(authAppRole)
	if !c.Ends.IsZero() && !i.now().Before(c.Ends) {
		return nil, &pki.Refusal{Cause: pki.CauseLogin, What: a.what, Err: fmt.Errorf("this host's secret id has ended on %s", c.Ends.UTC().Format(time.RFC3339)), Remedy: enrolAgain}
	}
	way, err := dial(&i.vault, nil)
	if err != nil {
		return nil, refuse(a, err)
	}
	return i.open(ctx, a, way, "", map[string]any{"role_id": c.RoleID, "secret_id": string(c.SecretID)})
}
