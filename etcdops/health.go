package etcdops

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
)

// Health is what the asked members say of themselves and of their cluster.
type Health struct {
	// Healthy is true when a read that needs the quorum was answered.
	Healthy bool `json:"healthy"`
	// ClusterID is hexadecimal as etcdctl prints it.
	ClusterID string `json:"clusterID"`
	// Leader is the name of the leading member, empty where there is none.
	Leader string `json:"leader"`
	// Members are all of the cluster, sorted by name.
	Members []MemberHealth `json:"members"`
	// Alarms as "NOSPACE on <member>".
	Alarms []string `json:"alarms,omitempty"`
}

// MemberHealth is one member of the cluster.
type MemberHealth struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"` // empty until it has started once
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
	Learner    bool     `json:"learner"`

	// Endpoint is where it was asked; what follows is empty where it was not,
	// or did not answer.
	Endpoint string `json:"endpoint,omitempty"`
	Version  string `json:"version,omitempty"`
	// DBSize is the size of the database in bytes, DBInUse the part of it that a
	// defragmentation would leave.
	DBSize    int64  `json:"dbSize,omitempty"`
	DBInUse   int64  `json:"dbInUse,omitempty"`
	Revision  int64  `json:"revision,omitempty"`
	RaftTerm  uint64 `json:"raftTerm,omitempty"`
	RaftIndex uint64 `json:"raftIndex,omitempty"`
	// Latency is the time that its answer took, a connection included.
	Latency time.Duration `json:"latency,omitempty"`
	Errors  []string      `json:"errors,omitempty"`
}

// AskHealth asks each endpoint (a client URL, one for each member to be asked)
// for its state, all at once, and the cluster for its members and alarms. It
// returns what it learned together with an error naming what did not answer.
// No connection stays open.
func AskHealth(ctx context.Context, files TLS, endpoints []string) (Health, error) {
	if len(endpoints) == 0 {
		return Health{}, errors.New("ask etcd for its health: no endpoint given")
	}
	return health(sightAll(ctx, files, endpoints))
}

// health joins the answers. It is pure.
func health(answers []sight) (Health, error) {
	var h Health
	var failed []error
	byID := map[uint64]*MemberHealth{}
	alarms := map[string]bool{}
	var leader uint64
	h.Healthy = anyQuorum(answers)
	for _, a := range answers {
		failed = append(failed, a.err)
		if a.members != nil {
			for _, m := range a.members.Members {
				if byID[m.ID] == nil {
					byID[m.ID] = &MemberHealth{ID: idText(m.ID), Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Learner: m.IsLearner}
				}
			}
		}
		if a.status != nil {
			h.ClusterID, leader = idText(a.status.Header.GetClusterId()), max(leader, a.status.Leader)
		}
	}
	for _, a := range answers {
		if a.status != nil {
			addStatus(byID, a)
		}
		if a.alarms != nil && a.quorum == h.Healthy {
			for _, alarm := range a.alarms.Alarms {
				alarms[alarm.Alarm.String()+" on "+memberName(byID, alarm.MemberID)] = true
			}
		}
	}
	if leader != 0 {
		h.Leader = memberName(byID, leader)
	}
	for _, m := range byID {
		h.Members = append(h.Members, *m)
	}
	slices.SortFunc(h.Members, func(a, b MemberHealth) int { return strings.Compare(a.Name+a.ID, b.Name+b.ID) })
	for alarm := range alarms {
		h.Alarms = append(h.Alarms, alarm)
	}
	slices.Sort(h.Alarms)
	return h, errors.Join(failed...)
}

func addStatus(byID map[uint64]*MemberHealth, a sight) {
	id := a.status.Header.GetMemberId()
	m := byID[id]
	if m == nil {
		m = &MemberHealth{ID: idText(id)}
		byID[id] = m
	}
	m.Endpoint, m.Latency, m.Version = a.endpoint, a.latency, a.status.Version
	m.DBSize, m.DBInUse = a.status.DbSize, a.status.DbSizeInUse
	m.Revision, m.RaftTerm, m.RaftIndex = a.status.Header.GetRevision(), a.status.RaftTerm, a.status.RaftIndex
	m.Errors = a.status.Errors
}

func memberName(byID map[uint64]*MemberHealth, id uint64) string {
	if m := byID[id]; m != nil && m.Name != "" {
		return m.Name
	}
	return idText(id)
}
