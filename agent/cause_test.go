package agent

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestEachLookKnowsItsCause, and since when.
func TestEachLookKnowsItsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		start, box := time.Now(), newMailbox()
		type seen struct {
			Cause string
			Since time.Duration
		}
		var looks []seen
		l := &loop{
			log: slog.New(slog.DiscardHandler), events: box,
			due: func(now time.Time) Due {
				if at := start.Add(10 * time.Second); now.Before(at) {
					return Due{At: at, Domains: []string{DomainKernel}, Why: CausePoll}
				}
				return Due{}
			},
			converge: func(ctx context.Context, _ []string) []string {
				c := causeOf(ctx)
				looks = append(looks, seen{c.String(), c.At.Sub(start)})
				if len(looks) == 1 {
					return []string{DomainNetwork}
				}
				return nil
			},
		}
		go func() {
			time.Sleep(5 * time.Second)
			box.put(Event{Source: "the network", Domains: []string{DomainNetwork}})
			time.Sleep(settle / 2)
			box.put(Event{Source: "systemd", Domains: []string{DomainUnits}})
			box.put(Event{Source: "the network", Domains: []string{DomainNetwork}})
		}()
		l.run(ctx)
		want := []seen{
			{"start", 0},
			{"retry", firstRetry},
			{"event: the network, systemd", 5 * time.Second},
			{"poll", 10 * time.Second},
		}
		if diff := cmp.Diff(want, looks); diff != "" {
			t.Errorf("looks (-want +got):\n%s", diff)
		}
	})
}
