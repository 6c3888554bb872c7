package etcdops

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Finding is one thing about a cluster that a person should know.
type Finding struct {
	// Problem: it is not well. Otherwise it is a warning.
	Problem bool `json:"problem"`
	// Member that it is about, empty where it is about all.
	Member string `json:"member,omitempty"`
	Text   string `json:"text"`
	// Remedy says what to do, empty where there is nothing to do.
	Remedy string `json:"remedy,omitempty"`
}

// Bounds from which a view is worth a warning.
const (
	// DefaultThreshold is the fragmentation from which a member is worth its
	// defragmentation, as OpenShift's etcd operator has it.
	DefaultThreshold = 0.45
	// worthDefrag is how many bytes must be free within the file before anybody
	// is told of it.
	worthDefrag = 64 << 20
	quotaWarn   = 0.80
	quotaLimit  = 0.95
)

// Healthy tells whether no finding is a problem.
func Healthy(findings []Finding) bool {
	return !slices.ContainsFunc(findings, func(f Finding) bool { return f.Problem })
}

// Findings judges a view, problems first. It is pure.
func (v View) Findings() []Finding {
	var list []Finding
	add := func(problem bool, member, remedy, format string, args ...any) {
		list = append(list, Finding{Problem: problem, Member: member, Text: fmt.Sprintf(format, args...), Remedy: remedy})
	}
	v.findQuorum(add)
	for _, m := range v.Members {
		if m.Listed {
			v.findMember(m, add)
		} else {
			v.findMissing(m, add)
		}
	}
	v.findAlarms(add)
	v.findDifferences(add)
	slices.SortStableFunc(list, func(a, b Finding) int {
		rank := map[bool]int{true: 0, false: 1}
		return cmp.Compare(rank[a.Problem], rank[b.Problem])
	})
	return list
}

type addFinding func(problem bool, member, remedy, format string, args ...any)

func (v View) findQuorum(add addFinding) {
	switch {
	case v.ClusterID == "":
		add(true, "", "`nodeagent status` on each host tells how its etcd is; where all data is lost, `nodeagent snapshot restore`", "no member of the cluster answers")
	case !v.Quorum && v.Serving < quorum(v.Voters):
		add(true, "", "bring the members back that do not answer; where they are lost for good, restore a snapshot on all members (`nodeagent snapshot restore`)",
			"there is no quorum: %d of %d voting members serve, %d are needed", v.Serving, v.Voters, quorum(v.Voters))
	case !v.Quorum:
		add(true, "", "look again; the members' logs (journalctl -u nodeagent-etcd) say more", "no read through the quorum was answered")
	case v.Bears == 0 && v.Voters > 2:
		add(true, "", "bring back the members that do not answer", "no further member may fail: %d of %d voting members serve", v.Serving, v.Voters)
	}
	if v.Voters > 1 && v.Voters%2 == 0 {
		add(false, "", "have an odd number of voting members", "%d voting members bear no more failures than %d", v.Voters, v.Voters-1)
	}
}

func (v View) findMember(m MemberView, add addFinding) {
	name := m.Name
	switch {
	case m.OtherCluster != "":
		add(true, name, "keep it stopped (systemctl stop nodeagent-etcd on "+name+") and find out which of the two holds the data that counts", "a member of another cluster, %s, answers in its place", m.OtherCluster)
	case !m.Started:
		add(true, name, "start nodeagent on "+name+"; it joins by itself", "it was added and has not started yet")
	case !m.Answers:
		add(true, name, "look at it on "+name+" (nodeagent status); a host that is lost: `nodeagent etcd replace "+name+"` once it is set up again", "it does not answer: %s", firstLine(m.Error))
	case !m.HasLeader:
		add(true, name, "see whether the other members reach it", "it has no leader")
	case m.Lag > inStep:
		add(true, name, "wait; if it does not catch up, look at its disk and network", "it is %d entries behind the leader", m.Lag)
	case m.Error != "":
		add(true, name, "", "it did not answer everything: %s", firstLine(m.Error))
	}
	switch {
	case m.Fleet == nil:
		add(true, name, "`nodeagent etcd replace` does not touch it; if nobody needs it, remove it with etcdctl member remove "+m.ID, "it is a member of the cluster and no host of the fleet with the role etcd")
	case !slices.Contains(m.PeerURLs, m.Fleet.PeerURL):
		add(true, name, "`nodeagent etcd replace "+name+"` joins it anew at the address of the fleet, when the old one is stopped", "the cluster reaches it at %s, the fleet says %s", strings.Join(m.PeerURLs, ", "), m.Fleet.PeerURL)
	}
	if m.Learner && m.Started {
		add(false, name, "`nodeagent etcd replace "+name+"` promotes it when it has caught up", "it is a learner: it has the data and no vote")
	}
	v.findSpace(m, add)
}

