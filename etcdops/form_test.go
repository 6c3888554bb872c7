package etcdops

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
)

func identity(t testing.TB) *age.X25519Identity {
	t.Helper()
	i, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// forms are all sealings, with those who open them.
func forms(t testing.TB) map[string]struct {
	Sealing
	Identities []age.Identity
} {
	key, other := identity(t), identity(t)
	type form = struct {
		Sealing
		Identities []age.Identity
	}
	return map[string]form{
		".db":         {},
		".db.zst":     {Sealing: Sealing{Compress: true}},
		".db.age":     {Sealing{Recipients: []age.Recipient{key.Recipient()}}, []age.Identity{key}},
		".db.zst.age": {Sealing{Compress: true, Recipients: []age.Recipient{other.Recipient(), key.Recipient()}}, []age.Identity{identity(t), key}},
	}
}

// TestSaveForms saves one etcd in each form, and gets the same database out of
// each: by Verify, by Export, and by a restore.
func TestSaveForms(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	put(t, h, "/registry/pods/default/a", "/registry/pods/default/b")
	var saved []Manifest
	for suffix, form := range forms(t) {
		opts := h.saveOptions()
		opts.Sealing, opts.Scratch = form.Sealing, h.Root.Scratch()
		m, err := Save(t.Context(), opts)
		if err != nil {
			t.Fatalf("%s: %v", suffix, err)
		}
		saved = append(saved, m)
		path := m.Path(opts.Dir)
		if !strings.HasSuffix(path, "Z"+suffix) || m.Stored.suffix() != suffix {
			t.Errorf("%s: lies at %q", suffix, path)
		}
		open := VerifyOptions{OpenOptions: OpenOptions{Identities: form.Identities, Scratch: h.Root.Scratch()}}
		report, err := Verify(t.Context(), path, open)
		if err != nil {
			t.Fatalf("%s: %v", suffix, err)
		}
		if report.Manifest == nil || report.SHA256 != m.SHA256 || report.Stored != m.Stored || report.Keys != 2 {
			t.Errorf("%s: report %+v of %+v", suffix, report, m)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(content)) != m.Stored.Size || form.Recipients != nil && bytes.Contains(content, []byte("registry")) {
			t.Errorf("%s: %d bytes, or they can be read", suffix, len(content))
		}
		theirs := filepath.Join(t.TempDir(), "plain.db")
		if _, err := ExportFile(t.Context(), path, open, theirs); err != nil {
			t.Fatalf("%s: %v", suffix, err)
		}
		if status, err := snapshot.NewV3(quiet()).Status(theirs); err != nil || status.TotalKey != 2 {
			t.Errorf("%s: etcdutl says of what was exported: %+v, %v", suffix, status, err)
		}
		if _, err := ExportFile(t.Context(), path, open, theirs); err == nil {
			t.Errorf("%s: written over what is there", suffix)
		}
	}
	entries, err := List(h.Root.Snapshots())
	if err != nil || len(entries) != len(saved) {
		t.Fatalf("%d snapshots, %v", len(entries), err)
	}
	for _, e := range entries {
		if !e.Good() {
			t.Errorf("%s: %s", e.Path, e.Damage)
		}
	}
	if left := leftovers(t, h.Root.Scratch()); len(left) > 0 {
		t.Errorf("left in the scratch folder: %v", left)
	}
}

// TestRestoreSealed: a restore opens a sealed snapshot itself.
func TestRestoreSealed(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	put(t, h, "before")
	key := identity(t)
	opts := h.saveOptions()
	opts.Sealing = Sealing{Compress: true, Recipients: []age.Recipient{key.Recipient()}}
	m, err := Save(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	put(t, h, "after")
	restore := h.restoreOptions(m.Path(opts.Dir))
	if _, err := PlanRestore(t.Context(), restore); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "--identity") {
		t.Errorf("without an identity: %v", err)
	}
	restore.Identities, restore.Scratch = []age.Identity{key}, h.Root.Scratch()
	plan, err := PlanRestore(t.Context(), restore)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), h.Root, plan, h, func(Event) {}); err != nil {
		t.Fatal(err)
	}
	if keys := keysOf(t, h); len(keys) != 1 || keys[0] != "before" {
		t.Errorf("restored keys %v", keys)
	}
}

