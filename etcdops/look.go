package etcdops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Site is the cluster as one host knows it from its fleet: whom to ask, and with
// which certificate.
type Site struct {
	TLS TLS
	// Members are all that the fleet wants, as [Members] lists them.
	Members []Member
	// Self is this host's name. Local is where its own member is asked (a client
	// URL), if it has one: its own address may be closed to it.
	Self, Local string
	// Socket is the path of the unix socket by which its own member is saved, if it
	// has one: without TLS, which costs both sides more than the rest of a stream.
	// It need not be there.
	Socket string
}

// endpoint is where a member of the fleet is asked from here.
func (s Site) endpoint(m Member) string {
	if m.Name == s.Self && s.Local != "" {
		return s.Local
	}
	return m.ClientURL
}

// Endpoints are the client URLs of all members of the fleet, the own one first.
func (s Site) Endpoints() []string {
	var own, others []string
	for _, m := range s.Members {
		if m.Name == s.Self {
			own = append(own, s.endpoint(m))
		} else {
			others = append(others, m.ClientURL)
		}
	}
	return append(own, others...)
}

// Look asks every member of the fleet, all at once, and then those that the
// cluster has beside. What does not answer is said in the view; no connection
// stays open. With hashes it has every member hash all of its keys, which reads
// the whole database.
func Look(ctx context.Context, site Site, hashes bool) View {
	var endpoints []string
	for _, m := range site.Members {
		endpoints = append(endpoints, site.endpoint(m))
	}
	sights := sightAll(ctx, site.TLS, endpoints)
	if more := unasked(sights, endpoints); len(more) > 0 {
		sights = append(sights, sightAll(ctx, site.TLS, more)...)
	}
	view := newView(site, sights, time.Now())
	if hashes {
		compareHashes(ctx, site.TLS, &view, MemberView.InStep)
	}
	return view
}

// sight is what one endpoint said.
type sight struct {
	endpoint string
	latency  time.Duration
	status   *clientv3.StatusResponse
	members  *clientv3.MemberListResponse
	alarms   *clientv3.AlarmResponse
	quorum   bool
	err      error
}

func sightAll(ctx context.Context, files TLS, endpoints []string) []sight {
	sights := make([]sight, len(endpoints))
	var wait sync.WaitGroup
	for i, endpoint := range endpoints {
		wait.Go(func() { sights[i] = see(ctx, files, endpoint) })
	}
	wait.Wait()
	return sights
}

func see(ctx context.Context, files TLS, endpoint string) (s sight) {
	s.endpoint = endpoint
	began := time.Now()
	client, err := dial(ctx, files, endpoint)
	if err != nil {
		s.err = err
		return s
	}
	defer func() { s.err = errors.Join(s.err, closeClient(client)) }()
	if s.status, s.err = memberStatus(ctx, client, endpoint); s.err != nil {
		return s
	}
	s.latency = time.Since(began)
	s.alarms = alarmsOf(s.status)
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if s.members, err = client.MemberList(ctx, clientv3.WithSerializable()); err != nil {
		s.err = fmt.Errorf("ask etcd %s for its members: %w", endpoint, err)
		return s
	}
	if s.status.Leader == 0 {
		s.err = fmt.Errorf("etcd %s has no leader", endpoint)
		return s // what follows needs one, and would only wait
	}
	if _, err := client.Get(ctx, "health", clientv3.WithCountOnly()); err != nil {
		s.err = fmt.Errorf("read through the quorum by etcd %s: %w", endpoint, err)
		return s
	}
	s.quorum = true
	alarms, err := client.AlarmList(ctx)
	if err != nil {
		s.err = fmt.Errorf("ask etcd %s for alarms: %w", endpoint, err)
		return s
	}
	s.alarms = alarms
	return s
}

// unasked are client URLs of members that the cluster lists and that were not
// asked yet. One with several is asked at its first.
func unasked(sights []sight, asked []string) []string {
	seen := map[uint64]bool{}
	for _, s := range sights {
		if s.status != nil {
			seen[s.status.Header.GetMemberId()] = true
		}
	}
	var more []string
	for _, s := range sights {
		if s.members == nil {
			continue
		}
		for _, m := range s.members.Members {
			if seen[m.ID] || len(m.ClientURLs) == 0 || slices.ContainsFunc(m.ClientURLs, func(u string) bool { return slices.Contains(asked, u) }) {
				continue
			}
			seen[m.ID] = true
			more = append(more, m.ClientURLs[0])
		}
	}
	return more
}

