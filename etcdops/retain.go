package etcdops

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
)

// Decision is what retention does with one snapshot, and why.
type Decision struct {
	Entry  Entry  `json:"entry"`
	Reason string `json:"reason"`
}

// Retain decides which snapshots stay, of each cluster and host by itself. It is
// pure.
//
// It errs on the side of keeping. The newest good one stays whatever the rules
// are. A file without a manifest is somebody else's and stays. One that is
// dated in the future stays and does not count, lest a clock that was wrong
// once push out every real snapshot. A damaged one goes only when a newer good
// one is there. The newest of an etcd cluster that another has replaced stays
// until it is older than the longest: were that other one begun by mistake, and
// empty, its snapshots would push out the last that are worth something.
func Retain(entries []Entry, r hosts.Retention, now time.Time) (kept, dropped []Decision) {
	sorted := slices.Clone(entries)
	slices.SortStableFunc(sorted, func(a, b Entry) int {
		return cmp.Or(b.Taken.Compare(a.Taken), cmp.Compare(b.Path, a.Path))
	})
	type source struct{ cluster, host string }
	sources := map[source]*retaining{}
	for _, e := range sorted {
		if e.Manifest == nil {
			kept = append(kept, Decision{e, "it was not taken by nodeagent, or its manifest is not readable"})
			continue
		}
		from := source{e.Manifest.Cluster, e.Manifest.Host}
		if sources[from] == nil {
			sources[from] = newRetaining(r, now)
		}
		if stays, reason := sources[from].decide(e); stays {
			kept = append(kept, Decision{e, reason})
		} else {
			dropped = append(dropped, Decision{e, reason})
		}
	}
	return kept, dropped
}

// retaining is what has been seen of one cluster and host, newest first.
type retaining struct {
	hosts.Retention
	now      time.Time
	good     int
	periods  []*period
	clusters map[string]bool // etcd's ids
}

func newRetaining(r hosts.Retention, now time.Time) *retaining {
	return &retaining{Retention: r, now: now, clusters: map[string]bool{}, periods: []*period{
		{name: "hour", keep: r.Hourly, of: func(t time.Time) string { return t.Format("2006-01-02 15h") }},
		{name: "day", keep: r.Daily, of: func(t time.Time) string { return t.Format(time.DateOnly) }},
		{name: "week", keep: r.Weekly, of: func(t time.Time) string {
			year, week := t.ISOWeek()
			return fmt.Sprintf("%d-W%02d", year, week)
		}},
		{name: "month", keep: r.Monthly, of: func(t time.Time) string { return t.Format("2006-01") }},
	}}
}

func (s *retaining) decide(e Entry) (stays bool, reason string) {
	switch {
	case e.Ahead(s.now):
		return true, "it is dated in the future, " + e.Taken.UTC().Format(time.RFC3339)
	case e.Damage != "" && s.good == 0:
		return true, fmt.Sprintf("it is damaged (%s), but no newer one is good", e.Damage)
	case e.Damage != "":
		return false, "it is damaged: " + e.Damage
	}
	reasons := s.reasons(e)
	age := s.now.Sub(e.Taken)
	s.good++
	switch {
	case s.Longest > 0 && age > s.Longest && s.good > 1:
		return false, fmt.Sprintf("it is older than %s, the longest that one stays", ageText(s.Longest))
	case len(reasons) > 0:
		return true, "it is " + strings.Join(reasons, ", and ")
	}
	return false, fmt.Sprintf("no rule keeps it; newer ones: %d", s.good-1)
}

// reasons are why the rules want the good snapshot e. Each counts it, so that
// they are asked of every good one, in order.
func (s *retaining) reasons(e Entry) (reasons []string) {
	switch {
	case s.good < s.Last:
		reasons = append(reasons, fmt.Sprintf("number %d of the %d newest", s.good+1, s.Last))
	case s.good == 0:
		reasons = append(reasons, "the newest")
	}
	for _, p := range s.periods {
		if of, wanted := p.wants(e.Taken.UTC()); wanted {
			reasons = append(reasons, fmt.Sprintf("the newest of the %s %s", p.name, of))
		}
	}
	if s.now.Sub(e.Taken) < s.Within {
		reasons = append(reasons, "younger than "+ageText(s.Within))
	}
	if id := e.Manifest.ClusterID; !s.clusters[id] {
		s.clusters[id] = true
		if len(s.clusters) > 1 {
			reasons = append(reasons, fmt.Sprintf("the newest of the etcd cluster %s, which another has replaced", id))
		}
	}
	return reasons
}

// period is a rule that keeps the newest snapshot of each hour, day or so.
type period struct {
	name string
	keep int
	of   func(time.Time) string
	last string
}

// wants tells of which period a snapshot of that time is, and whether it is the
// first one seen of it, while the rule keeps more.
func (p *period) wants(taken time.Time) (of string, wanted bool) {
	if of = p.of(taken); of == p.last || p.keep == 0 {
		return of, false
	}
	p.last = of
	p.keep--
	return of, true
}

// ageText prints a duration in its largest whole unit: "30 days", "36 hours".
func ageText(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= 2*day && d%day == 0:
		return fmt.Sprintf("%d days", d/day)
	case d >= 2*time.Hour && d%time.Hour == 0:
		return fmt.Sprintf("%d hours", d/time.Hour)
	}
	return d.String()
}
