// Command vendorhash computes vendorHash, the hash of the folder that `go mod
// vendor` makes, which Nix's buildGoModule asks for. It needs no Nix.
//
//	go run ./nix/vendorhash          compare nix/vendor-hash with what it should be
//	go run ./nix/vendorhash -write   and write that
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/nix/nar"
)

// file has the hash, for nix/package.nix to read.
const file = "nix/vendor-hash"

func main() {
	write := flag.Bool("write", false, "write the hash to "+file)
	flag.Parse()
	if err := run(".", *write); err != nil {
		fmt.Fprintln(os.Stderr, "vendorhash:", err)
		os.Exit(1)
	}
}

func run(module string, write bool) error {
	hash, err := hashOf(module)
	if err != nil {
		return err
	}
	path := filepath.Join(module, file)
	if write {
		fmt.Println(hash)
		return atomicfile.Write(path, []byte(hash+"\n"), 0o644)
	}
	is, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("%w; run: make vendor-hash", err)
	}
	if was := strings.TrimSpace(string(is)); was != hash {
		return fmt.Errorf("%s is stale: it has %s, and the modules of go.mod have %s; run: make vendor-hash", file, was, hash)
	}
	return nil
}

// hashOf vendors a module's requirements into a folder of its own, which is
// removed again. buildGoModule (pkgs/build-support/go/module.nix in nixpkgs) does
// the same with the folder "vendor", and hashes it.
func hashOf(module string) (string, error) {
	scratch, err := os.MkdirTemp("", "vendorhash-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch)
	vendor := filepath.Join(scratch, "vendor")
	cmd := exec.Command("go", "mod", "vendor", "-o", vendor)
	cmd.Dir = module
	// A workspace or flags of the caller's would vendor something else.
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go mod vendor: %w\n%s", err, out)
	}
	return nar.Hash(vendor)
}