func (v View) findSpace(m MemberView, add addFinding) {
	defrag := "`nodeagent etcd defrag --all` gives free space back, where there is some"
	switch use := m.QuotaUse(); {
	case use >= quotaLimit:
		add(true, m.Name, defrag, "its database takes %.0f %% of its quota", 100*use)
	case use >= quotaWarn:
		add(false, m.Name, defrag, "its database takes %.0f %% of its quota", 100*use)
	}
	if m.Fragmentation() >= DefaultThreshold && m.DBSize-m.DBInUse >= worthDefrag {
		add(false, m.Name, defrag, "%.0f %% of its database file is free space (%s)", 100*m.Fragmentation(), bytesText(m.DBSize-m.DBInUse))
	}
}

func (v View) findMissing(m MemberView, add addFinding) {
	switch {
	case v.ClusterID == "":
		add(true, m.Name, "", "it does not answer: %s", firstLine(m.Error))
	case m.OtherCluster != "":
		add(true, m.Name, "keep it stopped (systemctl stop nodeagent-etcd on "+m.Name+") and find out which of the two holds the data that counts", "it is of another cluster, %s", m.OtherCluster)
	default:
		add(true, m.Name, "`nodeagent etcd replace "+m.Name+"` adds it", "the fleet has it as a member, the cluster does not")
	}
}

func (v View) findAlarms(add addFinding) {
	for _, a := range v.Alarms {
		switch {
		case a.Kind == AlarmNoSpace:
			add(true, a.Member, "`nodeagent etcd disarm` makes space and switches the alarm off", "alarm NOSPACE: the cluster takes no writes")
		case a.Kind == AlarmCorrupt && a.Gone:
			add(true, a.Member, "`nodeagent etcd disarm` switches it off when the others' data are alike", "alarm CORRUPT of a member that was removed")
		default:
			add(true, a.Member, "`nodeagent etcd disarm` says what to do", "alarm %s: its data differ from the others'", a.Kind)
		}
	}
}

// findDifferences compares the members with each other.
func (v View) findDifferences(add addFinding) {
	versions, hashes := map[string][]string{}, map[uint32][]string{}
	for _, m := range v.listed() {
		if m.Answers {
			versions[m.Version] = append(versions[m.Version], m.Name)
		}
		if m.Hash != 0 {
			hashes[m.Hash] = append(hashes[m.Hash], m.Name)
		}
	}
	if len(versions) > 1 {
		add(false, "", "end the upgrade, so that all run one version", "members run different versions: %s", groups(versions))
	}
	if len(hashes) > 1 {
		add(true, "", "take a snapshot of a member that is right, and replace the one that differs (`nodeagent etcd disarm` says how)",
			"at revision %d the members' keys differ: %s", v.HashRevision, groups(hashes))
	}
	if v.HashError != "" {
		add(true, "", "ask again", "hashes could not be compared: %s", firstLine(v.HashError))
	}
}

// groups prints "a, b: 3.7.3; c: 3.6.8", the largest group first.
func groups[K comparable](of map[K][]string) string {
	var parts []string
	for key, names := range of {
		parts = append(parts, fmt.Sprintf("%s: %v", strings.Join(names, ", "), key))
	}
	slices.SortFunc(parts, func(a, b string) int {
		return cmp.Or(cmp.Compare(strings.Count(b, ","), strings.Count(a, ",")), cmp.Compare(a, b))
	})
	return strings.Join(parts, "; ")
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
