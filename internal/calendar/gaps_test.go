package calendar

import (
	"testing"
	"time"
)

func TestGaps(t *testing.T) {
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for expr, want := range map[string][2]time.Duration{
		"*-*-* 00/6:00:00": {6 * time.Hour, 6 * time.Hour},
		"Mon..Fri 08:00":   {24 * time.Hour, 72 * time.Hour},
		"*:00,10":          {10 * time.Minute, 50 * time.Minute},
		"2026-02-01":       {},
		"2020-02-01":       {},
		"Sun 03:00":        {7 * 24 * time.Hour, 7 * 24 * time.Hour},
	} {
		schedule, err := Parse(expr)
		if err != nil {
			t.Fatal(err)
		}
		shortest, longest := schedule.Gaps(from)
		if got := [2]time.Duration{shortest, longest}; got != want {
			t.Errorf("%q: %v, want %v", expr, got, want)
		}
	}
}

func BenchmarkGaps(b *testing.B) {
	schedule, err := Parse("Sun 03:00")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		schedule.Gaps(time.Unix(0, 0))
	}
}
