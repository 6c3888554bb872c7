package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
)

// Enrolled is how a host logs in to Vault from now on.
type Enrolled struct {
	Host string `json:"host"`
	// Method is "cert", "approle" or "jwt".
	Method string `json:"method"`
	// CertificateEnds is when the host's own certificate ends unless it is
	// renewed; zero where there is none yet.
	CertificateEnds time.Time `json:"certificate_ends,omitzero"`
	// SecretIDEnds is when its secret id ends unless it is replaced; zero
	// where it has none, or one that does not end.
	SecretIDEnds time.Time `json:"secret_id_ends,omitzero"`
}

// ErrNoToken is the error of an enrolment that needs a token and got none.
var ErrNoToken = errors.New("an enrolment token is needed")

// CheckEnrolment proves by a login that the host is enrolled, and clears away what an
// enrolment that was interrupted left. The error is a pki.Refusal that says why
// it is not, or why that cannot be told.
func (i *Issuer) CheckEnrolment(ctx context.Context) (Enrolled, error) {
	if err := i.lock(ctx); err != nil {
		return Enrolled{}, err
	}
	defer i.unlock()
	return i.prove(ctx)
}

// prove logs in by the lasting method.
func (i *Issuer) prove(ctx context.Context) (Enrolled, error) {
	login := map[string]func(context.Context) (*session, error){
		authAppRole: i.logInAppRole, authJWT: i.logInJWT,
	}[i.vault.Auth]
	if login == nil {
		login = i.logInCert
	}
	s, err := login(ctx)
	if err != nil {
		return Enrolled{}, err
	}
	i.replace(ctx, s)
	if i.vault.Auth != authAppRole {
		if err := i.forget(); err != nil {
			return Enrolled{}, err
		}
	}
	return i.enrolment(), nil
}

func (i *Issuer) enrolment() Enrolled {
	e := Enrolled{Host: i.host, Method: i.vault.Auth}
	if pair, err := i.pair(); err == nil {
		e.CertificateEnds = pair.Leaf.NotAfter
	}
	if c, err := i.credential(); err == nil {
		e.SecretIDEnds = c.Ends
	}
	return e
}

// Enroll makes the host known to Vault with an enrolment token, which is good
// for one use: it is looked at, unwrapped, and what it holds is kept on disk
// before anything else is done. Then the host logs in, gets its own certificate
// and proves that it can log in by the method that lasts. Interrupted after the
// unwrapping, the same call goes on without a token.
//
// It is for a host that is not enrolled, or that is to be enrolled again: every
// step is done whatever lies on disk.
func (i *Issuer) Enroll(ctx context.Context, token string) (Enrolled, error) {
	if err := i.sameAsLocal(ctx); err != nil {
		return Enrolled{}, err
	}
	if err := i.lock(ctx); err != nil {
		return Enrolled{}, err
	}
	s, err := i.firstLogin(ctx, strings.TrimSpace(token))
	if err == nil {
		i.replace(ctx, s)
	}
	i.unlock()
	if err != nil {
		return Enrolled{}, err
	}
	if err := i.obtainIdentity(ctx); err != nil {
		return Enrolled{}, err
	}
	return i.CheckEnrolment(ctx)
}

// sameAsLocal refuses a Vault with other CAs than those of the local issuer that
// the host's certificates are of: nothing that it signs would be trusted here.
// It is found out before the token is used up.
func (i *Issuer) sameAsLocal(ctx context.Context) error {
	left := pki.LeftAuthorities(i.root)
	if len(left) == 0 {
		return nil
	}
	have, err := pki.Observe(ctx, i.root)
	if err != nil {
		return err
	}
	left = slices.DeleteFunc(left, func(l pki.LeftAuthority) bool { return !l.Trusted(have) })
	vouched, err := i.Vouched(ctx, left)
	if err != nil {
		return err
	}
	for _, l := range left {
		if !l.Shares(have, vouched[l.Name]) {
			return &pki.Refusal{
				Cause: pki.CauseUntrusted, What: fmt.Sprintf("enrol %q", i.host),
				Err:    fmt.Errorf("the CA %q in Vault is another one than that of the local issuer, which this host trusts", l.Name),
				Remedy: "have Vault go on with the CAs of this host (nodeagent pki bootstrap --adopt-local); the enrolment token was not used",
			}
		}
	}
	return nil
}

