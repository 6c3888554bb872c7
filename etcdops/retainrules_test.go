package etcdops

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/hosts"
)

// TestRetainRules: noon is on a Monday, the first of June 2026. The snapshots
// are given by their age in hours.
func TestRetainRules(t *testing.T) {
	t.Parallel()
	const day = 24
	each := func(step, n int) (ages []int) {
		for i := range n {
			ages = append(ages, i*step)
		}
		return ages
	}
	for name, tc := range map[string]struct {
		ages   []int
		rules  hosts.Retention
		kept   []string // age and reason
		reason string   // of the first that goes
	}{
		"hours": {
			ages: []int{0, 0, 1, 5, 6}, rules: hosts.Retention{Hourly: 3},
			kept: []string{
				"0: it is the newest, and the newest of the hour 2026-06-01 12h",
				"1: it is the newest of the hour 2026-06-01 11h",
				"5: it is the newest of the hour 2026-06-01 07h",
			},
			reason: "no rule keeps it; newer ones: 1",
		},
		"days": {
			ages: each(6, 9), rules: hosts.Retention{Last: 1, Daily: 2},
			kept: []string{
				"0: it is number 1 of the 1 newest, and the newest of the day 2026-06-01",
				"18: it is the newest of the day 2026-05-31",
			},
			reason: "no rule keeps it; newer ones: 1",
		},
		"weeks and months": {
			ages: each(day, 40), rules: hosts.Retention{Last: 1, Weekly: 3, Monthly: 2},
			kept: []string{
				"0: it is number 1 of the 1 newest, and the newest of the week 2026-W23, and the newest of the month 2026-06",
				"24: it is the newest of the week 2026-W22, and the newest of the month 2026-05",
				"192: it is the newest of the week 2026-W21",
			},
			reason: "no rule keeps it; newer ones: 2",
		},
		"young": {
			ages: each(day, 4), rules: hosts.Retention{Last: 1, Within: 2 * day * time.Hour},
			kept: []string{
				"0: it is number 1 of the 1 newest, and younger than 2 days",
				"24: it is younger than 2 days",
			},
			reason: "no rule keeps it; newer ones: 2",
		},
		"old": {
			ages: []int{30, 60, 90}, rules: hosts.Retention{Last: 5, Longest: 36 * time.Hour},
			kept:   []string{"30: it is number 1 of the 5 newest"},
			reason: "it is older than 36 hours, the longest that one stays",
		},
		"old, and the only one": {
			ages: []int{90}, rules: hosts.Retention{Last: 5, Longest: 36 * time.Hour},
			kept: []string{"90: it is number 1 of the 5 newest"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var entries []Entry
			for _, age := range tc.ages {
				entries = append(entries, entry("a", time.Duration(age)*time.Hour, ""))
			}
			var got []string
			kept, dropped := Retain(entries, tc.rules, noon)
			for _, d := range kept {
				got = append(got, fmt.Sprintf("%.0f: %s", noon.Sub(d.Entry.Taken).Hours(), d.Reason))
			}
			if diff := cmp.Diff(tc.kept, got); diff != "" {
				t.Errorf("kept (-want +got):\n%s", diff)
			}
			if len(kept)+len(dropped) != len(entries) {
				t.Errorf("%d kept and %d dropped of %d", len(kept), len(dropped), len(entries))
			}
			if tc.reason != "" && dropped[0].Reason != tc.reason {
				t.Errorf("dropped because %q, want %q", dropped[0].Reason, tc.reason)
			}
		})
	}
}

// TestRetainReplacedCluster: a cluster that was begun anew, by mistake and empty,
// does not push out the last snapshot of the one before.
func TestRetainReplacedCluster(t *testing.T) {
	t.Parallel()
	var entries []Entry
	for age := range 10 {
		e := entry("a", time.Duration(age)*time.Hour, "")
		e.Manifest.ClusterID = "new"
		if age >= 6 {
			e.Manifest.ClusterID = "old"
		}
		entries = append(entries, e)
	}
	kept, _ := Retain(entries, hosts.Retention{Last: 2}, noon)
	if len(kept) != 3 || !kept[2].Entry.Taken.Equal(noon.Add(-6*time.Hour)) ||
		kept[2].Reason != "it is the newest of the etcd cluster old, which another has replaced" {
		t.Errorf("kept %v", kept)
	}
	kept, _ = Retain(entries, hosts.Retention{Last: 2, Longest: 5 * time.Hour}, noon)
	if len(kept) != 2 {
		t.Errorf("kept for longer than the longest: %v", kept)
	}
}
