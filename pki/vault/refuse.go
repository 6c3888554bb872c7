package vault

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/pki"
)

// asked is what a request to Vault was about: what its refusal speaks of.
type asked struct {
	vault *hosts.Vault
	host  string
	// what completes "cannot …": `sign "etcd-peer"`.
	what string
	// engine is the path of the secrets engine that was asked.
	engine string
	// role is the role of the engine that was asked for, "" for none.
	role string
	// login is the method of a login, "" for requests with a token.
	login string
	// public tells that no token was sent, because none is needed.
	public bool
}

// refuse words why Vault gave nothing, with its cause and what to do about it.
// It is pure; one that is a refusal already, of the login that came before,
// says what was asked for, too.
func refuse(a asked, err error) error {
	var before *pki.Refusal
	if errors.As(err, &before) {
		r := *before
		r.What = a.what + ": " + r.What
		return &r
	}
	r := &pki.Refusal{What: a.what, Err: plain(err)}
	if code := status(err); code != 0 {
		r.Cause, r.Remedy = a.answered(code, strings.ToLower(r.Err.Error()))
	} else {
		r.Cause, r.Remedy = a.unanswered(err)
	}
	return r
}

// answered judges an answer of Vault's by its status and, where that serves for
// several things, by its words, in lower case.
func (a asked) answered(code int, words string) (pki.Cause, string) {
	has := func(text string) bool { return strings.Contains(words, text) }
	switch {
	case code == http.StatusTooManyRequests:
		return pki.CauseUnreachable, "it asks for patience; if that lasts, raise the limit that holds for " + a.vault.Mount + " (vault read sys/quotas/rate-limit/…)"
	case code == http.StatusServiceUnavailable && has("sealed"):
		return pki.CauseUnreachable, "unseal Vault (vault operator unseal)"
	case has("no handler for route"), code == http.StatusNotFound && a.login != "", code == http.StatusForbidden && a.public:
		// Whoever shows no token is told of a path that is not there what he is
		// told of one that is: permission denied.
		return pki.CauseMissing, fmt.Sprintf("nothing is mounted at %s: let an administrator run nodeagent pki bootstrap, or correct pki.vault.mount", a.mounted())
	case code == http.StatusForbidden && a.login != "":
		return pki.CauseMissing, fmt.Sprintf("nothing is mounted at %s, or it lets nobody in from this host's address: let an administrator run nodeagent pki bootstrap, or correct pki.vault.mount", a.mounted())
	case has("unknown role"):
		return pki.CauseMissing, fmt.Sprintf("role %s is not in %s: let an administrator run nodeagent pki bootstrap with this fleet", a.role, a.engine)
	case has("unable to find") && has("issuer"), has("no default issuer"), has("no issuer"):
		return pki.CauseMissing, "the engine " + a.engine + " has no authority: let an administrator run nodeagent pki bootstrap"
	case code >= 500 && !(a.login != "" && has("invalid secret id")): // which Vault 1.13 answers with status 500
		return pki.CauseUnreachable, "see Vault's own log"
	case a.login != "":
		return pki.CauseLogin, a.loginRemedy()
	case code == http.StatusForbidden:
		return pki.CauseDenied, "the policy of this host does not allow it: let an administrator run nodeagent pki bootstrap with this fleet; nodeagent pki check tells what is missing"
	case has("beyond the expiration of the ca"):
		return pki.CauseUnfit, "the authority ends before a certificate of the wanted lifetime would: renew it (nodeagent certs rotate-ca), or shorten pki.lifetime"
	case has("not allowed"), has("does not match"), has("must be"), has("role requires"):
		return pki.CauseUnfit, fmt.Sprintf("role %s does not sign what this spec asks for: let an administrator run nodeagent pki bootstrap with this fleet", a.role)
	case code == http.StatusNotFound:
		return pki.CauseMissing, "let an administrator run nodeagent pki bootstrap with this fleet"
	}
	return pki.CauseUnknown, ""
}

