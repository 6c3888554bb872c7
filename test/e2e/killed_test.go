package e2e

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/lab"
)

const (
	// kills is how often the first apply is killed before it may finish.
	kills = 25
	// longestLife of an apply, so short that a bare host needs several: the
	// kills fall into all of its phases.
	longestLife = 2500 * time.Millisecond
	// killsPerHost is after how many kills a bare host takes the place of the
	// one that is nearly done: most is written in an apply's first second.
	killsPerHost = 5
)

// TestKilledApply kills the first apply of a host again and again, at random
// moments, and then lets one finish: it must find its way from wherever the
// others stopped. When an apply is done before it is killed, a bare host takes
// the place of this one, so that every kill hits a first apply.
func TestKilledApply(t *testing.T) {
	sideBySide(t)
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("NODEAGENT_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("NODEAGENT_SEED: %v", err)
		}
	}
	t.Logf("seed %d; set NODEAGENT_SEED=%[1]d for the same moments", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	l := lab.New(t)
	h := newHost(t, l)
	for killed := 0; killed < kills; {
		// Squared, so that early moments come more often.
		life := time.Duration(math.Pow(random.Float64(), 2) * float64(longestLife))
		done, err := h.applyFor(life)
		if err != nil {
			t.Fatalf("kill %d, after %s: %v", killed+1, life, err)
		}
		if done {
			t.Logf("apply was done after %d kills; going on with a bare host", killed)
			h.bare()
			continue
		}
		killed++
		// Whatever the killed apply left, a plan can read it.
		changes := h.plan()
		t.Logf("kill %d after %s leaves %d changes", killed, life.Round(time.Millisecond), len(changes))
		if killed%killsPerHost == 0 && killed < kills {
			h.bare()
		}
	}
	t.Logf("the apply that may finish says:\n%s", h.agent("apply"))
	h.converged()
	if err := h.NodeReady(h.ctx); err != nil {
		t.Fatal(err)
	}
}

// applyFor lets an apply live for the given time, then kills it with SIGKILL.
// It tells whether the apply was done before.
func (h *host) applyFor(life time.Duration) (done bool, err error) {
	ctx, cancel := context.WithTimeout(h.ctx, life)
	defer cancel()
	out, err := h.Nodeagent(ctx, "apply")
	if err == nil {
		return true, nil
	}
	if ctx.Err() == nil { // it failed by itself
		return false, fmt.Errorf("apply: %w\n%s", err, out)
	}
	// The context's end has killed it, unless it had only just been started.
	return false, lab.Within(h.ctx, 10*time.Second, "the killed apply to be gone", func(ctx context.Context) error {
		_, err := h.Exec(ctx, "pkill", "-KILL", "-x", "nodeagent")
		switch exitCode(err) {
		case 0:
			return errors.New("it was still there, and was killed again")
		case 1: // nothing to kill
			return nil
		}
		return err
	})
}

// bare makes the host as it was before anything was applied.
func (h *host) bare() {
	h.t.Helper()
	if err := errors.Join(h.Reset(h.ctx), h.Boot(h.ctx)); err != nil {
		h.t.Fatal(err)
	}
}
