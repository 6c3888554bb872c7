package store

import (
	"path"
	"slices"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
)

// Missing are the owner's local snapshots that a place wants and does not have,
// the newest first: those that its retention would keep of all that lies here and
// there. What it would delete again is not brought there. It is pure.
func Missing(local, there []etcdops.Entry, owner Owner, keep hosts.Retention, now time.Time) []etcdops.Entry {
	has := map[string]bool{}
	for _, e := range there {
		if owner.owns(e) && e.Good() {
			has[path.Base(e.Path)] = true
		}
	}
	all := slices.DeleteFunc(slices.Clone(there), func(e etcdops.Entry) bool { return !owner.owns(e) || !e.Good() })
	here := map[string]bool{}
	for _, e := range local {
		if name := path.Base(e.Path); owner.owns(e) && e.Good() && !has[name] {
			all = append(all, e)
			here[e.Path] = true
		}
	}
	kept, _ := etcdops.Retain(all, keep, now)
	var missing []etcdops.Entry
	for _, d := range kept {
		if here[d.Entry.Path] {
			missing = append(missing, d.Entry)
		}
	}
	return missing
}

// Prune splits what lies at a place into what stays and what its retention
// drops: of the owner's alone, and by what is there alone, so that nothing goes
// because of a snapshot that is not there yet. It is pure.
func Prune(there []etcdops.Entry, owner Owner, keep hosts.Retention, now time.Time) (kept, dropped []etcdops.Decision) {
	own := slices.DeleteFunc(slices.Clone(there), func(e etcdops.Entry) bool { return e.Manifest != nil && !owner.owns(e) })
	return etcdops.Retain(own, keep, now)
}
