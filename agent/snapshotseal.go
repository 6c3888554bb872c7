package agent

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"filippo.io/age"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
	"github.com/nodeagent/nodeagent/pki/vault"
)

// sealKey remembers, in memory alone, the key in Vault that snapshots were last
// encrypted with.
type sealKey struct {
	mu  sync.Mutex
	at  hosts.Vault
	of  string
	key *etcdops.SharedKey
}

// sealing is the form of this host's snapshots.
func (h *Host) sealing(ctx context.Context) (etcdops.Sealing, error) {
	s := h.Spec().Snapshots
	recipients, err := etcdops.ParseRecipients(s.Recipients)
	if err != nil {
		return etcdops.Sealing{}, err
	}
	if s.VaultKey != "" {
		key, err := h.snapshotKey(ctx)
		switch {
		case err == nil:
			recipients = append(recipients, key)
		case len(recipients) == 0:
			return etcdops.Sealing{}, fmt.Errorf("encrypt with the key in Vault (snapshots.vault_key): %w; an age recipient beside it (snapshots.recipients) would do without Vault", err)
		default:
			h.log.Warn("the snapshot can be opened by snapshots.recipients alone, not with the key in Vault", "error", err)
		}
	}
	return etcdops.Sealing{Compress: s.Compression == hosts.CompressionZstd, Recipients: recipients}, nil
}

// snapshotKey asks Vault for the key, so that a later version is in use with the
// next snapshot. While Vault cannot be reached, the key that this process has
// had before is used: a snapshot is needed most when other things are down.
// What Vault refuses is refused.
func (h *Host) snapshotKey(ctx context.Context) (*etcdops.SharedKey, error) {
	spec := h.Spec()
	k := &h.seal
	k.mu.Lock()
	defer k.mu.Unlock()
	secret, version, path, err := h.vault(spec).SnapshotKey(ctx, spec.Snapshots.VaultKey)
	if err == nil {
		k.at, k.of, k.key = *spec.PKI.Vault, spec.Snapshots.VaultKey, &etcdops.SharedKey{Path: path, Version: version, Secret: secret}
		return k.key, nil
	}
	if k.key != nil && k.at == *spec.PKI.Vault && k.of == spec.Snapshots.VaultKey && pki.CauseOf(err) == pki.CauseUnreachable {
		h.log.Warn("Vault cannot be reached: the snapshot is encrypted with the key of before", "key", k.key.String(), "error", err)
		return k.key, nil
	}
	return nil, err
}

// VaultIdentity opens snapshots that are encrypted with a key in the Vault of a
// spec's fleet, as that host; nil where the fleet has no Vault. It logs in when a
// snapshot asks for a key, and out again.
func VaultIdentity(ctx context.Context, root layout.Root, spec *hosts.Spec, log *slog.Logger) age.Identity {
	if spec.PKI.Vault == nil {
		return nil
	}
	return &etcdops.SharedIdentity{Context: ctx, Lookup: func(ctx context.Context, path string, version int) ([]byte, error) {
		issuer := vault.New(spec, root, log)
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewellPatience)
			defer cancel()
			_ = issuer.Close(ctx) // the token ends by itself, too
		}()
		return issuer.SnapshotKeyAt(ctx, path, version)
	}}
}
