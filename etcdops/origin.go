package etcdops

import (
	"fmt"
	"strings"
)

// warnOfOrigin tells what the manifest says that whoever restores should know:
// who took the snapshot, of which member, and what of its surroundings this
// host does not have any more.
func (p *RestorePlan) warnOfOrigin(now Surroundings) {
	warn := func(format string, args ...any) { p.Warnings = append(p.Warnings, fmt.Sprintf(format, args...)) }
	if s := p.Snapshot.Signature; !s.Sure() {
		warn("the snapshot is %s", s.Text)
	}
	m := p.Snapshot.Manifest
	if m == nil {
		return
	}
	if m.WithoutQuorum {
		warn("the snapshot was taken of %s while the cluster had no quorum: what the others had agreed on without it is missing", m.MemberName)
	}
	if c := m.Compared; c != nil && len(c.Differ) > 0 {
		warn("when the snapshot was taken of %s, the data of %s differed from it; most members agreed with it", m.MemberName, strings.Join(c.Differ, ", "))
	}
	for _, lost := range m.Lost(now) {
		warn("%s", lost)
	}
}
