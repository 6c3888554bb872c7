package servers

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestVersions reads each server's version where its build takes it from.
func TestVersions(t *testing.T) {
	b, err := New(t.Output())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range slices.Concat(all, vaults, []server{versitygw, vaultAgent}) {
		version, err := b.version(&s)
		if err != nil || strings.Count(version, ".") != 2 {
			t.Errorf("%s has version %q (%v), want one like v1.2.3", s.name, version, err)
		}
		key, err := b.key(&s)
		if err != nil || !strings.HasPrefix(key, version+"-") {
			t.Errorf("%s has key %q (%v), want it to begin with its version %s", s.name, key, err, version)
		}
	}
}

// TestVaultMissing says how to build a Vault server that is not there, and
// which versions there are.
func TestVaultMissing(t *testing.T) {
	b, err := New(t.Output())
	if err != nil {
		t.Fatal(err)
	}
	b.Cache = t.TempDir()
	versions, err := b.VaultVersions()
	if err != nil || !slices.IsSorted(versions) || len(versions) != len(vaults) {
		t.Fatalf("versions %q (%v), want the %d of Vault, the oldest first", versions, err, len(vaults))
	}
	for version, want := range map[string]string{
		versions[0]: "go run ./test/servers/build vault",
		"v0.0.1":    strings.Join(versions, ", "),
	} {
		if _, err := b.FindVault(version); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("find Vault %s in an empty cache: %v, want an error with %q", version, err, want)
		}
	}
	if _, err := b.FindVaultAgent(); err == nil || !strings.Contains(err.Error(), "go run ./test/servers/build vault") {
		t.Errorf("find the vault command in an empty cache: %v, want an error that says what builds it", err)
	}
}

// TestCached builds once, and leaves nothing of a build that fails.
func TestCached(t *testing.T) {
	b := &Builder{Cache: t.TempDir(), Log: t.Output()}
	builds := 0
	fill := func(dir string) error {
		builds++
		return os.WriteFile(filepath.Join(dir, "product"), nil, 0o644)
	}
	for range 2 {
		dir, err := b.cached(t.Context(), "kind", "key", "", fill)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "product")); err != nil {
			t.Error(err)
		}
	}
	if builds != 1 {
		t.Errorf("built %d times, want once", builds)
	}
	fails := errors.New("out of ink")
	if _, err := b.cached(t.Context(), "kind", "broken", "", func(string) error { return fails }); !errors.Is(err, fails) {
		t.Errorf("a build that fails: %v, want %v", err, fails)
	}
	left, err := filepath.Glob(filepath.Join(b.Cache, "kind", "broken*"))
	if err != nil || len(left) > 0 {
		t.Errorf("a build that failed left %q (%v)", left, err)
	}
}

// TestPackImages reads the archive back as an importer does.
func TestPackImages(t *testing.T) {
	dir := t.TempDir()
	program, archive := filepath.Join(dir, "hello"), filepath.Join(dir, "images.tar")
	if err := os.WriteFile(program, []byte("a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := packImages(program, archive); err != nil {
		t.Fatal(err)
	}
	files := readTar(t, archive)
	var manifest []imageManifest
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil {
		t.Fatal(err)
	}
	var tags []string
	for _, image := range manifest {
		tags = append(tags, image.RepoTags...)
		var config struct {
			RootFS struct {
				DiffIDs []string `json:"diff_ids"`
			} `json:"rootfs"`
		}
		if err := json.Unmarshal(files[image.Config], &config); err != nil {
			t.Errorf("config of %v: %v", image.RepoTags, err)
		}
		layer := files[image.Layers[0]]
		if got := config.RootFS.DiffIDs; len(got) != 1 || got[0] != "sha256:"+digest(layer) {
			t.Errorf("config of %v names layers %q, its layer is %s", image.RepoTags, got, digest(layer))
		}
	}
	if got, want := strings.Join(tags, " "), PauseImage+" "+DefaultPauseImage+" "+HelloImage; got != want {
		t.Errorf("the archive has images %s, want %s", got, want)
	}
}

func readTar(t *testing.T, name string) map[string][]byte {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	files := map[string][]byte{}
	for archive := tar.NewReader(file); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[header.Name], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
}