// TestSealedDamage changes and cuts sealed snapshots at many places: nothing but
// the database that was sealed ever comes out, and what is wrong is told.
func TestSealedDamage(t *testing.T) {
	t.Parallel()
	db := withTrailer(makeDB(t, 50, false))
	for suffix, form := range forms(t) {
		t.Run(suffix, func(t *testing.T) {
			t.Parallel()
			if form.form().plain() {
				return // TestVerifyRefusesEachBadInput
			}
			var sealed bytes.Buffer
			w, err := form.seal(&sealed, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(db); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			open := func(content []byte) ([]byte, error) {
				r, _, err := unseal(bytes.NewReader(content), form.Identities)
				if err != nil {
					return nil, err
				}
				defer r.Close()
				return io.ReadAll(r)
			}
			if got, err := open(sealed.Bytes()); err != nil || !bytes.Equal(got, db) {
				t.Fatalf("%d bytes of %d: %v", len(got), len(db), err)
			}
			refused := func(what string, at int, content []byte) {
				t.Helper()
				got, err := open(content)
				if err == nil && bytes.Equal(got, db) {
					return // a bit that says nothing, in the frame's header
				}
				if err == nil && !isSealed(content) {
					return // no longer taken for a sealed one: the pages tell
				}
				if err == nil || !errors.Is(err, ErrTruncated) && !errors.Is(err, ErrHashMismatch) && !errors.Is(err, ErrLocked) {
					t.Fatalf("%s at %d of %d: %d bytes came out, error %v", what, at, len(content), len(got), err)
				}
			}
			content := sealed.Bytes()
			// Each byte of the headers and of the end, and about 500 between.
			for at := 0; at < len(content); at++ {
				if at > 512 && at < len(content)-64 {
					at += len(content) / 500
					at = min(at, len(content)-64)
				}
				flipped := bytes.Clone(content)
				flipped[at] ^= 1 << (at % 8)
				refused("a bit changed", at, flipped)
				if at > 0 {
					refused("cut", at, content[:at])
				}
			}
			refused("more behind it", len(content), append(bytes.Clone(content), "more"...))
		})
	}
}

func TestReadIdentities(t *testing.T) {
	t.Parallel()
	key := identity(t)
	path := filepath.Join(t.TempDir(), "key.txt")
	if err := os.WriteFile(path, []byte("# of the fleet\n"+key.String()+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadIdentities(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("one that all can read: %v", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadIdentities(path); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	if err := os.WriteFile(path, []byte("AGE-SECRET-KEY-1SECRET"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadIdentities(path); err == nil || strings.Contains(err.Error(), "1SECRET") {
		t.Errorf("what is none: %v", err)
	}
}

// The hash of the file alone is taken for proof only of one that is in the form
// of its manifest, which somebody has signed; of others what comes out is hashed.
func TestStoredHash(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	fill(t, h, 4, 8<<10)
	all := forms(t)
	save := func(key *Signer) string {
		opts := h.saveOptions()
		opts.Dir, opts.Signer, opts.Sealing = filepath.Join(t.TempDir(), "snapshots"), key, all[".db.zst"].Sealing
		m, err := Save(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		return m.Path(opts.Dir)
	}
	signed, unsigned := save(signer(t)), save(nil)
	unpacked := strings.TrimSuffix(signed, suffixZstd)
	if _, err := ExportFile(t.Context(), signed, VerifyOptions{}, unpacked); err != nil {
		t.Fatal(err)
	}
	for path, byFile := range map[string]bool{signed: true, unsigned: false, unpacked: false} {
		for _, ask := range []bool{true, false} {
			o, report, err := openVerified(t.Context(), path, VerifyOptions{OpenOptions: OpenOptions{StoredHash: ask}})
			if err != nil {
				t.Fatal(err)
			}
			if got := o.sum == nil; got != (ask && byFile) {
				t.Errorf("%s: hashed by the file alone: %t", filepath.Base(path), got)
			}
			if m := report.Manifest; m == nil || report.SHA256 != m.SHA256 || report.Size != m.Size || !report.Trailer {
				t.Errorf("%s: %+v", filepath.Base(path), report)
			}
			if err := o.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
