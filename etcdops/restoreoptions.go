package etcdops

import (
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// RestoreOptions says what to restore on this host.
type RestoreOptions struct {
	Root layout.Root
	// Snapshot is the file to restore. SkipHash accepts one without a trailer.
	Snapshot string
	SkipHash bool
	// Cluster is the fleet's name of the cluster; a snapshot whose manifest
	// names another one is refused unless OtherCluster.
	Cluster      string
	OtherCluster bool
	// Host is the name of this host's member; Members are all of them.
	Host    string
	Members []Member
	// Token names the new cluster. By default it is a fresh one; where there are
	// several members, one that each of them finds by itself, and that another
	// Attempt (from 1) changes.
	Token   string
	Attempt int
	// Agreed is what another host has planned: exactly that is restored, or
	// nothing. Digest, if set, is the one that somebody expects.
	Agreed *Agreement
	Digest string
	// Fenced are hosts that cannot be reached, of which somebody says that no etcd
	// runs there.
	Fenced []string
	// Others are hosts that may run an etcd beside; Members by default.
	Others []Member
	// UnreadableSecrets restores although the key of the Secrets is missing.
	UnreadableSecrets bool
	// RepairSpace deals with the alarm NOSPACE of a snapshot.
	RepairSpace bool
	// Trial boots a copy of the restored data once, with EtcdBinary, before it
	// becomes live.
	Trial bool
	// KeepRevision leaves revisions as they were in the snapshot: watches and
	// caches of clients that have seen later ones then break. By default the
	// revision is raised by DefaultRevisionBump and all before it compacted.
	KeepRevision bool
	// TLS and Endpoint (a client URL) reach this host's member; Peer, if set, is
	// the certificate of etcd's peers.
	TLS      TLS
	Endpoint string
	Peer     TLS
	// EtcdBinary, if set, is asked for its version.
	EtcdBinary string
	// EncryptionKeys are fingerprints of this host's encryption-at-rest keys, as
	// SaveOptions.EncryptionKey has them.
	EncryptionKeys []string
	// RetiredKeys are those of keys that were dropped and lie in RetiredFile.
	RetiredKeys []string
	RetiredFile string
	// Surroundings are this host's of today.
	Surroundings Surroundings
	// Stop are components stopped before etcd is, in this order: those that
	// write to etcd. They are started again after it.
	Stop []string
	// Restart are components restarted at the end, in this order, because they
	// watch and would wait for revisions that never come.
	Restart []string
	// HealthTimeout is how long etcd may take to prove itself; 3 minutes by
	// default, 15 where other members have to be restored as well.
	HealthTimeout time.Duration
	// Now is the clock's time by default.
	Now time.Time
	OpenOptions
}
