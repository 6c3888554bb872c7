package vault_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/certs"
	"github.com/nodeagent/nodeagent/test/vault"
)

// TestNames believes a server under the names that it was given and under no
// other, and gets nothing from it without TLS.
func TestNames(t *testing.T) {
	each(t, func(t *testing.T, s *vault.Server) {
		for name, valid := range map[string]bool{"vault.example": true, "192.0.2.7": true, "localhost": true, "other.example": false} {
			client := s.Client()
			config := client.CloneConfig()
			config.HttpClient.Transport.(*http.Transport).TLSClientConfig.ServerName = name
			_, err := client.Sys().Health()
			if (err == nil) != valid {
				t.Errorf("asked as %s: %v, want valid=%t", name, err, valid)
			}
		}
		plain, err := http.Get("http://" + s.Host() + "/v1/sys/health")
		if err != nil {
			t.Fatal(err)
		}
		plain.Body.Close()
		if plain.StatusCode != http.StatusBadRequest {
			t.Errorf("asked without TLS: %s, want 400", plain.Status)
		}
	}, vault.Names("vault.example", "192.0.2.7"))
}

// TestListen serves at another address, and is believed there.
func TestListen(t *testing.T) {
	each(t, func(t *testing.T, s *vault.Server) {
		if host, _, err := net.SplitHostPort(s.Host()); err != nil || host != "127.0.0.9" {
			t.Errorf("address %s (%v), want one at 127.0.0.9", s.Address, err)
		}
		s.Restart()
	}, vault.Listen("127.0.0.9:0"))
}

// TestCertificate shows the certificate that it is given, after a restart the
// one that then lies there, and is not believed with another CA.
func TestCertificate(t *testing.T) {
	for _, version := range vault.Versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			certFile, keyFile := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
			first := selfSigned(t, certFile, keyFile)
			s := vault.Start(t, version, vault.Certificate(certFile, keyFile, certFile))
			if got := shown(t, s); !got.Equal(first) {
				t.Errorf("the server shows %v, want %v", got.SerialNumber, first.SerialNumber)
			}
			believes := s.Client() // has read the first one
			second := selfSigned(t, certFile, keyFile)
			s.Restart()
			if got := shown(t, s); !got.Equal(second) {
				t.Errorf("the server shows %v after a restart, want %v", got.SerialNumber, second.SerialNumber)
			}
			if _, err := believes.Sys().Health(); err == nil {
				t.Error("who trusts another CA believes the server")
			}
		})
	}
}

func selfSigned(t *testing.T, certFile, keyFile string) *x509.Certificate {
	t.Helper()
	pair := certs.CA(t, "given", nil)
	pair.Write(t, certFile, keyFile)
	return pair.Certificate
}

// shown is the certificate that the live port shows.
func shown(t *testing.T, s *vault.Server) *x509.Certificate {
	t.Helper()
	conn, err := tls.Dial("tcp", s.Host(), &tls.Config{InsecureSkipVerify: true}) // it is compared
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0]
}

// TestOrphan lets a server go whose test was killed: its standard input ends.
func TestOrphan(t *testing.T) {
	for _, version := range vault.Versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(vault.Program(t, version), "-dir", t.TempDir(), "-stdin")
			input, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			output, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			hung := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
			defer hung.Stop()
			var line struct {
				Address, Version string
				Sealed           bool
			}
			first, err := bufio.NewReader(output).ReadBytes('\n')
			if err == nil {
				err = json.Unmarshal(first, &line)
			}
			if err != nil || "v"+line.Version != version || line.Sealed || line.Address == "" {
				t.Errorf("it printed %s (%v), want its address and version, unsealed", first, err)
			}
			input.Close()
			if err := cmd.Wait(); err != nil {
				t.Errorf("end of the server: %v, want it to end by itself", err)
			}
		})
	}
}
