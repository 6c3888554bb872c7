package hosts

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestSourceBehindLinks: a spec names the release that a link leads to, of the
// fleet and of the machine's programs, and not the link.
func TestSourceBehindLinks(t *testing.T) {
	dir := t.TempDir()
	for _, release := range []string{"one", "two"} {
		for _, sub := range []string{"bin", "cni"} {
			if err := os.MkdirAll(filepath.Join(dir, release, sub), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.CopyFS(filepath.Join(dir, release, "fleet"), os.DirFS("fleets/mercury")); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(dir, "current")
	load := func(release string) *Spec {
		t.Helper()
		_ = os.Remove(link)
		if err := os.Symlink(release, link); err != nil {
			t.Fatal(err)
		}
		source := Source{Dir: filepath.Join(link, "fleet"), Binaries: filepath.Join(link, "bin"), CNIBinaries: filepath.Join(link, "cni")}
		fleet, err := source.Load()
		if err != nil {
			t.Fatal(err)
		}
		if fleet.Dir != source.Dir {
			t.Errorf("people named the fleet %s, not %s", source.Dir, fleet.Dir)
		}
		return fleet.Hosts[0]
	}
	one, two := load("one"), load("two")
	for _, is := range []struct{ got, want string }{
		{one.Fleet, "one/fleet"},
		{two.Fleet, "two/fleet"},
		{two.Kubernetes.Binaries, "two/bin"},
		{two.Kubernetes.CNIBinaries, "two/cni"},
	} {
		if is.got != filepath.Join(dir, is.want) {
			t.Errorf("%s, want %s", is.got, is.want)
		}
	}
	if one.Digest != two.Digest || one.SamePrograms(two) || !two.SamePrograms(load("two")) {
		t.Error("the same files with other programs are told apart by SamePrograms alone")
	}
}

// TestSourceWithin reads a fleet that is no folder, and says so of a bad one.
func TestSourceWithin(t *testing.T) {
	fleet, err := Source{Dir: "/nowhere", FS: os.DirFS("fleets/mercury")}.Load()
	if err != nil {
		t.Fatal(err)
	}
	if fleet.Dir != Embedded || fleet.Hosts[0].Fleet != Embedded {
		t.Errorf("%s and %s, want %s", fleet.Dir, fleet.Hosts[0].Fleet, Embedded)
	}
	var invalid *InvalidError
	if _, err := (Source{FS: folder(map[string]string{"cluster.toml": "nonsense"})}).Load(); !errors.As(err, &invalid) || invalid.Dir != Embedded {
		t.Errorf("%v, want the problems of %s", err, Embedded)
	}
}

// TestSourceSpecWins: what a fleet says of its programs is not the machine's to say.
func TestSourceSpecWins(t *testing.T) {
	files := map[string]string{
		"cluster.toml": plainCluster + "[kubernetes]\nversion = \"1.36.3\"\npod_range = \"10.244.0.0/16\"\nservice_range = \"10.96.0.0/12\"\nbinaries = \"/opt/k8s\"\n",
		"a.toml":       "[host]\nroles = [\"control-plane\", \"etcd\", \"worker\"]\naddress = \"192.0.2.1\"\n",
	}
	fleet, err := Source{FS: folder(files), Binaries: "/nix/b", CNIBinaries: "/nix/c"}.Load()
	if err != nil {
		t.Fatal(err)
	}
	if k := fleet.Hosts[0].Kubernetes; k.Binaries != "/opt/k8s" || k.CNIBinaries != "/nix/c" {
		t.Errorf("%s and %s", k.Binaries, k.CNIBinaries)
	}
}
