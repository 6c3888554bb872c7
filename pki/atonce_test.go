package pki

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// heard is a reporter that notes what it hears and that nobody talks at once.
type heard struct {
	t       *testing.T
	talking atomic.Bool
	lines   []string
	under   int // changes that have begun and not ended
	most    int
}

func (h *heard) hear(line string, step int) {
	if !h.talking.CompareAndSwap(false, true) {
		h.t.Error("the reporter is called twice at once")
	}
	h.lines = append(h.lines, line)
	h.under += step
	h.most = max(h.most, h.under)
	h.talking.Store(false)
}

func (h *heard) Begin(c plan.Change)          { h.hear("begin "+c.Key, 1) }
func (h *heard) End(c plan.Change, err error) { h.hear("end "+c.Key, -1) }

func changesOf(payloads ...op) []plan.Change {
	var list []plan.Change
	for i, p := range payloads {
		list = append(list, plan.Change{Domain: Domain, Action: plan.ActionIssue, Key: fmt.Sprintf("%d %T", i, p), Payload: p})
	}
	return list
}

// Changes that ask the issuer for the same run side by side; all others wait
// for what comes before them.
func TestAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		changes := changesOf(modeOp{}, modeOp{}, trustOp{}, trustOp{}, keyOp{}, keyOp{},
			issueOp{}, issueOp{}, issueOp{}, issueOp{}, issueOp{}, issueOp{}, rebundleOp{}, removeOp{}, removeOp{})
		rep := &heard{t: t}
		began := time.Now()
		err := each(t.Context(), changes, rep, func(_ context.Context, c plan.Change) error {
			time.Sleep(time.Second)
			if strings.HasPrefix(c.Key, "7 ") || strings.HasPrefix(c.Key, "6 ") {
				return errors.New("failed")
			}
			return nil
		})
		// 2 modes, 1 group of bundles, 1 of keys and certificates, 3 alone.
		if took := time.Since(began); took != 7*time.Second {
			t.Errorf("took %s, want 7s\n%s", took, strings.Join(rep.lines, "\n"))
		}
		if rep.most != 8 || rep.under != 0 || len(rep.lines) != 2*len(changes) {
			t.Errorf("at most %d under way, %d never ended, %d lines", rep.most, rep.under, len(rep.lines))
		}
		if want := "issue 6 pki.issueOp: failed\nissue 7 pki.issueOp: failed"; err == nil || err.Error() != want {
			t.Errorf("error %v, want %q", err, want)
		}
		at := func(line string) int { return slices.Index(rep.lines, line) }
		for _, order := range [][2]string{
			{"end 1 pki.modeOp", "begin 2 pki.trustOp"},
			{"end 2 pki.trustOp", "begin 4 pki.keyOp"},
			{"end 3 pki.trustOp", "begin 4 pki.keyOp"},
			{"end 11 pki.issueOp", "begin 12 pki.rebundleOp"},
			{"end 10 pki.issueOp", "begin 12 pki.rebundleOp"},
			{"end 13 pki.removeOp", "begin 14 pki.removeOp"},
		} {
			if a, b := at(order[0]), at(order[1]); a < 0 || b < 0 || a > b {
				t.Errorf("%q at %d, %q at %d", order[0], a, order[1], b)
			}
		}
	})
}

// When ctx is done, what is under way ends and nothing else begins.
func TestAtOnceIsInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		rep := &heard{t: t}
		payloads := append(slices.Repeat([]op{issueOp{}}, atWork+2), removeOp{})
		err := each(ctx, changesOf(payloads...), rep,
			func(context.Context, plan.Change) error {
				time.Sleep(time.Second)
				cancel()
				return nil
			})
		if !errors.Is(err, context.Canceled) || rep.under != 0 || len(rep.lines) != 2*atWork {
			t.Errorf("error %v, %d under way\n%s", err, rep.under, strings.Join(rep.lines, "\n"))
		}
	})
}

// slow is an issuer that counts how many ask at once.
type slow struct {
	Issuer
	asking, most atomic.Int32
}

func (s *slow) Bundle(context.Context, string) ([]byte, error) {
	s.most.Store(max(s.most.Load(), s.asking.Add(1)))
	time.Sleep(time.Second)
	s.asking.Add(-1)
	return nil, nil
}

// However many changes are under way, an issuer is asked for few things at
// once; who waits for that hears of the end of its ctx.
func TestAskGently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		asked := &slow{}
		issuer := askGently(asked)
		var late atomic.Int32
		for range 4 * atOnce {
			go func() {
				if _, err := issuer.Bundle(ctx, ""); errors.Is(err, context.DeadlineExceeded) {
					late.Add(1)
				}
			}()
		}
		synctest.Wait()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if most := asked.most.Load(); most != atOnce || late.Load() != atOnce {
			t.Errorf("asked by %d at once, %d came too late, want %d and %d", most, late.Load(), atOnce, atOnce)
		}
	})
}