// newView joins what was said. It is pure.
func newView(site Site, sights []sight, now time.Time) View {
	v := View{Taken: now.UTC()}
	main := mainSight(sights)
	if main != nil {
		v.ClusterID = idText(main.status.Header.GetClusterId())
		for _, m := range main.members.Members {
			v.Members = append(v.Members, MemberView{
				Name: m.Name, ID: idText(m.ID), id: m.ID, Listed: true, Started: len(m.ClientURLs) > 0,
				PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Learner: m.IsLearner,
			})
		}
	}
	v.joinFleet(site)
	alarms := map[AlarmView]bool{}
	v.Quorum = anyQuorum(sights)
	for _, s := range sights {
		v.joinSight(site, s)
		if s.alarms == nil || s.quorum != v.Quorum {
			continue // one that is cut off may not know that an alarm was switched off
		}
		for _, a := range s.alarms.Alarms {
			alarm := AlarmView{Kind: a.Alarm.String(), Member: idText(a.MemberID), id: a.MemberID, Gone: true}
			for _, m := range v.Members {
				if m.id == a.MemberID {
					alarm.Member, alarm.Gone = m.Name, false
				}
			}
			alarms[alarm] = true
		}
	}
	for alarm := range alarms {
		v.Alarms = append(v.Alarms, alarm)
	}
	slices.SortFunc(v.Alarms, func(a, b AlarmView) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Member, b.Member)) })
	v.finish()
	return v
}

// anyQuorum tells whether a majority stands behind any of the answers.
func anyQuorum(sights []sight) bool {
	return slices.ContainsFunc(sights, func(s sight) bool { return s.quorum })
}

// mainSight is the answer that is taken for the cluster's: of those that the
// quorum stands behind, else of all, the one that has applied most.
func mainSight(sights []sight) *sight {
	var best *sight
	for i, s := range sights {
		if s.status == nil || s.members == nil {
			continue
		}
		if best == nil || s.quorum && !best.quorum || s.quorum == best.quorum && s.status.RaftAppliedIndex > best.status.RaftAppliedIndex {
			best = &sights[i]
		}
	}
	return best
}

// joinFleet says which member is which of the fleet's: by its name, and one that
// has not started, or that has none, by a peer URL.
func (v *View) joinFleet(site Site) {
	for _, want := range site.Members {
		i := slices.IndexFunc(v.Members, func(m MemberView) bool { return m.Name == want.Name })
		if i < 0 {
			i = slices.IndexFunc(v.Members, func(m MemberView) bool { return m.Name == "" && slices.Contains(m.PeerURLs, want.PeerURL) })
		}
		if i < 0 {
			v.Members = append(v.Members, MemberView{})
			i = len(v.Members) - 1
		}
		m := &v.Members[i]
		m.Name, m.Fleet, m.Endpoint = want.Name, &want, site.endpoint(want)
	}
	for i := range v.Members {
		if m := &v.Members[i]; m.Fleet == nil {
			m.Name = cmp.Or(m.Name, m.ID)
			m.Endpoint = firstURL(m.ClientURLs)
		}
	}
}

// joinSight adds an answer to the member that gave it, or the lack of one to the
// member that was asked.
func (v *View) joinSight(site Site, s sight) {
	i := -1
	other := ""
	if s.status != nil {
		if id := idText(s.status.Header.GetClusterId()); id != v.ClusterID {
			other = id
		} else {
			i = slices.IndexFunc(v.Members, func(m MemberView) bool { return m.id == s.status.Header.GetMemberId() })
		}
	}
	if i < 0 {
		i = slices.IndexFunc(v.Members, func(m MemberView) bool { return m.Endpoint == s.endpoint })
	}
	if i < 0 {
		return
	}
	m := &v.Members[i]
	m.Endpoint, m.OtherCluster = s.endpoint, other
	if s.err != nil {
		m.Error = s.err.Error()
	}
	if s.status == nil {
		return
	}
	m.Answers, m.Latency, m.Version, m.Storage = true, s.latency, s.status.Version, s.status.StorageVersion
	m.HasLeader, m.Leader = s.status.Leader != 0, other == "" && s.status.Leader == s.status.Header.GetMemberId()
	m.DBSize, m.DBInUse, m.Quota = s.status.DbSize, s.status.DbSizeInUse, s.status.DbSizeQuota
	m.Revision, m.RaftTerm = s.status.Header.GetRevision(), s.status.RaftTerm
	m.RaftIndex, m.RaftApplied = s.status.RaftIndex, s.status.RaftAppliedIndex
	m.Errors = s.status.Errors
}

func firstURL(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}
