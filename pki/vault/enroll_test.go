package vault

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/pki"
	servers "github.com/nodeagent/nodeagent/test/vault"
)

func newKey(t testing.TB, kind string) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case "ecdsa-p256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ecdsa-p384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case "rsa-2048":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		t.Fatalf("unknown key type %q", kind)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newCSR makes a key and a signing request for exactly what r names, written
// apart from package pki's own so that the two are held against each other.
func newCSR(t testing.TB, r pki.Request) (crypto.Signer, []byte) {
	t.Helper()
	key := newKey(t, r.KeyType)
	name := pkix.Name{CommonName: r.CommonName}
	if r.Organization != "" {
		name.Organization = []string{r.Organization}
	}
	var ips []net.IP
	for _, a := range r.Addresses {
		ips = append(ips, net.ParseIP(a.String()))
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: name, DNSNames: r.DNSNames, IPAddresses: ips}, key)
	if err != nil {
		t.Fatal(err)
	}
	return key, csr
}

// again is the same host after the process has ended.
func (n *node) again() *node {
	return n.w.nodeOf(n.spec, n.root)
}

func TestEnrol(t *testing.T) {
	eachVault(t, trio(""), func(t *testing.T, w *world) {
		n := w.node("n3")
		_, err := n.CheckEnrolment(t.Context())
		refused(t, err, pki.CauseLogin, `log in as "n3" (cert)`, "it is not enrolled", "nodeagent enroll")
		if why := n.CannotLogIn(); !strings.Contains(why, "no certificate of its own yet") || !strings.Contains(why, "nodeagent enroll") {
			t.Errorf("%q", why)
		}
		if _, err := n.Enroll(t.Context(), ""); !errors.Is(err, ErrNoToken) {
			t.Errorf("error %v, want %v", err, ErrNoToken)
		}
		token := n.token(10 * time.Minute)
		e, err := n.Enroll(t.Context(), "  "+token+"\n")
		if err != nil {
			t.Fatal(err)
		}
		if left := time.Until(e.CertificateEnds); e.Method != "cert" || left < 700*time.Hour || left > 721*time.Hour || !e.SecretIDEnds.IsZero() {
			t.Errorf("%+v", e)
		}
		// What enrolment came with is gone, and what remains is the store's.
		if _, err := os.Stat(n.root.Enrolment()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the enrolment folder is still there: %v", err)
		}
		have, err := pki.Observe(t.Context(), n.root)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range pki.Diff(have, pki.Want(n.spec), time.Now()) {
			if c.Key == "certificate nodeagent" || c.Key == "trust nodeagent" || strings.HasPrefix(c.Key, "mode") || strings.HasPrefix(c.Key, "leftover") {
				t.Errorf("after enrolment: %s because %s", c, c.Reason)
			}
		}
		if s, err := n.current(t.Context()); err != nil || s.method != authCert {
			t.Errorf("session %v, error %v", s, err)
		}
		if why := n.again().CannotLogIn(); why != "" {
			t.Error(why)
		}
		// It lasts: another process logs in with the certificate alone.
		if _, err := n.again().trySign(n.request("kubelet-client")); err != nil {
			t.Error(err)
		}
		// Killed before it was cleared away, what enrolment came with goes now.
		if err := n.keep(credential{RoleID: "n3", SecretID: "used", Accessor: "x", Token: "y"}); err != nil {
			t.Fatal(err)
		}
		if _, err := n.again().CheckEnrolment(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(n.root.Enrolment()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the enrolment folder is still there: %v", err)
		}
		// The token is used up, for this host and for whoever found it.
		_, err = n.again().Enroll(t.Context(), token)
		refused(t, err, pki.CauseLogin, "has ended, was unwrapped before, or is not of this Vault", "somebody else holds a secret id", "have another minted", "secret-id-accessor/destroy")
		if strings.Contains(err.Error(), token) {
			t.Error("the token is in the error")
		}
		// It is enrolled still.
		if _, err := n.again().CheckEnrolment(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A token that is not what it should be is refused, and left unused.
func TestEnrolRefusesTokens(t *testing.T) {
	eachVault(t, trio(""), func(t *testing.T, w *world) {
		n, other := w.node("n3"), w.node("n2")
		enrol := func(token string) error { _, err := n.again().Enroll(t.Context(), token); return err }

		theirs := other.token(10 * time.Minute)
		refused(t, enrol(theirs), pki.CauseLogin, `it is for the host "n2", not for "n3"`, "it was not used")
		if _, err := other.Enroll(t.Context(), theirs); err != nil {
			t.Errorf("the other host's token was used up: %v", err)
		}

		wrapping, err := w.client.Clone()
		if err != nil {
			t.Fatal(err)
		}
		wrapping.SetToken(w.client.Token())
		wrapping.SetWrappingLookupFunc(func(string, string) string { return "60s" })
		secret, err := wrapping.Logical().WriteWithContext(t.Context(), "sys/wrapping/wrap", map[string]any{"secret_id": "x", "secret_id_accessor": "y"})
		if err != nil {
			t.Fatal(err)
		}
		forged := secret.WrapInfo.Token
		refused(t, enrol(forged), pki.CauseLogin, `it wraps an answer of "sys/wrapping/wrap"`, "it was not used", "do not use it")

		refused(t, enrol(w.server.RootToken), pki.CauseLogin, "is not of this Vault")
		refused(t, enrol("hvs.doesnotexist00000000000"), pki.CauseLogin, "is not of this Vault")
		refused(t, enrol(`{"token": "x"}`), pki.CauseLogin, "not a token")

		ended := n.token(time.Minute)
		w.do("auth/token/revoke", map[string]any{"token": ended})
		refused(t, enrol(ended), pki.CauseLogin, "has ended")

		// Vault away, another one, or a wrong CA: the token stays good.
		token := n.token(10 * time.Minute)
		w.server.Stop()
		refused(t, enrol(token), pki.CauseUnreachable, "nobody listens", "the enrolment token is not used up")
		w.server.Restart()
		w.server.Seal()
		refused(t, enrol(token), pki.CauseUnreachable, "sealed", "the enrolment token is not used up")
		w.server.Unseal()
		spec, v := *n.spec, *n.spec.PKI.Vault
		v.CAFile = ""
		spec.PKI.Vault = &v
		_, err = w.nodeOf(&spec, n.root).Enroll(t.Context(), token)
		refused(t, err, pki.CauseUntrusted, "not signed by the CA", "the enrolment token is not used up")
		if err := enrol(token); err != nil {
			t.Errorf("the token was used up: %v", err)
		}
	})
}

// Killed after the token was unwrapped, the same command goes on.
func TestEnrolGoesOn(t *testing.T) {
	eachVault(t, trio(""), func(t *testing.T, w *world) {
		n := w.node("n3")
		token := n.token(10 * time.Minute)
		c, err := n.unwrap(t.Context(), token)
		if err == nil {
			err = n.keep(c)
		}
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(n.credentialFile()); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v %v", info.Mode(), err)
		}
		if info, err := os.Stat(n.root.Enrolment()); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%v %v", info.Mode(), err)
		}
		// With the same token, or none.
		if _, err := n.again().Enroll(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		// Killed after the secret id was used: the host needs another token, says
		// so, and takes it.
		m := w.node("n2")
		token = m.token(10 * time.Minute)
		if c, err = m.unwrap(t.Context(), token); err == nil {
			if err = m.keep(c); err == nil {
				_, err = m.useCredential(t.Context(), c)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		_, err = m.again().Enroll(t.Context(), "")
		refused(t, err, pki.CauseLogin, "nodeagent enroll")
		if _, err := m.again().Enroll(t.Context(), m.token(10*time.Minute)); err != nil {
			t.Error(err)
		}
	})
}

// A host that was off until its certificates ended comes back with a token.
func TestComesBackFromExpiry(t *testing.T) {
	eachVault(t, trio(""), func(t *testing.T, w *world) {
		n := w.enrolled("n3")
		late := n.again()
		late.now = func() time.Time { return time.Now().Add(31 * 24 * time.Hour) }
		_, err := late.trySign(n.request("kubelet-client"))
		refused(t, err, pki.CauseLogin, "this host's own certificate has ended on", "nodeagent enroll")
		if why := late.CannotLogIn(); !strings.Contains(why, "has ended on") || !strings.Contains(why, "nodeagent enroll") {
			t.Errorf("%q", why)
		}
		_, err = late.CheckEnrolment(t.Context())
		refused(t, err, pki.CauseLogin, "has ended on")
		// As Vault sees it: the certificate is one that it does not take any
		// more. (Its clock cannot be moved here.)
		before := n.leafOnDisk()
		if _, err := n.again().Enroll(t.Context(), n.token(10*time.Minute)); err != nil {
			t.Fatal(err)
		}
		if n.leafOnDisk() == before {
			t.Error("the certificate is the old one")
		}
		if _, err := n.again().trySign(n.request("kubelet-client")); err != nil {
			t.Error(err)
		}
	})
}

// With AppRole the secret id is the lasting login: it is replaced at enrolment
// and when due, the old one is destroyed, and it is never lost on the way.
func TestAppRole(t *testing.T) {
	eachVault(t, trio("auth = \"approle\"\n"), func(t *testing.T, w *world) {
		n := w.node("n3")
		path := "auth/" + w.place.Auth(authAppRole) + "/role/n3/secret-id"
		accessors := func() int {
			t.Helper()
			secret, err := w.client.Logical().ListWithContext(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			if secret == nil {
				return 0
			}
			return len(secret.Data["keys"].([]any))
		}
		kept := func() credential {
			t.Helper()
			c, err := n.credential()
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		e, err := n.Enroll(t.Context(), n.token(10*time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		if e.Method != "approle" || e.SecretIDEnds.IsZero() || e.CertificateEnds.IsZero() {
			t.Errorf("%+v", e)
		}
		first := kept()
		if first.Token != "" || first.Uses != 0 || len(first.Old) != 0 || accessors() != 1 {
			t.Errorf("after enrolment: %+v, %d secret ids in Vault", first, accessors())
		}
		if _, err := n.again().trySign(n.request("kubelet-client")); err != nil {
			t.Fatal(err)
		}
		if kept().Accessor != first.Accessor {
			t.Error("replaced before it was due")
		}
		// Due.
		late := n.again()
		late.now = func() time.Time { return first.due().Add(time.Minute) }
		if wait := late.look(t.Context()); wait <= 0 {
			t.Errorf("looks again in %s", wait)
		}
		second := kept()
		if second.Accessor == first.Accessor || len(second.Old) != 0 || accessors() != 1 {
			t.Errorf("after it was due: %d secret ids, %d to be destroyed", accessors(), len(second.Old))
		}
		if _, err := n.useCredential(t.Context(), first); pki.CauseOf(err) != pki.CauseLogin {
			t.Errorf("the old one still logs in: %v", err)
		}
		// Killed after the new one was kept and before the old one was destroyed.
		s, err := n.useCredential(t.Context(), second)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err = n.replaceSecretID(t.Context(), s, second); err != nil {
			t.Fatal(err)
		}
		if accessors() != 2 {
			t.Errorf("%d secret ids, want 2", accessors())
		}
		if _, err := n.again().trySign(n.request("kubelet-client")); err != nil {
			t.Fatal(err)
		}
		if third := kept(); accessors() != 1 || len(third.Old) != 0 {
			t.Errorf("the next login left %d secret ids and %d to be destroyed", accessors(), len(third.Old))
		}
		// Others could read the file.
		third := kept()
		if err := os.Chmod(n.credentialFile(), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := n.again().trySign(n.request("kubelet-client")); err != nil {
			t.Fatal(err)
		}
		if info, _ := os.Stat(n.credentialFile()); kept().Accessor == third.Accessor || info.Mode().Perm() != 0o600 {
			t.Errorf("a secret id that others could read stays, mode %v", info.Mode())
		}
		// Not allowed: the one in use serves on, and that is logged once.
		fourth := kept()
		w.do("sys/policies/acl/"+w.place.Policy("n3"), map[string]any{"policy": strings.ReplaceAll(HostPolicy(n.spec), "secret-id", "secret-xx")})
		late = n.again()
		late.now = func() time.Time { return fourth.due().Add(time.Minute) }
		for range 3 {
			if late.look(t.Context()); late.session == nil {
				t.Error("no session")
			}
		}
		if count := strings.Count(late.logs.String(), "secret id not replaced"); count != 1 || kept().Accessor != fourth.Accessor {
			t.Errorf("logged %d times, accessor changed %t", count, kept().Accessor != fourth.Accessor)
		}
		w.bootstrap()
		// Ended: only a token helps.
		late.now = func() time.Time { return fourth.Ends.Add(time.Minute) }
		if why := late.CannotLogIn(); !strings.Contains(why, "its secret id has ended on") {
			t.Errorf("%q", why)
		}
		if err := late.Close(context.Background()); err != nil {
			t.Error(err)
		}
		late.calm()
		_, err = late.trySign(n.request("kubelet-client"))
		refused(t, err, pki.CauseLogin, "this host's secret id has ended on", "nodeagent enroll")
		if _, err := n.again().Enroll(t.Context(), n.token(10*time.Minute)); err != nil {
			t.Fatal(err)
		}
		if accessors() != 1 {
			t.Errorf("%d secret ids after enrolling again, want 1", accessors())
		}
		for _, secret := range []string{string(first.SecretID), string(second.SecretID), string(kept().SecretID)} {
			if strings.Contains(n.logs.String()+late.logs.String(), secret) {
				t.Error("a secret id is in the log")
			}
		}
	})
}

// The token goes on as long as it can be renewed, and then another login
// follows; one that nobody uses is given back.
func TestToken(t *testing.T) {
	eachVault(t, trio(""), func(t *testing.T, w *world) {
		n := w.enrolled("n3")
		client := n.request("kubelet-client")
		n.now = time.Now
		s, err := n.current(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		token := s.client.Token()
		if s.lease != tokenTTL || !s.renewable {
			t.Errorf("lease %s, renewable %t", s.lease, s.renewable)
		}
		for range 3 {
			if _, err := n.trySign(client); err != nil {
				t.Fatal(err)
			}
		}
		if n.session != s {
			t.Error("each request logs in")
		}
		// Half of its life over: renewed, with the same certificate.
		after := func(d time.Duration) { n.now = func() time.Time { return time.Now().Add(d) } }
		after(s.lease/2 + time.Minute)
		if again, err := n.current(t.Context()); err != nil || again != s || !again.since.After(time.Now()) {
			t.Errorf("not renewed at half of its life: %v", err)
		}
		n.now = time.Now
		s.since, s.ends = time.Now(), time.Now().Add(s.lease)
		// The host has another certificate: Vault would not renew for that.
		if err := n.obtainIdentity(t.Context()); err != nil {
			t.Fatal(err)
		}
		after(s.lease/2 + time.Minute)
		next, err := n.current(t.Context())
		if err != nil || next == s || next.leaf == s.leaf {
			t.Errorf("no login with the new certificate: %v", err)
		}
		// The one before was given back.
		if _, err := w.client.Auth().Token().LookupWithContext(t.Context(), token); err == nil {
			t.Error("the token before is still good")
		}
		// Nobody uses it.
		n.now = time.Now
		next.since, next.ends = time.Now(), time.Now().Add(24*time.Hour)
		after(2 * idle)
		n.look(t.Context())
		if n.session != nil {
			t.Error("a token that nobody uses is kept")
		}
		if _, err := w.client.Auth().Token().LookupWithContext(t.Context(), next.client.Token()); err == nil {
			t.Error("and was not given back")
		}
	})
}

// Vault answers 500 to the renewal of a token that is past the longest life of
// its role. That is no outage: another login follows.
func TestTokenPastItsEnd(t *testing.T) {
	eachVault(t, trio(""), func(t *testing.T, w *world) {
		n := w.enrolled("n3")
		if err := n.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.now = time.Now
		first, err := n.current(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		w.shortTokens("n3", 1, 1)
		waitFor(t, "Vault does not renew the token", func() bool {
			_, err := first.write(t.Context(), "auth/token/renew-self", nil)
			return status(err) == http.StatusInternalServerError
		})
		n.now = func() time.Time { return time.Now().Add(first.lease/2 + time.Minute) }
		next, err := n.current(t.Context())
		if err != nil || next == first {
			t.Errorf("no login follows (the same token: %t): %v", next == first, err)
		}
		if err := n.out(); err != nil {
			t.Errorf("taken for an outage: %v", err)
		}
	})
}

// Tokens that end every few seconds, and cannot be renewed for long, fail no
// request.
func TestShortTokens(t *testing.T) {
	eachVault(t, trio(""), func(t *testing.T, w *world) {
		n := w.enrolled("n3")
		if err := n.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.shortTokens("n3", 4, 6)
		ctx, cancel := context.WithCancel(t.Context())
		var keeping sync.WaitGroup
		keeping.Go(func() { n.Keep(ctx) })
		logins, renewals, client := 0, 0, n.request("kubelet-client")
		var last *session
		var since time.Time
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		began := time.Now()
		for ; (logins < 3 || renewals < 2) && time.Since(began) < time.Minute; <-ticker.C {
			if _, err := n.trySign(client); err != nil {
				t.Errorf("after %s: %v", time.Since(began), err)
			}
			if err := n.lock(ctx); err != nil {
				t.Fatal(err)
			}
			switch {
			case n.session != last:
				logins++
			case !n.session.since.Equal(since):
				renewals++
			}
			last, since = n.session, n.session.since
			n.unlock()
		}
		cancel()
		keeping.Wait()
		took := time.Since(began)
		if logins < 3 || renewals < 2 || logins > 3+int(took/(2*time.Second)) {
			t.Errorf("%d logins and %d renewals in %s, of tokens that live 4 s, 6 at most", logins, renewals, took)
		}
	})
}

// shortTokens has a host's tokens live ttl seconds, and longest with renewals.
func (w *world) shortTokens(host string, ttl, longest int) {
	w.t.Helper()
	path := "auth/" + w.place.Auth(authCert) + "/certs/" + host
	login, err := w.client.Logical().ReadWithContext(w.t.Context(), path)
	if err != nil {
		w.t.Fatal(err)
	}
	login.Data["token_ttl"], login.Data["token_max_ttl"] = ttl, longest
	w.do(path, login.Data)
}

// Neither an environment that is set for people nor one that is broken changes
// where a host goes and as whom.
func TestEnvironmentIsNoMatter(t *testing.T) {
	w := newWorld(t, servers.Versions()[0], trio(""))
	n := w.node("n3")
	token := n.token(10 * time.Minute)
	for name, value := range map[string]string{
		api.EnvVaultAddress: "https://127.0.0.1:1", api.EnvVaultToken: "hvs.fromtheenvironment", api.EnvVaultNamespace: "elsewhere",
		api.EnvVaultSkipVerify: "true", api.EnvVaultMaxRetries: "9", api.EnvVaultWrapTTL: "60s", api.EnvVaultHeaders: `{"X-Other": "y"}`,
	} {
		t.Setenv(name, value)
	}
	if _, err := n.Enroll(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	if _, err := n.trySign(n.request("kubelet-client")); err != nil {
		t.Error(err)
	}
	spec, v := *n.spec, *n.spec.PKI.Vault
	v.CAFile = ""
	spec.PKI.Vault = &v
	_, err := w.nodeOf(&spec, n.root).trySign(n.request("kubelet-client"))
	refused(t, err, pki.CauseUntrusted, "the system's bundle")
}
