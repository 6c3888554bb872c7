// Package testing drives Nix over the flake: it evaluates and builds what the
// flake has, without a network, with the stand-in for nixpkgs in the folder beside
// this file and the machine's own Go.
package testing

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/test/servers"
)

// bench is where the package's tests run Nix: a store of their own, and a copy of
// the sources without what is built.
var bench struct {
	err    error
	source string
	env    []string
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "nodeagent-nix-")
	if err == nil {
		err = setUp(dir)
	}
	bench.err = err
	code := m.Run()
	// What Nix builds cannot be written to.
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func setUp(dir string) error {
	for _, program := range []string{"nix", "go"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w; install Debian's nix-bin (make deps)", err)
		}
	}
	caches, err := exec.Command("go", "env", "GOMODCACHE", "GOCACHE").Output()
	if err != nil {
		return fmt.Errorf("ask for Go's caches: %w", err)
	}
	modules, cache, _ := strings.Cut(strings.TrimSpace(string(caches)), "\n")
	bench.source = filepath.Join(dir, "source")
	bench.env = append(os.Environ(),
		"HOME="+dir, "NIX_STORE_DIR="+dir+"/store", "NIX_STATE_DIR="+dir+"/var", "NIX_LOG_DIR="+dir+"/log", "NIX_REMOTE=", "NIX_PATH=",
		"NIX_CONF_DIR="+dir, "NIX_USER_CONF_FILES=",
		"NIX_CONFIG=experimental-features = nix-command flakes\nsandbox = false\nbuild-users-group =\nsubstituters =\nflake-registry =\nwarn-dirty = false\n",
		"NODEAGENT_NIX_PATH="+os.Getenv("PATH"), "NODEAGENT_NIX_GOMODCACHE="+modules, "NODEAGENT_NIX_GOCACHE="+cache)
	// Tests run side by side, and two that made the store at once would be in each
	// other's way.
	store := exec.Command("nix-store", "--init")
	store.Env = bench.env
	if out, err := store.CombinedOutput(); err != nil {
		return fmt.Errorf("make a store: %w\n%s", err, out)
	}
	return copySources("../..", bench.source)
}

// copySources copies what Git would have: not what is built.
func copySources(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		switch {
		case err != nil:
			return err
		case d.IsDir() && (name == ".git" || name == ".cache" || name == "bin" || name == "internal/embedfleet/fleet"), name == "result":
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), content, 0o644)
	})
}

// needNix skips where there is no Nix; in CI that is a failure.
func needNix(t *testing.T) {
	t.Helper()
	servers.Require(t, "drives Nix", func() error { return bench.err }, "CI=true")
}

// nix runs Nix with the stand-in, and returns what it says on both outputs.
func nix(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	needNix(t)
	var out, errors bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "nix", args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = bench.source, bench.env, &out, &errors
	err = cmd.Run()
	return out.String(), errors.String(), err
}

// flake are the flags that name the flake's nixpkgs.
func flake(args ...string) []string {
	return append(args, "--impure", "--no-write-lock-file", "--override-input", "nixpkgs", "path:"+filepath.Join(bench.source, "nix/testing/nixpkgs"))
}

// build builds an attribute of the flake and returns its store path.
func build(t *testing.T, attribute string) string {
	t.Helper()
	return result(t, flake("path:"+bench.source+"#"+attribute)...)
}

// result builds what the arguments say and returns its store path.
func result(t *testing.T, args ...string) string {
	t.Helper()
	link := filepath.Join(t.TempDir(), "result")
	_, stderr, err := nix(t, append([]string{"build", "-L", "-o", link}, args...)...)
	if err != nil {
		t.Fatalf("build %s: %v\n%s", args, err, stderr)
	}
	path, err := os.Readlink(link)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// eval evaluates an expression in which `lib` and `pkgs` are the stand-in's, and
// reads its value.
func eval(t *testing.T, expression string, into any) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "expression.nix")
	text := fmt.Sprintf(`let
  source = %q;
  lib = import (source + "/nix/testing/nixpkgs/lib.nix") // { inherit nixosSystem; };
  pkgsFor = system: import (source + "/nix/testing/nixpkgs/pkgs.nix") { inherit lib system; };
  pkgs = pkgsFor "x86_64-linux";
  nixosSystem = import (source + "/nix/testing/nixpkgs/nixos.nix") { inherit lib pkgsFor; };
  nodeagent = pkgs: pkgs.callPackage (source + "/nix/package.nix") { };
  mkNodeagent = args: import (source + "/nix/mknodeagent.nix") (args // { package = nodeagent pkgs; validator = nodeagent pkgs; });
  module = import (source + "/nix/module.nix") { inherit nodeagent mkNodeagent; };
  system = more: (nixosSystem { modules = [ module more ]; }).config;
in
%s`, bench.source, expression)
	must(t, os.WriteFile(file, []byte(text), 0o644))
	stdout, stderr, err := nix(t, "eval", "--impure", "--json", "--file", file)
	if err != nil {
		t.Fatalf("evaluate: %v\n%s", err, stderr)
	}
	must(t, json.Unmarshal([]byte(stdout), into))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