// firstLogin logs in with what the token holds, with what an earlier run has
// taken out of it, or with a JWT, which needs none.
func (i *Issuer) firstLogin(ctx context.Context, token string) (*session, error) {
	if i.vault.Auth == authJWT {
		return i.logInJWT(ctx)
	}
	c, err := i.credential()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		i.log.Warn("what an earlier enrolment left is no use", "because", err)
	}
	switch unwrapped := err == nil && c.Token != ""; {
	case unwrapped && (token == "" || c.Token == plan.Fingerprint([]byte(token))):
		i.log.Info("going on with what an earlier run has unwrapped", "accessor", c.Accessor)
	case token == "":
		return nil, ErrNoToken
	default:
		var old []string
		if err == nil && i.vault.Auth == authAppRole {
			old = append(c.Old, c.Accessor)
		}
		if c, err = i.unwrap(ctx, token); err != nil {
			return nil, err
		}
		c.Old = old
		if err := i.keep(c); err != nil {
			return nil, fmt.Errorf("%w; the token is used up: destroy the secret id with the accessor %s and mint another", err, c.Accessor)
		}
	}
	s, err := i.useCredential(ctx, c)
	if pki.CauseOf(err) == pki.CauseLogin {
		// It is good for nothing, and must not keep another token from being
		// unwrapped.
		return nil, errors.Join(err, i.forget())
	}
	if err != nil || i.vault.Auth != authAppRole {
		return s, err
	}
	// What came in the token is good for this one login.
	made, proved, err := i.replaceSecretID(ctx, s, c)
	i.end(ctx, s)
	if err != nil {
		return nil, err
	}
	if err := i.destroyOld(ctx, proved, made); err != nil {
		i.log.Warn("old secret id not destroyed; tried again at the next login", "because", err)
	}
	return proved, nil
}

// obtainIdentity gets the host's own certificate and the bundle of its
// authority, through the same store as every other.
func (i *Issuer) obtainIdentity(ctx context.Context) error {
	changes := pki.Obtain(pki.Want(i.spec), layout.CertNodeagent, "the host is enrolled")
	applier := pki.Applier{
		Root: i.root, Now: i.now,
		Issuer: func(context.Context) (pki.Issuer, error) { return i, nil },
	}
	return applier.Apply(ctx, changes, plan.Silent{})
}

// unwrap takes the secret id out of an enrolment token. The token is looked at
// first: one that wraps anything else than a secret id of this host is not from
// who should have sent it, and is left as it is.
func (i *Issuer) unwrap(ctx context.Context, token string) (credential, error) {
	a := i.loginAsked(authAppRole)
	a.what = "look at the enrolment token"
	c, err := dial(&i.vault, nil)
	if err != nil {
		return credential{}, refuse(a, err)
	}
	defer c.close()
	path, err := i.wrappedBy(ctx, c, a, token)
	if err != nil {
		return credential{}, err
	}
	if err := i.checkWrapped(a.what, path); err != nil {
		return credential{}, err
	}
	a.what = "unwrap the enrolment token"
	c.client.SetToken(token)
	began := i.now()
	var answer *api.Secret
	err = i.patience.ask(ctx, false, func() (err error) {
		answer, err = c.write(ctx, "sys/wrapping/unwrap", nil)
		return err
	})
	if err != nil {
		return credential{}, i.tokenRefused(a, err)
	}
	made, err := i.parseSecretID(answer, began)
	if err != nil {
		return credential{}, refuse(a, err)
	}
	made.Token = plan.Fingerprint([]byte(token))
	return made, nil
}

