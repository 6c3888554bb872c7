package etcdops

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/config"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/etcdserver/api/snap"
	"go.etcd.io/etcd/server/v3/etcdserver/cindex"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// seed makes of the database in a data folder the data of a member of a new
// cluster: what `etcdutl snapshot restore` does once it has copied the file, with
// etcd's own code for every part. etcdutl copies the whole database and opens it
// five times; here it is where it stays, and is opened once. TestSeed holds both
// against each other.
type seed struct {
	// Dir is the data folder, whose database lies in member/snap/db.
	Dir     string
	Host    string
	Members []Member
	Token   string
	// Bump raises the revision above Latest, the last one in the database, and marks
	// what was before as compacted; 0 leaves it.
	Bump   uint64
	Latest int64
}

// plant does it. An error leaves a folder that is good for nothing.
func (s seed) plant() (err error) {
	log := quiet()
	cluster, err := s.cluster(log)
	if err != nil {
		return err
	}
	snapDir := filepath.Join(s.Dir, "member", "snap")
	be := backend.NewDefaultBackend(log, filepath.Join(snapDir, "db"))
	defer func() { err = errors.Join(err, be.Close()) }() // which commits
	members := schema.NewMembershipBackend(log, be)
	if err := members.TrimMembershipFromBackend(); err != nil {
		return err
	}
	if s.Bump > 0 {
		bump(be, s.Latest+int64(s.Bump))
	}
	cluster.SetBackend(members)
	for _, m := range cluster.Members() {
		cluster.AddMember(m, true)
	}
	state, err := s.begin(log, cluster, snapDir)
	if err != nil {
		return err
	}
	cindex.UpdateConsistentIndexForce(be.BatchTx(), state.GetCommit(), state.GetTerm())
	return nil
}

// cluster is the new one, as etcd computes its ids from members and token.
func (s seed) cluster(log *zap.Logger) (*membership.RaftCluster, error) {
	initial, err := types.NewURLsMap(initialCluster(s.Members))
	if err != nil {
		return nil, err
	}
	server := config.ServerConfig{Logger: log, Name: s.Host, PeerURLs: initial[s.Host], InitialPeerURLsMap: initial, InitialClusterToken: s.Token}
	if err := server.VerifyBootstrap(); err != nil {
		return nil, err
	}
	return membership.NewClusterFromURLsMap(log, s.Token, initial)
}

// bump puts a revision above all that clients may have seen, and has everything
// before it compacted at the start.
func bump(be backend.Backend, to int64) {
	tx := be.BatchTx()
	tx.LockOutsideApply()
	defer tx.Unlock()
	tx.UnsafePut(schema.Key, mvcc.RevToBytes(mvcc.Revision{Main: to}, mvcc.NewRevBytes()), []byte{})
	mvcc.UnsafeSetScheduledCompact(tx, to)
}

// begin writes the log of a cluster whose first entries add its members, and the
// snapshot of that.
func (s seed) begin(log *zap.Logger, cluster *membership.RaftCluster, snapDir string) (_ *raftpb.HardState, err error) {
	walDir := filepath.Join(s.Dir, "member", "wal")
	if err := atomicfile.MkdirAll(walDir, 0o700); err != nil {
		return nil, err
	}
	self := cluster.MemberByName(s.Host)
	if self == nil {
		return nil, fmt.Errorf("%s is no member of %s", s.Host, initialCluster(s.Members))
	}
	metadata, err := proto.Marshal(&etcdserverpb.Metadata{NodeID: new(uint64(self.ID)), ClusterID: new(uint64(cluster.ID()))})
	if err != nil {
		return nil, err
	}
	w, err := wal.Create(log, walDir, metadata)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	entries, voters, err := joining(cluster)
	if err != nil {
		return nil, err
	}
	commit, term := uint64(len(entries)), uint64(1)
	state := &raftpb.HardState{Term: new(term), Vote: new(voters[0]), Commit: new(commit)}
	if err := w.Save(state, entries); err != nil {
		return nil, err
	}
	conf := &raftpb.ConfState{Voters: voters}
	if err := snap.New(log, snapDir).SaveSnap(&raftpb.Snapshot{
		Data:     etcdserver.GetMembershipInfoInV2Format(log, cluster),
		Metadata: &raftpb.SnapshotMetadata{Index: new(commit), Term: new(term), ConfState: conf},
	}); err != nil {
		return nil, err
	}
	return state, w.SaveSnapshot(&walpb.Snapshot{Index: new(commit), Term: new(term), ConfState: conf})
}

// joining are the entries that add the members, and their ids, in one order.
func joining(cluster *membership.RaftCluster) (entries []*raftpb.Entry, voters []uint64, err error) {
	for i, id := range cluster.MemberIDs() {
		about, err := json.Marshal(cluster.Member(id))
		if err != nil {
			return nil, nil, err
		}
		data, err := proto.Marshal(&raftpb.ConfChange{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: new(uint64(id)), Context: about})
		if err != nil {
			return nil, nil, err
		}
		entries = append(entries, &raftpb.Entry{Type: raftpb.EntryConfChange.Enum(), Term: new(uint64(1)), Index: new(uint64(i + 1)), Data: data})
		voters = append(voters, uint64(id))
	}
	return entries, voters, nil
}
