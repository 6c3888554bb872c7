package etcdops

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Standing is what a host knows of itself before its etcd is started.
type Standing struct {
	Self    Member
	Members []Member // of the fleet, this one among them
	Token   string
	// Data: etcd would find a member in its data folder. Marked: it has once been
	// healthy on this host.
	Data, Marked bool
	// Cluster is the id of the cluster of those data, empty where it is not known.
	Cluster string
	// Existing: the spec says that the host only ever joins. Declared: a person
	// said that a new cluster begins (`nodeagent etcd init`).
	Existing, Declared bool
}

// Begin is how etcd is started.
type Begin string

const (
	// BeginData: with the member in its data folder.
	BeginData Begin = "data"
	// BeginJoin: without data, as a member that a cluster has a place for.
	BeginJoin Begin = "existing"
	// BeginNew: without data, as one of the first members of a new cluster.
	BeginNew Begin = "new"
)

// ErrHeld is the error of a host whose etcd is not started yet, since it is not
// known that no cluster exists.
var ErrHeld = errors.New("etcd is not started yet")

// DecideBegin decides whether and how etcd is started, by what the other hosts'
// peer ports say. A host without data never begins a cluster where one exists:
// it joins if there is a place for it, and otherwise says what to do. Whether
// one exists is known where a member of it answers. Where none does, a silent
// host may be the one that has the data; so a cluster begins only when every
// other host says that it has none, or has begun the very same cluster. It is
// pure. The string is the value of etcd's flag initial-cluster.
func DecideBegin(s Standing, answers []PeerAnswer) (Begin, string, error) {
	if s.Data {
		if err := replacedError(s, answers); err != nil {
			return "", "", err
		}
		return BeginData, "", nil
	}
	if begin, initial, known, err := joinExisting(s, answers); known {
		return begin, initial, err
	}
	if err := wasThere(s, answers); err != nil {
		return "", "", err
	}
	if s.Existing {
		return "", "", fmt.Errorf("%w: etcd.existing says that this host joins a cluster, and no member of one answers", ErrHeld)
	}
	expected, err := newClusterID(s.Members, s.Token)
	if err != nil {
		return "", "", fmt.Errorf("begin a cluster: %w", err)
	}
	formed, silent, err := judgeOthers(s, answers, expected)
	if err != nil {
		return "", "", err
	}
	if len(silent) > 0 && !formed && !s.Declared {
		return "", "", fmt.Errorf("%w: a new cluster begins when all of its hosts say that they hold no data of an older one, and %s say nothing yet; apply nodeagent there, or, if a host is not to be had, begin with `nodeagent etcd init --without HOST`",
			ErrHeld, strings.Join(silent, ", "))
	}
	return BeginNew, initialCluster(s.Members), nil
}

// joinExisting decides where a cluster that exists answers.
func joinExisting(s Standing, answers []PeerAnswer) (_ Begin, initial string, known bool, err error) {
	var from *PeerAnswer
	for i, a := range answers {
		if a.State != PeerServes {
			continue
		}
		if from != nil && from.ClusterID != a.ClusterID {
			return "", "", true, fmt.Errorf("%w: %s and %s are of different clusters, %s and %s; stop the wrong one before this host joins",
				ErrHeld, from.Member.Name, a.Member.Name, from.ClusterID, a.ClusterID)
		}
		if from == nil || place(a, s.Self) != nil {
			from = &answers[i]
		}
	}
	if from == nil {
		return "", "", false, nil
	}
	replace := fmt.Sprintf("`nodeagent etcd replace %s`, on this or another host, gives it a place", s.Self.Name)
	switch mine := place(*from, s.Self); {
	case mine == nil:
		return "", "", true, fmt.Errorf("%w: the cluster exists (%s answers), and this host is no member of it: %s", ErrHeld, from.Member.Name, replace)
	case len(mine.ClientURLs) > 0:
		return "", "", true, fmt.Errorf("%w: %w: the cluster exists (%s answers) and knows this host's member, whose data are not here any more; an empty one must not take its place. %s", ErrHeld, ErrDataLost, from.Member.Name, replace)
	}
	return BeginJoin, joinedCluster(from.Members, s.Self), true, nil
}

// place is the member that a cluster has at the host's peer URL.
func place(a PeerAnswer, self Member) *PeerMember {
	i := slices.IndexFunc(a.Members, func(m PeerMember) bool { return slices.Contains(m.PeerURLs, self.PeerURL) })
	if i < 0 {
		return nil
	}
	return &a.Members[i]
}

// wasThere refuses where a host remembers a cluster, though none answers.
func wasThere(s Standing, answers []PeerAnswer) error {
	if s.Marked {
		return fmt.Errorf("%w: etcd has run on this host, its data folder is empty now, and no member of its cluster answers", ErrDataLost)
	}
	for _, a := range answers {
		if a.State == PeerLost {
			return fmt.Errorf("%w: etcd has run on %s, whose data folder is empty now; an empty cluster does not take its place. "+
				"Restore a snapshot on all hosts (`nodeagent snapshot restore`), or begin anew on purpose with `nodeagent etcd init --again` there", ErrDataLost, a.Member.Name)
		}
	}
	return nil
}

// judgeOthers tells whether another host has begun the very cluster that this
// one would, and which hosts say nothing.
func judgeOthers(s Standing, answers []PeerAnswer, expected string) (formed bool, silent []string, err error) {
	for _, a := range answers {
		switch a.State {
		case PeerForms:
			if a.ClusterID != expected {
				return false, nil, fmt.Errorf("%w: etcd on %s is of cluster %s, not of %s that this fleet's hosts begin: it was restored, or its fleet is another one. Restore the same snapshot here, or apply the same fleet everywhere",
					ErrHeld, a.Member.Name, a.ClusterID, expected)
			}
			formed = true
		case PeerEmpty:
			if initial := initialCluster(s.Members); a.Initial != initial {
				return false, nil, fmt.Errorf("%w: %s would begin a cluster of %s, this host one of %s: apply the same fleet everywhere", ErrHeld, a.Member.Name, a.Initial, initial)
			}
		case PeerHeld:
			return false, nil, fmt.Errorf("%w: %s holds data of the cluster %s and does not start it: see why (`nodeagent etcd init` there), before a new cluster begins", ErrHeld, a.Member.Name, a.ClusterID)
		case PeerSilent:
			silent = append(silent, a.Member.Name)
		}
	}
	return formed, silent, nil
}
