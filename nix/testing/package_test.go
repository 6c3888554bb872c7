package testing

import (
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPackage: the package has the program with its unit, manual pages and
// completions. One for another processor has the same, made by what runs here.
func TestPackage(t *testing.T) {
	t.Parallel()
	here, other := buildFor(t, "x86_64-linux"), buildFor(t, "aarch64-linux")
	for path, machine := range map[string]elf.Machine{here: elf.EM_X86_64, other: elf.EM_AARCH64} {
		program, err := elf.Open(path + "/bin/nodeagent")
		must(t, err)
		if program.Machine != machine {
			t.Errorf("%s is built for %s, want %s", path, program.Machine, machine)
		}
		must(t, program.Close())
	}
	share := below(t, here+"/share")
	if diff := cmp.Diff(share, below(t, other+"/share")); diff != "" {
		t.Errorf("for another processor there is more or less than another program: %s", diff)
	}
	for name, want := range map[string]string{
		"man/man1/nodeagent.1":                     `1 "2026\-05\-04" "nodeagent 1.2.3"`,
		"man/man1/nodeagent-snapshot-restore.1":    `.SH "OPTIONS"`,
		"man/man5/nodeagent-spec.5":                "kubernetes.pod_range",
		"bash-completion/completions/nodeagent":    "__start_nodeagent nodeagent",
		"zsh/site-functions/_nodeagent":            "#compdef nodeagent",
		"fish/vendor_completions.d/nodeagent.fish": "complete -c nodeagent",
	} {
		if !strings.Contains(share[name], want) {
			t.Errorf("%s has no %q: %.300q", name, want, share[name])
		}
	}
	unit, err := os.ReadFile(here + "/lib/systemd/system/nodeagent.service")
	must(t, err)
	if !strings.Contains(string(unit), "\nExecStart="+here+"/bin/nodeagent run\n") {
		t.Errorf("the unit starts another program:\n%s", unit)
	}
}

// buildFor builds the package for a system, here, and returns its store path.
func buildFor(t *testing.T, system string) string {
	t.Helper()
	return result(t, "--impure", "--expr", fmt.Sprintf(`
let
  lib = import %[1]s/nix/testing/nixpkgs/lib.nix;
  pkgs = import %[1]s/nix/testing/nixpkgs/pkgs.nix { inherit lib; system = "x86_64-linux"; host = %[2]q; };
in pkgs.callPackage %[1]s/nix/package.nix { version = "1.2.3"; commitTime = "2026-05-04T03:02:01Z"; }`, bench.source, system))
}

// below is what the files in a folder and below hold, by their paths within it.
func below(t *testing.T, dir string) map[string]string {
	t.Helper()
	held := map[string]string{}
	folder := os.DirFS(dir)
	must(t, fs.WalkDir(folder, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		content, err := fs.ReadFile(folder, name)
		held[name] = string(content)
		return err
	}))
	return held
}
