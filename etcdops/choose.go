package etcdops

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrMembersDiffer is the error of a cluster whose members hold different data,
// so that nobody can tell which of them is right.
var ErrMembersDiffer = errors.New("the members' data differ")

// choice is what was decided about which members may be saved.
type choice struct {
	// members that may be saved, the best one first; at least one.
	members []MemberView
	// compared is what is known of the others, seen from each of them.
	compared Comparison
	// byHash are the names of those that were compared, by their hash.
	byHash map[uint32][]string
}

// chooseMembers decides which members are worth to be saved, best first: one
// that holds what the majority does, has no alarm CORRUPT and is in step, a
// follower before the leader, which has enough to do, and the host's own before
// another's, which comes over the network. Without a quorum the one that has
// applied most is best. It is pure.
func chooseMembers(v View, self string) (choice, error) {
	c := choice{byHash: map[uint32][]string{}}
	c.compared.Skipped = v.HashError
	c.compared.Revision = v.HashRevision
	var refused []error
	for _, m := range v.Members {
		if m.Answers && m.Hash != 0 {
			c.byHash[m.Hash] = append(c.byHash[m.Hash], m.Name)
		}
		switch why := v.unfit(m); {
		case why == "":
			c.members = append(c.members, m)
		default:
			refused = append(refused, fmt.Errorf("%s: %s", m.Name, why))
			if !m.Answers {
				c.unreachable(m)
			}
		}
	}
	if len(c.members) == 0 {
		return choice{}, fmt.Errorf("no member of etcd can be saved: %w", errors.Join(refused...))
	}
	if err := c.majority(v); err != nil {
		return choice{}, err
	}
	c.order(v, self)
	return c, nil
}

// unfit says why a member is not to be saved, empty for one that may be.
func (v View) unfit(m MemberView) string {
	corrupt := func(a AlarmView) bool { return a.Kind == AlarmCorrupt && !a.Gone && a.Member == m.Name }
	switch {
	case m.OtherCluster != "":
		return "it is of another cluster, " + m.OtherCluster
	case !m.Answers:
		return cmp.Or(m.Error, "it does not answer")
	case !m.Listed:
		return "the cluster does not have it"
	case m.Learner:
		return "it is a learner, which sends no snapshot"
	case slices.ContainsFunc(v.Alarms, corrupt):
		return "it has the alarm CORRUPT: its data differ from the other members'; `nodeagent etcd disarm` says what to do"
	}
	return ""
}

// unreachable notes a member whose data nobody could compare.
func (c *choice) unreachable(m MemberView) {
	if c.compared.Unreachable == nil {
		c.compared.Unreachable = map[string]string{}
	}
	c.compared.Unreachable[m.Name] = firstLine(cmp.Or(m.Error, "it does not answer"))
}

// majority leaves those members whose keys hash as most members' do.
func (c *choice) majority(v View) error {
	if len(c.byHash) < 2 {
		return nil
	}
	all := 0
	best := uint32(0)
	for hash, names := range c.byHash {
		all += len(names)
		if best == 0 || len(names) > len(c.byHash[best]) {
			best = hash
		}
	}
	if 2*len(c.byHash[best]) <= all {
		return fmt.Errorf("%w at revision %d (%s), and no majority tells which one is right: find out which holds what should be there (`nodeagent etcd status`, and ETCDCTL_API=3 etcdctl get of what you know), "+
			"keep a copy of each with `etcdctl snapshot save`, and replace the wrong one with `nodeagent etcd replace`", ErrMembersDiffer, v.HashRevision, groups(c.byHash))
	}
	c.members = slices.DeleteFunc(c.members, func(m MemberView) bool { return m.Hash != best })
	if len(c.members) == 0 {
		return fmt.Errorf("%w at revision %d (%s), and of those that agree none can be saved", ErrMembersDiffer, v.HashRevision, groups(c.byHash))
	}
	return nil
}

// order puts the best member first.
func (c *choice) order(v View, self string) {
	rank := func(yes bool) int {
		if yes {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(c.members, func(a, b MemberView) int {
		if !v.Quorum {
			return cmp.Or(cmp.Compare(b.RaftApplied, a.RaftApplied), cmp.Compare(rank(a.Name == self), rank(b.Name == self)))
		}
		return cmp.Or(
			cmp.Compare(rank(a.InStep()), rank(b.InStep())),
			cmp.Compare(rank(!a.Leader), rank(!b.Leader)),
			cmp.Compare(rank(a.Name == self), rank(b.Name == self)),
			cmp.Compare(a.Lag/inStep, b.Lag/inStep),
		)
	})
}

// comparison is what the manifest says when m is saved; nil for a member that
// has no others.
func (c choice) comparison(m MemberView, v View) *Comparison {
	if len(v.listed()) < 2 {
		return nil
	}
	compared := c.compared
	compared.Hash = m.Hash
	if m.Hash == 0 && compared.Skipped == "" {
		compared.Skipped = "no other member could be asked"
	}
	for hash, names := range c.byHash {
		for _, name := range names {
			switch {
			case name == m.Name || m.Hash == 0:
			case hash == m.Hash:
				compared.Agree = append(compared.Agree, name)
			default:
				compared.Differ = append(compared.Differ, name)
			}
		}
	}
	if len(compared.Agree)+len(compared.Differ) == 0 {
		compared.Revision, compared.Hash = 0, 0
		compared.Skipped = cmp.Or(compared.Skipped, "no other member could be asked")
	}
	slices.Sort(compared.Agree)
	slices.Sort(compared.Differ)
	return &compared
}

// describe fills in what the view says of the cluster and of m.
func (c choice) describe(m *Manifest, chosen MemberView, v View) {
	m.ClusterID, m.MemberID, m.MemberName, m.Endpoint = v.ClusterID, chosen.ID, chosen.Name, chosen.Endpoint
	m.WithoutQuorum = !v.Quorum
	m.Compared = c.comparison(chosen, v)
	for _, a := range v.Alarms {
		if !slices.Contains(m.Alarms, a.Kind) {
			m.Alarms = append(m.Alarms, a.Kind)
		}
	}
	for _, other := range v.listed() {
		name := other.Name
		if !other.Started {
			name = ""
		}
		m.Members = append(m.Members, ManifestMember{Name: name, ID: other.ID, PeerURLs: other.PeerURLs, ClientURLs: other.ClientURLs, Learner: other.Learner})
	}
	slices.SortFunc(m.Members, func(a, b ManifestMember) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
	})
}
