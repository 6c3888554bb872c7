package agent

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/internal/calendar"
)

// drillRetry is the pause after a scheduled drill that failed: what made it fail,
// such as a store that is away, may have ended.
const drillRetry = 6 * time.Hour

// drillPlan is what decides when the next scheduled drill begins.
type drillPlan struct {
	schedule calendar.Schedule
	// delay is the host's own time after each moment.
	delay time.Duration
	// since is when there was first something to drill; zero is not yet.
	since time.Time
	// last is the last drill that was begun, by a person or by the schedule; the
	// zero one has no Began.
	last etcdops.DrillReport
}

// next is when the next drill is due; zero is never. One that was missed while the
// host was down is made up for at once. After one that failed the next is tried
// before its moment.
func (p drillPlan) next(now time.Time) time.Time {
	last := p.last.Began
	if last.After(now) {
		last = time.Time{} // the clock was wrong then, or is now
	}
	base := cmp.Or(last, p.since)
	if base.IsZero() || base.After(now) {
		base = now
	}
	// A drill by a person before the host's own time stands for that moment's.
	next := p.schedule.Next(base.In(now.Location()))
	if !next.IsZero() {
		next = next.Add(p.delay)
	}
	if last.Equal(p.last.Began) && !last.IsZero() && !p.last.Good() {
		if again := last.Add(drillRetry); next.IsZero() || again.Before(next) {
			next = again
		}
	}
	if next.IsZero() || next.After(now) {
		return next
	}
	return now
}

// problem says why the drills are not as they should be, empty when they are. The
// good one is the last that found nothing wrong.
func (p drillPlan) problem(good *etcdops.DrillReport, running bool, now time.Time) string {
	if p.last.Error != "" && !running {
		return fmt.Sprintf("the drill of %s, %s, failed (%s): whether that snapshot restores is not known: %s",
			p.last.Snapshot, p.last.Began.UTC().Format(time.RFC3339), p.last.Failed, firstLine(p.last.Error))
	}
	since := p.since
	if good != nil {
		since = good.Began
	}
	if running || since.IsZero() || !overdue(p.schedule, since, now.Add(-p.delay)) {
		return ""
	}
	return fmt.Sprintf("the schedule called for more than one drill since %s, and none was good: nodeagent.service makes them: systemctl status nodeagent",
		since.UTC().Format(time.RFC3339))
}

// ownDelay is a time in [0, spread) that is the host's own: always the same, and
// spread over the hosts.
func ownDelay(spread time.Duration, of ...string) time.Duration {
	if spread <= 0 {
		return 0
	}
	sum := fnv.New64a()
	for _, text := range of {
		sum.Write([]byte(text))
		sum.Write([]byte{0})
	}
	return (time.Duration(sum.Sum64()>>1) % spread).Truncate(time.Second)
}
