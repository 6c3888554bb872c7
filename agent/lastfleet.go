package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// The last valid fleet is kept in the state folder. The agent makes the host's
// network and firewall: were it to refuse its service after a reboot because
// somebody has pushed an invalid file, nobody could reach the host to mend it.

// keptFleet is the link to the folder with the last valid fleet.
func keptFleet(root layout.Root) string { return filepath.Join(root.State(), "fleet", "current") }

// keepFleet copies the files of the fleet with the digest. The link is switched
// when the copy is whole.
func keepFleet(root layout.Root, fleet hosts.Source, digest string) error {
	link := keptFleet(root)
	name := strings.TrimPrefix(digest, "sha256:")
	if is, err := os.Readlink(link); err == nil && is == name {
		return nil
	}
	folder := filepath.Join(filepath.Dir(link), name)
	if err := errors.Join(os.RemoveAll(folder), copyFleet(fleet.Files(), folder)); err != nil {
		return fmt.Errorf("keep the fleet: %w", err)
	}
	if copied, err := hosts.Load(folder); err != nil || copied.Hosts[0].Digest != digest {
		return nil // its files changed since they were read: it is loaded, and kept, anew
	}
	if err := atomicfile.Symlink(name, link); err != nil {
		return fmt.Errorf("keep the fleet: %w", err)
	}
	return dropFleets(filepath.Dir(link), name)
}

func copyFleet(from fs.FS, to string) error {
	if err := atomicfile.MkdirAll(to, 0o700); err != nil {
		return err
	}
	entries, err := fs.ReadDir(from, ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".toml" {
			continue
		}
		content, err := fs.ReadFile(from, e.Name())
		if err != nil {
			return err
		}
		if err := atomicfile.Write(filepath.Join(to, e.Name()), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// dropFleets removes the copies of former fleets.
func dropFleets(dir, current string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("drop former fleets: %w", err)
	}
	var failed []error
	for _, e := range entries {
		if e.IsDir() && e.Name() != current {
			failed = append(failed, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(failed...)
}

// keptSpec is the host's spec in the last valid fleet, with the machine's programs.
func keptSpec(root layout.Root, now hosts.Source, host string) (*hosts.Spec, error) {
	now.Dir, now.FS = keptFleet(root), nil
	fleet, err := now.Load()
	if err != nil {
		return nil, err
	}
	return fleet.Host(host)
}
