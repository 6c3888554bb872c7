package agent

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
)

func TestWhoTakesASnapshot(t *testing.T) {
	s := share{self: "b", hosts: []string{"a", "b", "c"}, patience: time.Hour, blind: time.Minute}
	moment := time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC)
	at := func(minutes int) time.Time { return moment.Add(time.Duration(minutes) * time.Minute) }
	for name, tc := range map[string]struct {
		seen  shared
		want  shareAct
		until time.Time
	}{
		"nobody yet":                    {shared{now: at(1), known: true}, shareClaim, time.Time{}},
		"nobody ever":                   {shared{now: at(1), known: true, last: at(-360)}, shareClaim, time.Time{}},
		"own claim from before a crash": {shared{now: at(1), known: true, holder: "b"}, shareClaim, time.Time{}},
		"another takes it":              {shared{now: at(1), known: true, holder: "a"}, shareWait, at(60)},
		"another has taken it":          {shared{now: at(1), known: true, last: at(0)}, shareDone, time.Time{}},
		"taken, and claimed again":      {shared{now: at(1), known: true, last: at(0), holder: "a"}, shareDone, time.Time{}},
		"another does not deliver":      {shared{now: at(60), known: true, holder: "a"}, shareTake, time.Time{}},
		"no answer for a moment":        {shared{now: at(1), since: at(1)}, shareWait, at(2)},
		"no answer":                     {shared{now: at(2), since: at(1)}, shareTake, time.Time{}},
		"no claims, but it was taken":   {shared{now: at(2), since: at(1), last: at(1)}, shareDone, time.Time{}},
	} {
		tc.seen.moment, tc.seen.begin = moment, moment
		act, until, reason := s.next(tc.seen)
		if act != tc.want || !until.Equal(tc.until) || reason == "" {
			t.Errorf("%s: %s until %v (%s), want %s until %v", name, act, until, reason, tc.want, tc.until)
		}
	}
}

// TestTurnsAreSpread: for each moment one host is the first, the others follow, and
// each is the first about as often as another.
func TestTurnsAreSpread(t *testing.T) {
	names := []string{"a", "b", "c"}
	first := map[string]int{}
	for i := range 300 {
		moment := time.Date(2026, 3, 1, i, 0, 0, 0, time.UTC)
		begins := map[time.Duration]string{}
		least := time.Hour
		for _, name := range names {
			s := share{cluster: "x", self: name, hosts: names, spread: 10 * time.Minute, step: 20 * time.Second}
			delay := s.begin(moment).Sub(moment)
			if delay < 0 || delay >= 11*time.Minute || begins[delay] != "" {
				t.Fatalf("%s begins %v after %v, as %q", name, delay, moment, begins[delay])
			}
			begins[delay] = name
			least = min(least, delay)
		}
		first[begins[least]]++
		if begins[least+20*time.Second] == "" || begins[least+40*time.Second] == "" {
			t.Fatalf("%v", begins)
		}
	}
	for _, name := range names {
		if first[name] < 60 {
			t.Errorf("%s is the first %d times of 300", name, first[name])
		}
	}
}

func TestShareOfASpec(t *testing.T) {
	spec := &hosts.Spec{Name: "m", Cluster: "c", Peers: []hosts.Peer{
		{Name: "z", Roles: []hosts.Role{hosts.RoleEtcd}}, {Name: "a", Roles: []hosts.Role{hosts.RoleEtcd}}, {Name: "w", Roles: []hosts.Role{hosts.RoleWorker}},
	}}
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for by, want := range map[string]string{hosts.ByEach: "[m]", hosts.ByOne: "[a m z]"} {
		spec.Snapshots.By = by
		if got := fmt.Sprint(shareOf(spec, mustParse(t, "hourly"), now).hosts); got != want {
			t.Errorf("by %s: %s, want %s", by, got, want)
		}
	}
	if s := shareOf(spec, mustParse(t, "*:00/10"), now); s.patience != 5*time.Minute {
		t.Errorf("patience %v, want half the time between two moments", s.patience)
	}
	if s := shareOf(spec, mustParse(t, "daily"), now); s.patience != sharePatience || s.step != shareStep {
		t.Errorf("%+v", s)
	}
}

// TestSnapshotsOfAHostAlone follows one host for two days of the bubble's clock:
// one snapshot a moment, at the host's own time, and again after failures.
func TestSnapshotsOfAHostAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := &hosts.Spec{Name: "h", Cluster: "c", Snapshots: hosts.Snapshots{Destination: t.TempDir(), By: hosts.ByEach, Spread: time.Hour}}
		schedule := mustParse(t, "00/6:00 UTC")
		ctx, cancel := context.WithCancel(t.Context())
		var taken []time.Time
		fail, pruned := 0, 0
		taker := &taker{
			spec: spec, schedule: schedule, share: shareOf(spec, schedule, time.Now()), log: slog.New(slog.DiscardHandler),
			prune: func(context.Context) { pruned++ },
			save: func(context.Context) (etcdops.Manifest, error) {
				if len(taken) == 3 && fail < 2 {
					fail++
					return etcdops.Manifest{}, fmt.Errorf("etcd is away")
				}
				taken = append(taken, time.Now())
				time.Sleep(time.Minute) // of the bubble's clock: the time that a save takes
				return etcdops.Manifest{}, nil
			},
		}
		start := time.Now()
		go taker.run(ctx)
		time.Sleep(48 * time.Hour)
		cancel()
		synctest.Wait()
		if len(taken) != 8 || pruned != 8 || fail != 2 {
			t.Fatalf("%d snapshots, %d prunes, %d failures in two days: %v", len(taken), pruned, fail, taken)
		}
		if !taken[0].Equal(start) {
			t.Errorf("the first one is of %v: there was none", taken[0])
		}
		delay := taker.share.begin(start).Sub(start)
		for i, at := range taken[1:] {
			want := start.Truncate(6 * time.Hour).Add(time.Duration(i+1)*6*time.Hour + delay)
			if i == 2 {
				want = want.Add(2 * snapshotRetry)
			}
			if !at.Equal(want) {
				t.Errorf("snapshot %d is of %v, want %v", i+1, at, want)
			}
		}
	})
}
