package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/pki"
	"github.com/nodeagent/nodeagent/pki/vault"
)

// farewellPatience bounds giving the token back at the end.
const farewellPatience = 2 * time.Second

// issuer is the issuer that the spec in force names. Planning, observing and
// status need none.
func (h *Host) issuer(context.Context) (pki.Issuer, error) {
	spec := h.Spec()
	switch spec.PKI.Issuer {
	case pki.IssuerLocal:
		return &pki.Local{Root: h.root, Keys: h.keyring}, nil
	case pki.IssuerVault:
		return h.vault(spec), nil
	}
	return nil, fmt.Errorf("open issuer %q: unknown; known are %q and %q", spec.PKI.Issuer, pki.IssuerLocal, pki.IssuerVault)
}

// login is the one login to Vault that everything of this process uses.
type login struct {
	mu     sync.Mutex
	issuer *vault.Issuer
	host   string
	at     hosts.Vault
	// keep is done when the daemon ends; nil where nobody keeps the login.
	keep context.Context
	stop context.CancelFunc // ends keeping the issuer
}

// vault is the issuer for a spec. It is the same one, with its token, as long
// as specs name the same place and way.
func (h *Host) vault(spec *hosts.Spec) *vault.Issuer {
	l := &h.login
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.issuer != nil && l.host == spec.Name && l.at == *spec.PKI.Vault {
		return l.issuer
	}
	l.end()
	l.issuer, l.host, l.at = vault.New(spec, h.root, h.log), spec.Name, *spec.PKI.Vault
	if l.keep != nil {
		ctx, stop := context.WithCancel(l.keep)
		l.stop = stop
		go l.issuer.Keep(ctx)
	}
	return l.issuer
}

// end gives the token back, while l.mu is held.
func (l *login) end() {
	if l.stop != nil {
		l.stop()
		l.stop = nil
	}
	if l.issuer == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), farewellPatience)
	defer cancel()
	// It ends by itself, too.
	_ = l.issuer.Close(ctx)
	l.issuer = nil
}

// keepLogin keeps the host's login to Vault until ctx is done: its token while
// it is used, its secret id always.
func (h *Host) keepLogin(ctx context.Context) {
	h.login.mu.Lock()
	h.login.keep = ctx
	h.login.mu.Unlock()
	h.followLogin()
}

// followLogin makes the kept login that of the spec in force.
func (h *Host) followLogin() {
	spec := h.Spec()
	h.login.mu.Lock()
	kept := h.login.keep != nil
	if kept && spec.PKI.Issuer != pki.IssuerVault {
		h.login.end()
	}
	h.login.mu.Unlock()
	if kept && spec.PKI.Issuer == pki.IssuerVault {
		h.vault(spec)
	}
}

// closeLogin gives the token back.
func (h *Host) closeLogin() {
	h.login.mu.Lock()
	defer h.login.mu.Unlock()
	h.login.end()
}

// loginProblems says why the host cannot log in to Vault, as far as that can be
// seen without asking it. Its certificates are then not renewed, so it should be
// known while they last.
func (h *Host) loginProblems() []string {
	spec := h.Spec()
	if spec.PKI.Issuer != pki.IssuerVault || len(spec.Roles) == 0 {
		return nil
	}
	if why := h.vault(spec).CannotLogIn(); why != "" {
		return []string{why}
	}
	return nil
}