// wrappedBy is the path whose answer the token wraps. To ask does not use the
// token up.
func (i *Issuer) wrappedBy(ctx context.Context, c *conn, a asked, token string) (string, error) {
	if strings.ContainsAny(token, " \t\r\n{\"") {
		return "", &pki.Refusal{
			Cause: pki.CauseLogin, What: a.what, Err: errors.New("what was given is not a token"),
			Remedy: "give the token alone, without what was printed around it",
		}
	}
	var answer *api.Secret
	err := i.patience.ask(ctx, true, func() (err error) {
		answer, err = c.write(ctx, "sys/wrapping/lookup", map[string]any{"token": token})
		return err
	})
	if err != nil {
		return "", i.tokenRefused(a, err)
	}
	path, err := text(answer, "creation_path")
	if err != nil {
		return "", refuse(a, err)
	}
	return path, nil
}

// tokenRefused words an error of lookup or unwrap, and says what it means for
// the token.
func (i *Issuer) tokenRefused(a asked, err error) error {
	r := &pki.Refusal{}
	if !errors.As(refuse(a, err), &r) {
		return err
	}
	switch code := status(err); {
	case code == http.StatusBadRequest, code == http.StatusForbidden, code == http.StatusNotFound:
		r.Cause = pki.CauseLogin
		r.Err = worded{err, "the enrolment token has ended, was unwrapped before, or is not of this Vault"}
		r.Remedy = fmt.Sprintf("have another minted; if this one had time left and nobody of you has unwrapped it, somebody else holds a secret id of %q: have those destroyed first (vault list auth/%[2]s, then vault write auth/%[2]s-accessor/destroy secret_id_accessor=…)",
			i.host, strings.TrimPrefix(i.secretIDPath(), "auth/"))
	case !strings.HasPrefix(a.what, "unwrap") || notDone(err):
		r.Remedy = strings.TrimPrefix(r.Remedy+"; the enrolment token is not used up, so run this again within its life", "; ")
	default:
		r.Remedy = strings.TrimPrefix(r.Remedy+"; the answer was lost and with it the enrolment token, perhaps: run this again, and have another minted if it is refused then", "; ")
	}
	return r
}

// checkWrapped tells whether the path gives secret ids of this host.
func (i *Issuer) checkWrapped(what, path string) error {
	want := i.secretIDPath()
	if path == want {
		return nil
	}
	r := &pki.Refusal{Cause: pki.CauseLogin, What: what}
	roles, rest, _ := strings.Cut(want, "/role/"+i.host)
	if other, ok := strings.CutPrefix(path, roles+"/role/"); ok && strings.HasSuffix(other, rest) {
		r.Err = fmt.Errorf("it is for the host %q, not for %q; it was not used", strings.TrimSuffix(other, rest), i.host)
		r.Remedy = "enrol that host with it, and have one minted for this host"
		return r
	}
	r.Err = fmt.Errorf("it wraps an answer of %q, not a secret id of %q (%s); it was not used", path, i.host, want)
	r.Remedy = "do not use it: whoever made it is not who should have; find out how it came here, and have another minted"
	return r
}

// CannotLogIn says, from what lies on the host alone, why it cannot log in to
// Vault and what to do about it; "" where it looks as if it could.
func (i *Issuer) CannotLogIn() string {
	var err error
	switch c, missing := i.credential(); {
	case i.vault.Auth == authJWT:
		_, err = i.jwt()
		if err != nil {
			return fmt.Sprintf("this host cannot log in to Vault: %v: %s", err, i.loginAsked(authJWT).loginRemedy())
		}
	case i.vault.Auth == authAppRole && missing != nil:
		err = errors.New("it has no secret id")
	case i.vault.Auth == authAppRole && !c.Ends.IsZero() && !i.now().Before(c.Ends):
		err = fmt.Errorf("its secret id has ended on %s", ending(c.Ends))
	case i.vault.Auth == authCert && missing != nil:
		// Else it was interrupted between its token and its certificate.
		_, err = i.pair()
	}
	if err == nil {
		return ""
	}
	return fmt.Sprintf("this host cannot log in to Vault: %v: %s", err, enrolAgain)
}
