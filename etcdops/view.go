package etcdops

import (
	"cmp"
	"slices"
	"time"
)

// View is what one host saw of the etcd cluster at one moment: the fleet's
// members and the cluster's, side by side. What is decided about a cluster is
// decided from a View, by functions that ask nobody.
type View struct {
	Taken time.Time `json:"taken"`
	// ClusterID is hexadecimal as etcdctl prints it, empty where nobody answers.
	ClusterID string `json:"clusterID,omitempty"`
	// Quorum is true when a read that needs the quorum was answered.
	Quorum bool `json:"quorum"`
	// Leader is the name of the leading member, empty where there is none.
	Leader string `json:"leader,omitempty"`
	// Voters vote; Serving of them are in reach and have a leader. Bears is how
	// many more of those could fail while the quorum stays; negative without one.
	Voters  int `json:"voters"`
	Serving int `json:"serving"`
	Bears   int `json:"bears"`
	// Members are all of the member list and of the fleet, sorted by name.
	Members []MemberView `json:"members"`
	Alarms  []AlarmView  `json:"alarms,omitempty"`
	// HashRevision is the revision at which hashes were compared, 0 where not.
	HashRevision int64 `json:"hashRevision,omitempty"`
	// HashError says why hashes could not be compared.
	HashError string `json:"hashError,omitempty"`
}

// MemberView is one member, of the cluster or only of the fleet.
type MemberView struct {
	Name string `json:"name"` // the fleet's where the member has not started yet
	// ID is hexadecimal, empty where the member list has no such member.
	ID string `json:"id,omitempty"`
	// Fleet is what the fleet wants of it; nil for a member that is no host of it.
	Fleet *Member `json:"fleet,omitempty"`
	// Listed: the member list has it. Started: it has once told the cluster its
	// name and client URLs.
	Listed     bool     `json:"listed"`
	Started    bool     `json:"started"`
	PeerURLs   []string `json:"peerURLs,omitempty"`
	ClientURLs []string `json:"clientURLs,omitempty"`
	Learner    bool     `json:"learner,omitempty"`
	// Endpoint is where it was asked. What follows is set where it Answers.
	Endpoint string `json:"endpoint,omitempty"`
	Answers  bool   `json:"answers"`
	// Error says why it does not answer, or what it could not answer.
	Error string `json:"error,omitempty"`
	// OtherCluster is the id of the cluster that it says it is of, where that is
	// not the one that the others are of.
	OtherCluster string        `json:"otherCluster,omitempty"`
	Leader       bool          `json:"leader,omitempty"`
	HasLeader    bool          `json:"hasLeader,omitempty"`
	Latency      time.Duration `json:"latency,omitempty"`
	Version      string        `json:"version,omitempty"`
	Storage      string        `json:"storageVersion,omitempty"`
	// DBSize is the size of its database file in bytes, DBInUse what is used of
	// it, Quota where it stops taking writes (0: it is too old to say).
	DBSize  int64 `json:"dbSize,omitempty"`
	DBInUse int64 `json:"dbInUse,omitempty"`
	Quota   int64 `json:"quota,omitempty"`
	// Revision of its data; RaftApplied is the last entry that it applied, Lag
	// how many of the leader's that is behind.
	Revision    int64  `json:"revision,omitempty"`
	RaftTerm    uint64 `json:"raftTerm,omitempty"`
	RaftIndex   uint64 `json:"raftIndex,omitempty"`
	RaftApplied uint64 `json:"raftApplied,omitempty"`
	Lag         uint64 `json:"lag"`
	// Hash is of all keys up to the view's HashRevision, 0 where it was not asked.
	Hash uint32 `json:"hash,omitempty"`
	// Errors are what it complains of itself.
	Errors []string `json:"errors,omitempty"`

	id uint64
}

// AlarmView is an alarm that is on: the cluster takes no writes (NOSPACE) or
// answers nothing (CORRUPT) until it is off.
type AlarmView struct {
	Kind   string `json:"kind"` // NOSPACE or CORRUPT
	Member string `json:"member"`
	// Gone: the member is not in the member list any more.
	Gone bool `json:"gone,omitempty"`

	id uint64
}

// The kinds of alarms, as etcd names them.
const (
	AlarmNoSpace = "NOSPACE"
	AlarmCorrupt = "CORRUPT"
)

// inStep is how many raft entries a member may be behind the leader and still be
// in step: members are asked a moment apart while the others write on.
const inStep = 1000

// Fragmentation is the share of the database file that is free, 0 to 1.
func (m MemberView) Fragmentation() float64 {
	if m.DBSize <= 0 || m.DBInUse >= m.DBSize {
		return 0
	}
	return 1 - float64(m.DBInUse)/float64(m.DBSize)
}

// QuotaUse is the share of the quota that the database file takes; 0 where the
// quota is not known.
func (m MemberView) QuotaUse() float64 {
	if m.Quota <= 0 {
		return 0
	}
	return float64(m.DBSize) / float64(m.Quota)
}

// Votes tells whether the member counts for the quorum.
func (m MemberView) Votes() bool { return m.Listed && !m.Learner }

// Serves tells whether a voter does its part now.
func (m MemberView) Serves() bool {
	return m.Votes() && m.Answers && m.HasLeader && m.OtherCluster == ""
}

// InStep tells whether the member answers and is not behind.
func (m MemberView) InStep() bool {
	return m.Answers && m.HasLeader && m.OtherCluster == "" && m.Lag <= inStep
}

// member finds a member by its name in the fleet or the cluster.
func (v View) member(name string) (MemberView, bool) {
	i := slices.IndexFunc(v.Members, func(m MemberView) bool { return m.Name == name })
	if i < 0 {
		return MemberView{}, false
	}
	return v.Members[i], true
}

// listed are the members of the member list.
func (v View) listed() []MemberView {
	return slices.DeleteFunc(slices.Clone(v.Members), func(m MemberView) bool { return !m.Listed })
}

// alarmed tells whether an alarm of the kind is on.
func (v View) alarmed(kind string) bool {
	return slices.ContainsFunc(v.Alarms, func(a AlarmView) bool { return a.Kind == kind })
}

// quorum is how many of n voters have to agree.
func quorum(n int) int { return n/2 + 1 }

// finish sums the members up.
func (v *View) finish() {
	slices.SortFunc(v.Members, func(a, b MemberView) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	var applied uint64
	for i := range v.Members {
		m := &v.Members[i]
		if m.Votes() {
			v.Voters++
		}
		if m.Serves() {
			v.Serving++
		}
		if m.Leader && m.RaftTerm >= applied { // of two that believe so the later one leads
			applied, v.Leader = m.RaftTerm, m.Name
		}
	}
	v.Bears = v.Serving - quorum(v.Voters)
	if leader, found := v.member(v.Leader); found {
		for i := range v.Members {
			if m := &v.Members[i]; m.Answers && leader.RaftIndex > m.RaftApplied {
				m.Lag = leader.RaftIndex - m.RaftApplied
			}
		}
	}
}
