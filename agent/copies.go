package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/etcdops/store"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
	"github.com/nodeagent/nodeagent/pki/vault"
)

// Copies are the places where a host's snapshots are kept: the folder of the
// spec and its copies.
type Copies struct {
	root layout.Root
	spec *hosts.Spec
	log  *slog.Logger
	// vault is whom a copy's access key is asked of where it lies in Vault.
	vault func() *vault.Issuer
}

// Copies are the places of the host's snapshots.
func (h *Host) Copies() *Copies {
	return &Copies{root: h.root, spec: h.Spec(), log: h.log, vault: func() *vault.Issuer { return h.vault(h.Spec()) }}
}

// OpenCopies are the places of a host's snapshots for a command that needs
// nothing else of the host, and may run elsewhere. done gives a login back.
func OpenCopies(root layout.Root, spec *hosts.Spec, log *slog.Logger) (c *Copies, done func()) {
	h := &Host{root: root, log: log, looks: make(chan struct{}, 1)}
	h.spec.Store(spec)
	return h.Copies(), h.closeLogin
}

// Owner is whose snapshots are taken here.
func (c *Copies) Owner() store.Owner { return store.Owner{Cluster: c.spec.Cluster, Host: c.spec.Name} }

// Names are the names of the copies, without that of the folder on the host.
func (c *Copies) Names() []string {
	var names []string
	for _, place := range c.spec.Snapshots.Copies {
		names = append(names, place.Name)
	}
	return names
}

// find is the copy of a name.
func (c *Copies) find(name string) (hosts.Copy, error) {
	i := slices.IndexFunc(c.spec.Snapshots.Copies, func(place hosts.Copy) bool { return place.Name == name })
	if i < 0 {
		return hosts.Copy{}, fmt.Errorf("the spec of host %q has no place %q for snapshots: it has %s", c.spec.Name, name,
			strings.Join(append([]string{hosts.LocalCopy}, c.Names()...), ", "))
	}
	return c.spec.Snapshots.Copies[i], nil
}

// copyPlace is a copy as [store] knows it, not opened.
func copyPlace(at hosts.Copy) store.Place {
	return store.Place{Name: at.Name, Where: store.Where(at), Keep: at.Keep}
}

// Open opens the copy of a name.
func (c *Copies) Open(ctx context.Context, name string) (store.Place, error) {
	at, err := c.find(name)
	if err != nil {
		return store.Place{}, err
	}
	place := copyPlace(at)
	if at.S3 == nil {
		place.Store = store.NewFolder(at.Folder)
		return place, nil
	}
	keys, err := c.keys(ctx, *at.S3)
	if err != nil {
		return place, fmt.Errorf("read the access key of %s: %w", name, err)
	}
	if place.Store, err = store.OpenS3(*at.S3, keys); err != nil {
		return place, fmt.Errorf("open %s: %w", name, err)
	}
	return place, nil
}

// keys reads an access key from where the spec says that it is. It is read each
// time, so that one that was replaced is used.
func (c *Copies) keys(ctx context.Context, at hosts.S3) (store.Keys, error) {
	switch {
	case at.CredentialsFile != "":
		return readKeys(at.CredentialsFile)
	case at.Credential != "":
		return c.credential(at.Credential)
	}
	if c.spec.PKI.Issuer != pki.IssuerVault {
		return store.Keys{}, errors.New("it is in Vault, and pki.issuer of the fleet is not vault: hosts cannot log in there")
	}
	fields, err := c.vault().SnapshotEntry(ctx, at.VaultEntry)
	if err != nil {
		return store.Keys{}, err
	}
	return completeKeys(fields["access_key"], fields["secret_key"], fields["session_token"],
		"the entry "+at.VaultEntry+" in Vault", "access_key", "secret_key")
}

// credential reads a systemd credential of nodeagent.service.
func (c *Copies) credential(name string) (store.Keys, error) {
	paths := credentialFiles(c.root, name)
	for _, path := range paths {
		keys, err := readKeys(path)
		if !isMissing(err) {
			return keys, err
		}
	}
	return store.Keys{}, fmt.Errorf("there is no credential %q (looked at %s): write LoadCredentialEncrypted=%s:… (or LoadCredential=) into nodeagent.service, and restart it",
		name, strings.Join(paths, ", "), name)
}
