package agent

import (
	"testing"
	"time"
)

func TestWhichSnapshotIsDrilled(t *testing.T) {
	at := func(hour int) time.Time { return time.Date(2026, 3, 2, hour, 0, 0, 0, time.UTC) }
	for name, tc := range map[string]struct {
		local  kept
		copies []kept
		want   string
	}{
		"none":                        {},
		"here alone":                  {local: kept{"/s/a", at(1)}, want: "/s/a"},
		"newer here":                  {local: kept{"/s/b", at(2)}, copies: []kept{{"x:a", at(1)}}, want: "/s/b"},
		"newer there":                 {local: kept{"/s/a", at(1)}, copies: []kept{{"x:b", at(2)}}, want: "x:b"},
		"there alone":                 {copies: []kept{{"x:a", at(1)}}, want: "x:a"},
		"the same there":              {local: kept{"/s/a", at(1)}, copies: []kept{{"x:a", at(1)}}, want: "x:a"},
		"nothing there":               {local: kept{"/s/a", at(1)}, copies: []kept{{}}, want: "/s/a"},
		"one place is behind":         {local: kept{"/s/b", at(2)}, copies: []kept{{"x:a", at(1)}, {"y:b", at(2)}}, want: "y:b"},
		"the newest after other ones": {local: kept{"/s/a", at(1)}, copies: []kept{{"x:a", at(1)}, {"y:b", at(2)}, {"z:a", at(1)}}, want: "y:b"},
	} {
		if got := pickNewest(tc.local, tc.copies, at(3)); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
	both := []kept{{"x:a", at(1)}, {"y:a", at(1)}}
	first, next := pickNewest(kept{}, both, at(3)), pickNewest(kept{}, both, at(3).AddDate(0, 0, 7))
	if first == next {
		t.Errorf("%q in two weeks, of two places", first)
	}
}