// mounted is where the thing should be that is not.
func (a asked) mounted() string {
	if a.login != "" {
		return "auth/" + Place(a.vault.Mount).Auth(a.login)
	}
	return a.engine
}

// unanswered judges an error that is not Vault's answer.
func (a asked) unanswered(err error) (pki.Cause, string) {
	var file *caFileError
	var name x509.HostnameError
	var dns *net.DNSError
	at := a.vault.Address
	switch {
	case errors.As(err, &file):
		return pki.CauseUntrusted, "put the certificate of the CA that signed Vault's own there, or correct pki.vault.ca_file"
	case errors.As(err, &name):
		return pki.CauseUntrusted, fmt.Sprintf("the certificate of who answers at %s is for another name: correct pki.vault.address, or find out who answers there", at)
	case errors.Is(err, http.ErrSchemeMismatch):
		return pki.CauseUntrusted, fmt.Sprintf("who answers at %s speaks no TLS: correct pki.vault.address, or find out who answers there", at)
	case expired(err):
		return pki.CauseUntrusted, fmt.Sprintf("the certificate of who answers at %s is not valid at this host's time: renew it, or set the clock", at)
	case distrusted(err):
		return pki.CauseUntrusted, fmt.Sprintf("the certificate of who answers at %s is not signed by the CA in %s: correct that, or find out who answers there", at, caOf(a.vault))
	case errors.Is(err, context.Canceled):
		return pki.CauseUnknown, ""
	case errors.As(err, &dns):
		return pki.CauseUnreachable, "the name in pki.vault.address cannot be looked up: see the host's resolvers"
	case errors.Is(err, context.DeadlineExceeded), timeout(err):
		return pki.CauseUnreachable, fmt.Sprintf("no answer from %s within %s: see whether Vault is overloaded, or a firewall drops packets", at, requestTimeout)
	case errors.Is(err, syscall.ECONNREFUSED):
		return pki.CauseUnreachable, fmt.Sprintf("nobody listens at %s: start Vault, or correct pki.vault.address", at)
	case passing(err):
		return pki.CauseUnreachable, "see whether Vault runs at " + at + " and this host has a way to it"
	}
	return pki.CauseUnknown, ""
}

// loginRemedy is how a host that Vault does not know gets known.
func (a asked) loginRemedy() string {
	if a.login == authJWT {
		return fmt.Sprintf("see who writes %s, and what the role %s of auth/%s asks of its tokens", a.vault.JWTFile, a.host, Place(a.vault.Mount).Auth(authJWT))
	}
	return enrolAgain
}

// enrolAgain is the way back in of a host that Vault does not know any more.
const enrolAgain = "let an administrator mint an enrolment token for this host, then run nodeagent enroll here"

func caOf(v *hosts.Vault) string {
	if v.CAFile == "" {
		return "the system's bundle"
	}
	return v.CAFile
}

func expired(err error) bool {
	var invalid x509.CertificateInvalidError
	return errors.As(err, &invalid) && invalid.Reason == x509.Expired
}

func timeout(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout()
}

// cutOff tells whether a connection ended before the answer.
func cutOff(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// plain is an error in one line: of an answer what Vault said and its status,
// of anything else its text.
func plain(err error) error {
	var answer *api.ResponseError
	if !errors.As(err, &answer) {
		return worded{err, strings.Join(strings.Fields(err.Error()), " ")}
	}
	words := make([]string, 0, len(answer.Errors))
	for _, e := range answer.Errors {
		words = append(words, strings.Join(strings.Fields(e), " "))
	}
	said := shortened(strings.Join(words, "; "))
	if said == "" {
		said = strings.ToLower(http.StatusText(answer.StatusCode))
	}
	return worded{err, fmt.Sprintf("%s (HTTP %d)", said, answer.StatusCode)}
}

// shortened keeps a web page that somebody answered out of the log.
func shortened(s string) string {
	const most = 400
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + " …"
}

// worded is an error with another text.
type worded struct {
	error
	text string
}

func (e worded) Error() string { return e.text }
func (e worded) Unwrap() error { return e.error }
