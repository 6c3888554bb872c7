package agent

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// look is one call of converge as the tests record it.
type look struct {
	After   time.Duration
	Domains []string
}

// trial runs a loop in fake time for the given span and returns its looks.
func trial(t *testing.T, span time.Duration, due func(start, now time.Time) Due, feed func(post func(Event)), fail func(n int) []string) []look {
	t.Helper()
	var looks []look
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), span)
		defer cancel()
		start := time.Now()
		events := newMailbox()
		l := &loop{
			log: slog.New(slog.DiscardHandler), events: events,
			converge: func(_ context.Context, domains []string) []string {
				looks = append(looks, look{time.Since(start), slices.Clone(domains)})
				return fail(len(looks))
			},
			due: func(now time.Time) Due { return due(start, now) },
		}
		go feed(events.put)
		l.run(ctx)
		synctest.Wait()
	})
	return looks
}

func never(time.Time, time.Time) Due { return Due{} }
func silence(func(Event))            {}
func success(int) []string           { return nil }

func TestIdleLoopLooksOnce(t *testing.T) {
	got := trial(t, 24*time.Hour, never, silence, success)
	if diff := cmp.Diff([]look{{}}, got); diff != "" {
		t.Errorf("looks (-want +got):\n%s", diff)
	}
}

func TestEventsAreGathered(t *testing.T) {
	feed := func(post func(Event)) {
		time.Sleep(time.Second)
		post(Event{Source: "netlink", Domains: []string{DomainNetwork}})
		time.Sleep(settle / 2)
		post(Event{Source: "units", Domains: []string{DomainUnits}})
		time.Sleep(10 * time.Second)
		post(Event{Source: "netlink", Domains: []string{DomainNetwork}})
		post(Event{Source: "SIGHUP"})
	}
	got := trial(t, time.Minute, never, feed, success)
	want := []look{
		{},
		{time.Second + settle, []string{DomainNetwork, DomainUnits}},
		{11*time.Second + settle/2 + settle, nil},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("looks (-want +got):\n%s", diff)
	}
}

func TestDueMomentsAreKept(t *testing.T) {
	due := func(start, now time.Time) Due {
		if at := start.Add(time.Hour); now.Before(at) {
			return Due{At: at, Domains: []string{DomainPKI}}
		}
		return Due{}
	}
	got := trial(t, 3*time.Hour, due, silence, success)
	if diff := cmp.Diff([]look{{}, {time.Hour, []string{DomainPKI}}}, got); diff != "" {
		t.Errorf("looks (-want +got):\n%s", diff)
	}
}

// TestRenewalMoment: a certificate that becomes due between the look of a converge
// and the look for the next moment is not forgotten.
func TestRenewalMoment(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name  string
		next  time.Time
		tried bool
		want  time.Time
	}{
		{"nothing ends", time.Time{}, false, time.Time{}},
		{"later", now.Add(time.Hour), false, now.Add(time.Hour)},
		{"later, and one that waits has failed", now.Add(time.Hour), true, now.Add(time.Hour)},
		{"due since the look", now, false, now.Add(firstRetry)},
		{"failed, and tried again by the loop", now, true, time.Time{}},
	} {
		if got := renewalMoment(tc.next, now, tc.tried); !got.Equal(tc.want) {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

func TestFailuresAreTriedAgainWithGrowingPauses(t *testing.T) {
	fail := func(n int) []string {
		if n <= 4 {
			return []string{DomainUnits}
		}
		return nil
	}
	got := trial(t, time.Hour, never, silence, fail)
	units := []string{DomainUnits}
	want := []look{{}, {2 * time.Second, units}, {6 * time.Second, units}, {14 * time.Second, units}, {30 * time.Second, units}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("looks (-want +got):\n%s", diff)
	}
}

func TestRetryPauseIsBounded(t *testing.T) {
	got := trial(t, 2*time.Hour, never, silence, func(int) []string { return []string{DomainPKI} })
	last := got[len(got)-1].After - got[len(got)-2].After
	if last != lastRetry {
		t.Errorf("the last pause is %v, want %v", last, lastRetry)
	}
}

func TestEventsDoNotPutARetryOff(t *testing.T) {
	feed := func(post func(Event)) {
		for range 20 {
			time.Sleep(time.Second)
			post(Event{Source: "netlink", Domains: []string{DomainNetwork}})
		}
	}
	retried := false
	for _, l := range trial(t, time.Minute, never, feed, func(n int) []string {
		if n == 1 {
			return []string{DomainPKI}
		}
		return nil
	}) {
		retried = retried || slices.Contains(l.Domains, DomainPKI)
	}
	if !retried {
		t.Error("a failed domain was not tried again while events kept coming")
	}
}

// TestNobodyWaitsForAConverge posts events while a converge takes a minute.
func TestNobodyWaitsForAConverge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		box := newMailbox()
		var looks [][]string
		l := &loop{
			log: slog.New(slog.DiscardHandler), events: box, due: func(time.Time) Due { return Due{} },
			converge: func(_ context.Context, domains []string) []string {
				looks = append(looks, domains)
				time.Sleep(time.Minute)
				return nil
			},
		}
		go func() {
			began := time.Now()
			for range 30 {
				time.Sleep(time.Second)
				box.put(Event{Source: "netlink", Domains: []string{DomainNetwork}})
				box.put(Event{Source: "systemd", Domains: []string{DomainUnits}})
			}
			if took := time.Since(began); took != 30*time.Second {
				t.Errorf("posting took %v, want 30 s", took)
			}
		}()
		l.run(ctx)
		if diff := cmp.Diff([][]string{nil, {DomainNetwork, DomainUnits}}, looks); diff != "" {
			t.Errorf("looks (-want +got):\n%s", diff)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := now.Add(3 * time.Second)
	for _, tc := range []struct {
		name           string
		before         retry
		looked, failed []string
		want           retry
	}{
		{"all well", retry{[]string{"a"}, 8 * time.Second, at}, nil, nil, retry{}},
		{"first failure", retry{}, nil, []string{"a"}, retry{[]string{"a"}, firstRetry, now.Add(firstRetry)}},
		{"failed again", retry{[]string{"a"}, 8 * time.Second, at}, []string{"a"}, []string{"a"}, retry{[]string{"a"}, 16 * time.Second, now.Add(16 * time.Second)}},
		{"another failed", retry{[]string{"a"}, 8 * time.Second, at}, []string{"b"}, []string{"b"}, retry{[]string{"a", "b"}, 8 * time.Second, at}},
		{"not looked at", retry{[]string{"a"}, 8 * time.Second, at}, []string{"b"}, nil, retry{[]string{"a"}, 8 * time.Second, at}},
	} {
		got := tc.before.after(now, tc.looked, tc.failed)
		if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(retry{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}
