package pki

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
)

// Slot is a host's turn among the hosts of its fleet that hold a certificate.
// Time is cut into periods, alike on all of them, and each period into as many
// slots as there are holders; a host renews in its own slot only. So two of them
// never do at once, whenever their certificates were issued.
type Slot struct {
	// Fleet is the cluster's name. It shifts the periods, so that the clusters
	// of one issuer have theirs at different times.
	Fleet string
	// Rank is the host's place among the Of holders in the order of their
	// names, from 0.
	Rank, Of int
}

// slotOf is the slot of a spec's host among the hosts of which holds is true.
// It is the same whichever host of the fleet works it out.
func slotOf(spec *hosts.Spec, holds func([]hosts.Role) bool) Slot {
	s := Slot{Fleet: spec.Cluster, Of: 1}
	for _, p := range spec.Peers {
		if !holds(p.Roles) {
			continue
		}
		s.Of++
		if p.Name < spec.Name {
			s.Rank++
		}
	}
	return s
}

// before is the last moment that is not after t and at which the certificate
// of that name has its turn in the slot: a certificate has one in each period,
// in the first half of the slot. The other half lies between two hosts.
func (s Slot) before(t time.Time, period time.Duration, name string) time.Time {
	if period <= 0 {
		return t
	}
	width := period / time.Duration(max(s.Of, 1))
	turn := width*time.Duration(s.Rank) + share("certificate", name, width/2) + share("fleet", s.Fleet, period)
	past := (t.UnixNano() - int64(turn)) % int64(period)
	if past < 0 { // before 1970
		past += int64(period)
	}
	return t.Add(-time.Duration(past))
}

// share is a part of limit, in [0, limit), that a name determines.
func share(kind, name string, limit time.Duration) time.Duration {
	if limit <= 0 {
		return 0
	}
	// Not a quick hash: of names that differ in their last letter it has nearly
	// the same first bits.
	h := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s", kind, name))
	return time.Duration(float64(limit) * float64(binary.BigEndian.Uint64(h[:])>>11) / (1 << 53))
}
