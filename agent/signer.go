package agent

import (
	"fmt"
	"os"
	"slices"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
)

// signer is the key that signs this host's snapshots. A snapshot is worth more
// than its signature: where the key cannot be read it is taken without one.
func (h *Host) signer() *etcdops.Signer {
	signer, made, err := etcdops.HostSigner(h.root)
	if err != nil {
		h.log.Error("the snapshot is not signed", "error", err)
		return nil
	}
	if made {
		h.log.Info("made the key that signs this host's snapshots", "file", h.root.SnapshotKey(), "public key", signer.PublicKey())
	}
	if why := undeclared(h.Spec(), signer.PublicKey()); why != "" {
		h.log.Warn("the snapshot will be refused", "because", why)
	}
	return signer
}

// undeclared says what is wrong where the fleet names other keys of this host
// than the one that it has.
func undeclared(spec *hosts.Spec, public string) string {
	keys := spec.Snapshots.PublicKeys
	if len(keys) == 0 || slices.Contains(keys, public) {
		return ""
	}
	return fmt.Sprintf("this host signs its snapshots with a key that the fleet does not name, so that they are refused when they are needed: add %q to snapshots.public_keys of %s", public, spec.Name)
}

// signerProblems says what is wrong with the key that signs this host's
// snapshots, where it has one.
func (h *Host) signerProblems() []string {
	if _, err := os.Stat(h.root.SnapshotKey()); err != nil || !h.Spec().Has(hosts.RoleEtcd) {
		return nil
	}
	signer, _, err := etcdops.HostSigner(h.root)
	if err != nil {
		return []string{err.Error()}
	}
	if why := undeclared(h.Spec(), signer.PublicKey()); why != "" {
		return []string{why}
	}
	return nil
}
