package agent

import (
	"bytes"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki/vault"
	servers "github.com/nodeagent/nodeagent/test/vault"
)

// sealedBy encrypts a few bytes as a snapshot of the host would be.
func sealedBy(t *testing.T, s etcdops.Sealing) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := age.Encrypt(&b, s.Recipients...)
	if err == nil {
		_, err = w.Write([]byte("data"))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The key in Vault encrypts and opens; with Vault down it is used as long as
// this process remembers it, then a recipient of age serves, and without one the
// save says what is wrong.
func TestSealingWithVault(t *testing.T) {
	for _, version := range servers.Versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			server := servers.Start(t, version)
			spec := vaultFleet(t, server, "\n[snapshots]\nvault_key = \"snapshots\"\n")
			var log bytes.Buffer
			fresh := func(root layout.Root) *Host {
				h := &Host{root: root, log: slog.New(slog.NewTextHandler(&log, nil))}
				h.setSpec(spec)
				return h
			}
			h := fresh(layout.Root(t.TempDir()))
			e, err := vault.MintEnrolment(t.Context(), server.Client(), spec, time.Minute)
			if err == nil {
				_, err = h.vault(spec).Enroll(t.Context(), e.Token)
			}
			if err != nil {
				t.Fatal(err)
			}
			s, err := h.sealing(t.Context())
			if err != nil || len(s.Recipients) != 1 || !s.Compress {
				t.Fatalf("%v, %v", s, err)
			}
			sealed := sealedBy(t, s)
			if !bytes.Contains(sealed, []byte("-> nodeagent-shared nodeagent/one/secrets/snapshots 1 ")) {
				t.Errorf("the header: %.200q", sealed)
			}
			open := VaultIdentity(t.Context(), h.root, spec, h.log)
			if _, err := age.Decrypt(bytes.NewReader(sealed), open); err != nil {
				t.Errorf("open with Vault: %v", err)
			}

			server.Stop()
			if _, err := age.Decrypt(bytes.NewReader(sealed), open); err == nil || !strings.Contains(err.Error(), "nobody listens at") {
				t.Errorf("open without Vault: %v", err)
			}
			again, err := h.sealing(t.Context())
			if err != nil || len(again.Recipients) != 1 || !strings.Contains(log.String(), "the key of before") {
				t.Errorf("remembered: %v, %v\n%s", again, err, log.String())
			}
			other := fresh(h.root) // as after a restart
			if _, err := other.sealing(t.Context()); err == nil || !strings.Contains(err.Error(), "snapshots.recipients") {
				t.Errorf("forgotten: %v", err)
			}
			person, err := age.GenerateX25519Identity()
			if err != nil {
				t.Fatal(err)
			}
			with := *spec
			with.Snapshots.Recipients = []string{person.Recipient().String()}
			other.setSpec(&with)
			s, err = other.sealing(t.Context())
			if err != nil || len(s.Recipients) != 1 || !strings.Contains(log.String(), "by snapshots.recipients alone") {
				t.Fatalf("%v, %v\n%s", s, err, log.String())
			}
			if _, err := age.Decrypt(bytes.NewReader(sealedBy(t, s)), person); err != nil {
				t.Error(err)
			}
			secret := h.seal.key.Secret
			for line := range bytes.Lines(log.Bytes()) {
				if bytes.Contains(line, secret) {
					t.Error("the key is logged")
				}
			}
			if slices.ContainsFunc(filesBelow(t, string(h.root)), func(content []byte) bool { return bytes.Contains(content, secret) }) {
				t.Error("the key is on disk")
			}
		})
	}
}

// filesBelow are the contents of all files of a folder.
func filesBelow(t *testing.T, dir string) (contents [][]byte) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		contents = append(contents, content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return contents
}
