package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
)

func TestNextDrill(t *testing.T) {
	zone := time.FixedZone("east", 5*3600)
	day := func(day, hour int) time.Time { return time.Date(2026, 3, day, hour, 0, 0, 0, zone) } // the 1st is a Sunday
	drilled := func(began time.Time, failed bool) etcdops.DrillReport {
		r := etcdops.DrillReport{Began: began.UTC(), Ended: began.UTC().Add(time.Minute)}
		if failed {
			r.Failed, r.Error = etcdops.DrillBoot, "it ended"
		}
		return r
	}
	for name, tc := range map[string]struct {
		plan      drillPlan
		now, want time.Time
	}{
		"nothing to drill yet":      {drillPlan{}, day(2, 0), day(8, 3)},
		"never drilled":             {drillPlan{since: day(2, 0)}, day(3, 0), day(8, 3)},
		"at the host's own time":    {drillPlan{since: day(2, 0), delay: 2 * time.Hour}, day(3, 0), day(8, 5)},
		"made up for":               {drillPlan{since: day(2, 0)}, day(9, 0), day(9, 0)},
		"after a good one":          {drillPlan{since: day(2, 0), last: drilled(day(8, 3), false)}, day(9, 0), day(15, 3)},
		"after a person's":          {drillPlan{since: day(2, 0), last: drilled(day(7, 3), false)}, day(7, 4), day(8, 3)},
		"after one that failed":     {drillPlan{since: day(2, 0), last: drilled(day(8, 3), true)}, day(8, 4), day(8, 9)},
		"one that failed long ago":  {drillPlan{since: day(2, 0), last: drilled(day(8, 3), true)}, day(9, 0), day(9, 0)},
		"one that was killed":       {drillPlan{since: day(2, 0), last: etcdops.DrillReport{Began: day(8, 3), Error: "killed"}}, day(8, 4), day(8, 9)},
		"failed before the moment":  {drillPlan{since: day(2, 0), last: drilled(day(8, 2), true)}, day(8, 2), day(8, 3)},
		"dated in the future":       {drillPlan{since: day(2, 0), last: drilled(day(20, 0), true)}, day(3, 0), day(8, 3)},
		"the marker in the future":  {drillPlan{since: day(20, 0)}, day(3, 0), day(8, 3)},
		"delay after a good drill":  {drillPlan{since: day(2, 0), delay: 2 * time.Hour, last: drilled(day(8, 5), false)}, day(8, 6), day(15, 5)},
		"delay and missed meanwile": {drillPlan{since: day(2, 0), delay: 2 * time.Hour, last: drilled(day(8, 5), false)}, day(20, 6), day(20, 6)},
	} {
		tc.plan.schedule = mustParse(t, "Sun 03:00")
		if got := tc.plan.next(tc.now); !got.Equal(tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
	over := drillPlan{schedule: mustParse(t, "2020-01-01"), since: day(2, 0)}
	if got := over.next(day(3, 0)); !got.IsZero() {
		t.Errorf("a schedule that is over: %v", got)
	}
}

func TestProblemsOfDrills(t *testing.T) {
	day := func(day int) time.Time { return time.Date(2026, 3, day, 12, 0, 0, 0, time.UTC) }
	good := &etcdops.DrillReport{Began: day(1), Ended: day(1)}
	failed := etcdops.DrillReport{Snapshot: "s.db", Began: day(8), Ended: day(8), Failed: "boot", Error: "it ended\nmore"}
	for name, tc := range map[string]struct {
		plan    drillPlan
		good    *etcdops.DrillReport
		running bool
		now     time.Time
		want    string
	}{
		"good":                    {drillPlan{last: *good}, good, false, day(3), ""},
		"nothing to drill yet":    {drillPlan{}, nil, false, day(30), ""},
		"not due yet":             {drillPlan{since: day(1)}, nil, false, day(9), ""},
		"none made":               {drillPlan{since: day(1)}, nil, false, day(16), "none was good"},
		"overdue":                 {drillPlan{last: *good}, good, false, day(16), "none was good"},
		"overdue but running":     {drillPlan{last: *good}, good, true, day(16), ""},
		"within the host's delay": {drillPlan{last: *good, delay: 12 * time.Hour}, good, false, day(15).Add(-8 * time.Hour), ""},
		"failed":                  {drillPlan{last: failed}, good, false, day(9), "the drill of s.db, 2026-03-08T12:00:00Z, failed (boot): whether that snapshot restores is not known: it ended …"},
		"failed and tried again":  {drillPlan{last: failed}, good, true, day(9), ""},
	} {
		tc.plan.schedule = mustParse(t, "Sun 03:00")
		got := tc.plan.problem(tc.good, tc.running, tc.now)
		if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
	unscheduled := drillPlan{last: failed}
	if got := unscheduled.problem(good, false, day(30)); !strings.Contains(got, "failed (boot)") {
		t.Errorf("a person's drill without a schedule: %q", got)
	}
}

func TestOwnDelayIsSpread(t *testing.T) {
	const spread = 3 * time.Hour
	quarters := map[time.Duration]int{}
	for i := range 100 {
		host := fmt.Sprintf("host%d", i)
		delay := ownDelay(spread, "cluster", host)
		if delay < 0 || delay >= spread || delay != ownDelay(spread, "cluster", host) {
			t.Fatalf("%s: %v", host, delay)
		}
		quarters[delay/(spread/4)]++
	}
	for q := range time.Duration(4) {
		if quarters[q] < 10 {
			t.Errorf("of 100 hosts %d are in quarter %d", quarters[q], q)
		}
	}
	if ownDelay(0, "a") != 0 {
		t.Error("a delay without a spread")
	}
}
