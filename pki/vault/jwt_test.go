package vault

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/pki"
)

// jwtFor is a token with a subject, ES256.
func jwtFor(t *testing.T, key *ecdsa.PrivateKey, subject string, ends time.Time) string {
	t.Helper()
	part := func(v any) string {
		content, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(content)
	}
	text := part(map[string]string{"alg": "ES256", "typ": "JWT"}) + "." +
		part(map[string]any{"sub": subject, "iat": time.Now().Add(-time.Minute).Unix(), "exp": ends.Unix()})
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// With JWT the file is read at each login, and there is nothing to enrol with.
func TestJWT(t *testing.T) {
	eachVault(t, trio("auth = \"jwt\"\njwt_file = \"/run/host-token\"\njwt_subject = \"host:{host}\"\n"), func(t *testing.T, w *world) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		w.do("auth/"+w.place.Auth(authJWT)+"/config", map[string]any{
			"jwt_validation_pubkeys": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		})
		n := w.node("n3")
		file := filepath.Join(t.TempDir(), "token")
		n.vault.JWTFile = file
		client := n.request("kubelet-client")
		write := func(token string) {
			t.Helper()
			if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err = n.trySign(client)
		refused(t, err, pki.CauseLogin, file, "no such file", "see who writes "+file)
		if why := n.CannotLogIn(); !strings.Contains(why, file) {
			t.Errorf("%q", why)
		}
		write("")
		_, err = n.trySign(client)
		refused(t, err, pki.CauseLogin, "is empty")
		write(jwtFor(t, key, "host:n2", time.Now().Add(time.Hour)))
		_, err = n.trySign(client)
		refused(t, err, pki.CauseLogin, "the role n3 of auth/nodeagent/small/jwt")
		write(jwtFor(t, key, "host:n3", time.Now().Add(-time.Hour)))
		_, err = n.trySign(client)
		refused(t, err, pki.CauseLogin, "expired")
		write("not.a.token")
		_, err = n.trySign(client)
		refused(t, err, pki.CauseLogin)
		write(jwtFor(t, key, "host:n3", time.Now().Add(time.Hour)))
		if _, err = n.trySign(client); err != nil {
			t.Fatal(err)
		}
		e, err := n.Enroll(t.Context(), "")
		if err != nil || e.Method != "jwt" || e.CertificateEnds.IsZero() {
			t.Errorf("%+v, %v", e, err)
		}
		if why := n.CannotLogIn(); why != "" {
			t.Error(why)
		}
	})
}
