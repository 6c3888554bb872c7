package agent

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
)

// What a host says of itself is what lies on it, and no secret of it; on a bare
// one it is little, and no error.
func TestSurroundings(t *testing.T) {
	fleet, err := hosts.Load(filepath.Join("..", "hosts", "fleets", "mercury"))
	if err != nil {
		t.Fatal(err)
	}
	spec := *fleet.Hosts[0]
	h := &Host{root: layout.Root(t.TempDir()), log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	h.setSpec(&spec)
	bare := h.Surroundings(t.Context())
	if bare.FleetDigest != spec.Digest || len(bare.EncryptionKeys)+len(bare.ServiceAccountKeys)+len(bare.Certificates) != 0 || bare.Vault != nil {
		t.Errorf("of a bare host: %+v", bare)
	}
	if err := Converge(t.Context(), []Domain{h.pkiDomain()}, plan.Silent{}).Err(); err != nil {
		t.Fatal(err)
	}
	s := h.Surroundings(t.Context())
	keys, err := pki.EncryptionKeys(h.root)
	if err != nil || len(s.EncryptionKeys) != 1 || s.EncryptionKeys[0].ID != keys[0] || s.EncryptionKeys[0].Name != "key1" {
		t.Errorf("encryption keys %+v, want %v (%v)", s.EncryptionKeys, keys, err)
	}
	if len(s.ServiceAccountKeys) != 1 || len(s.CAs) != len(layout.CAs())-1 && len(s.CAs) != len(layout.CAs()) || s.Certificates != nil {
		t.Errorf("%+v", s)
	}
	for ca, ids := range s.CAs {
		if len(ids) != 1 || ids[0] == "" {
			t.Errorf("CA %s: %v", ca, ids)
		}
	}
	if lost := s.Lost(s); len(lost) != 0 {
		t.Errorf("lost %v of what is there", lost)
	}
	spec.Snapshots.Certificates = true
	spec.PKI.Vault = &hosts.Vault{Address: "https://vault.example.org:8200", Mount: "pki/x"}
	halves := h.Surroundings(t.Context())
	if halves.Vault == nil || halves.Vault.Mount != "pki/x" || !strings.Contains(halves.Certificates[layout.CertEtcdServer], "BEGIN CERTIFICATE") ||
		!strings.Contains(halves.Certificates["trust/"+layout.CAEtcdPeer], "BEGIN CERTIFICATE") {
		t.Errorf("with certificates: %+v", halves)
	}
	for name, content := range halves.Certificates {
		if strings.Contains(content, "PRIVATE") {
			t.Errorf("%s has a private key in it", name)
		}
	}
}

// The key that signs is made at the first snapshot; one that the fleet does not
// name, or that is damaged, is a problem in the status.
func TestSigner(t *testing.T) {
	h := &Host{root: layout.Root(t.TempDir()), log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	spec := &hosts.Spec{Name: "n1", Roles: []hosts.Role{hosts.RoleEtcd}}
	h.setSpec(spec)
	if list := h.signerProblems(); len(list) != 0 {
		t.Errorf("before there is one: %q", list)
	}
	signer := h.signer()
	if signer == nil || h.signer().PublicKey() != signer.PublicKey() {
		t.Fatal("no key, or another each time")
	}
	if list := h.signerProblems(); len(list) != 0 {
		t.Errorf("with a fleet that names none: %q", list)
	}
	spec.Snapshots.PublicKeys = []string{"another"}
	if list := h.signerProblems(); len(list) != 1 || !strings.Contains(list[0], signer.PublicKey()) || !strings.Contains(list[0], "n1") {
		t.Errorf("with a fleet that names another: %q", list)
	}
	spec.Snapshots.PublicKeys = append(spec.Snapshots.PublicKeys, signer.PublicKey())
	if list := h.signerProblems(); len(list) != 0 {
		t.Errorf("with a fleet that names it: %q", list)
	}
	if err := os.WriteFile(h.root.SnapshotKey(), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if list := h.signerProblems(); len(list) != 1 || !slices.ContainsFunc(list, func(p string) bool { return strings.Contains(p, "move it aside") }) {
		t.Errorf("with a damaged one: %q", list)
	}
	if h.signer() != nil {
		t.Error("a damaged key signs")
	}
}
