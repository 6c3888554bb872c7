package etcdops

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Notes say in words what whoever relies on the snapshot should know of how it
// was taken; none where all was well.
func (m Manifest) Notes() []string {
	var notes []string
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	if m.WithoutQuorum {
		note("it was taken of %s while the cluster had no quorum: what the others had agreed on without it is missing", m.MemberName)
	}
	c := m.Compared
	if c == nil {
		return notes
	}
	if len(c.Differ) > 0 {
		note("the data of %s differed from that of %s, with which most members agreed", strings.Join(c.Differ, ", "), m.MemberName)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Unreachable)) {
		note("the data of %s could not be compared: %s", name, c.Unreachable[name])
	}
	if c.Skipped != "" {
		note("the members' data were not compared: %s", firstLine(c.Skipped))
	}
	return notes
}

// warnOfOrigin tells what the manifest says that whoever restores should know:
// who took the snapshot, how, and what of its surroundings this host does not
// have any more.
func (p *RestorePlan) warnOfOrigin(now Surroundings) {
	warn := func(text string) { p.Warnings = append(p.Warnings, text) }
	if s := p.Snapshot.Signature; !s.Sure() {
		warn("the snapshot is " + s.Text)
	}
	m := p.Snapshot.Manifest
	if m == nil {
		return
	}
	if c := m.Compared; m.WithoutQuorum || c != nil && len(c.Differ) > 0 { // who was away then is of no interest now
		for _, note := range m.Notes() {
			warn("of the snapshot: " + note)
		}
	}
	for _, lost := range m.Lost(now) {
		warn(lost)
	}
}
