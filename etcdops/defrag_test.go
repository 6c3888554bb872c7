package etcdops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestPlanDefrag(t *testing.T) {
	fragmented := func(v *View) {
		v.Members[0].DBInUse, v.Members[1].DBInUse, v.Members[2].DBInUse = 10<<20, 40<<20, 30<<20
	}
	for name, test := range map[string]struct {
		edit  func(v *View)
		opts  DefragOptions
		steps string // the members in their order
		err   error
	}{
		"nothing to do":      {func(*View) {}, DefragOptions{Threshold: DefaultThreshold}, "", nil},
		"leader last":        {fragmented, DefragOptions{Threshold: DefaultThreshold}, "m3 m2 m1", nil},
		"over the threshold": {fragmented, DefragOptions{Threshold: 0.65}, "m3 m1", nil},
		"one member":         {fragmented, DefragOptions{Only: "m2", Threshold: DefaultThreshold}, "m2", nil},
		"below, one member":  {fragmented, DefragOptions{Only: "m2", Threshold: 0.9}, "", nil},
		"member down":        {func(v *View) { fragmented(v); v.Members[1].Answers = false }, DefragOptions{}, "", ErrUnsteady},
		"member behind":      {func(v *View) { fragmented(v); v.Members[1].RaftApplied = 9 }, DefragOptions{}, "", ErrUnsteady},
		"member blocked":     {func(v *View) { fragmented(v); v.Members[1].Error = "deadline exceeded" }, DefragOptions{}, "", ErrUnsteady},
		"learner":            {func(v *View) { fragmented(v); v.Members[2].Learner = true }, DefragOptions{}, "", ErrUnsteady},
		"no quorum":          {func(v *View) { fragmented(v); v.Quorum = false }, DefragOptions{}, "", ErrUnsteady},
		"missing member":     {func(v *View) { fragmented(v); v.Members[2].Listed = false }, DefragOptions{}, "", ErrUnsteady},
		"no space":           {func(v *View) { fragmented(v); v.Alarms = []AlarmView{{Kind: AlarmNoSpace}} }, DefragOptions{}, "", ErrUnsteady},
		"corrupt":            {func(v *View) { fragmented(v); v.Alarms = []AlarmView{{Kind: AlarmCorrupt}} }, DefragOptions{}, "", ErrUnsteady},
	} {
		plan, err := PlanDefrag(wellView().change(test.edit), test.opts)
		if !errors.Is(err, test.err) {
			t.Errorf("%s: error %v, want %v", name, err, test.err)
			continue
		}
		var steps []string
		for _, s := range plan.Steps {
			steps = append(steps, s.Member)
		}
		if got := strings.Join(steps, " "); err == nil && got != test.steps {
			t.Errorf("%s: %q, want %q", name, got, test.steps)
		}
	}
	if _, err := PlanDefrag(wellView(), DefragOptions{Only: "m9"}); err == nil || !strings.Contains(err.Error(), "no member") {
		t.Errorf("an unknown member: %v", err)
	}
}

// heard collects what an operation tells.
type heard struct {
	mu    sync.Mutex
	lines []string
}

func (h *heard) told(step, format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, step+": "+fmt.Sprintf(format, args...))
}

func (h *heard) has(part string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.lines, func(l string) bool { return strings.Contains(l, part) })
}

// fragment leaves the members with files that are mostly free.
func (r *ring) fragment() {
	r.t.Helper()
	r.fill("/waste/", 4000)
	client := r.client(r.Nodes[0])
	deleted, err := client.Delete(r.t.Context(), "/waste/", clientv3.WithPrefix())
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := client.Compact(r.t.Context(), deleted.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		r.t.Fatal(err)
	}
	r.until("the members to be fragmented", func(v View) bool {
		return !slices.ContainsFunc(v.Members, func(m MemberView) bool { return m.Fragmentation() < DefaultThreshold })
	})
}

// A rolling defragmentation with somebody who writes all the time: what was
// acknowledged stays, the leader has moved before its turn, everybody's file is
// small.
func TestDefragRolls(t *testing.T) {
	r := startRing(t, 3)
	r.fragment()
	v := r.look()
	plan, err := PlanDefrag(v, DefragOptions{Threshold: DefaultThreshold})
	if err != nil || len(plan.Steps) != 3 || plan.Steps[2].Member != v.Leader || !plan.Steps[2].Leads {
		t.Fatalf("plan %+v, %v", plan, err)
	}
	stop := r.write()
	var h heard
	done, err := Defrag(t.Context(), r.site(), plan, h.told)
	if err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(h.lines, "\n"))
	}
	if writes := stop(); writes == 0 {
		t.Error("nothing was written meanwhile")
	}
	if !h.has(v.Leader + " hands the lead to") {
		t.Errorf("the lead was not handed over: %q", h.lines)
	}
	for i, d := range done {
		if d.Member != plan.Steps[i].Member || d.After >= d.Before/2 {
			t.Errorf("%d: %+v after step %+v", i, d, plan.Steps[i])
		}
	}
	after := r.settle()
	if again, err := PlanDefrag(after, DefragOptions{Threshold: DefaultThreshold}); err != nil || len(again.Steps) > 0 {
		t.Errorf("a second plan: %+v, %v", again.Steps, err)
	}
}

// write counts a key up until the returned function is called, which says how
// far. A put that fails, as some do while the lead moves, is tried again; at the
// end the last one that was acknowledged has to be there.
func (r *ring) write() (stop func() int) {
	var endpoints []string
	for _, n := range r.Nodes {
		endpoints = append(endpoints, n.Member.ClientURL)
	}
	cfg, err := r.Files.config()
	if err != nil {
		r.t.Fatal(err)
	}
	client, err := newClient(clientv3.Config{Endpoints: endpoints, TLS: cfg})
	if err != nil {
		r.t.Fatal(err)
	}
	ended := make(chan struct{})
	var writer sync.WaitGroup
	writes := 0
	writer.Go(func() {
		defer client.Close()
		for r.t.Context().Err() == nil {
			select {
			case <-ended:
				return
			default:
			}
			ctx, cancel := context.WithTimeout(r.t.Context(), answerTimeout)
			if _, err := client.Put(ctx, "/steady", fmt.Sprint(writes+1)); err == nil {
				writes++
			}
			cancel()
		}
	})
	return func() int {
		close(ended)
		writer.Wait()
		answer, err := r.client(r.Nodes[0]).Get(r.t.Context(), "/steady")
		if err != nil || len(answer.Kvs) != 1 {
			r.t.Fatalf("read what was written: %v, %v", answer, err)
		}
		if last, _ := strconv.Atoi(string(answer.Kvs[0].Value)); last != writes && last != writes+1 {
			r.t.Errorf("the last write is %d, %d were acknowledged", last, writes)
		}
		return writes
	}
}

// Two hosts never defragment at once, and one that restarts a member is waited
// for.
func TestDefragWaitsForItsTurn(t *testing.T) {
	r := startRing(t, 3)
	r.fragment()
	claims, err := OpenClaims(t.Context(), r.Files, r.site().Endpoints())
	if err != nil {
		t.Fatal(err)
	}
	defer claims.Close()
	other, err := claims.Take(t.Context(), TurnClaim, "m2", time.Minute)
	if err != nil || other.Holder != "m2" {
		t.Fatal(other, err)
	}
	plan, err := PlanDefrag(r.look(), DefragOptions{Only: "m1"})
	if err != nil {
		t.Fatal(err)
	}
	var h heard
	ended := make(chan error, 1)
	go func() {
		_, err := Defrag(t.Context(), r.site(), plan, h.told)
		ended <- err
	}()
	eventually(t, "the operation to wait", func() error {
		if h.has("m2 has etcd's turn") {
			return nil
		}
		return errors.New("it does not")
	})
	if m1, _ := r.look().member("m1"); m1.Fragmentation() < DefaultThreshold {
		t.Error("it went on although another host had its turn")
	}
	if err := claims.Release(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if free, err := claims.Look(t.Context(), TurnClaim); err != nil || free.Holder != "" {
		t.Errorf("the turn was not given back: %+v, %v", free, err)
	}
}

// One that dies while it is at it is noticed: what was planned is not done on a
// cluster that is no longer steady.
func TestDefragStopsWhenAMemberDies(t *testing.T) {
	r := startRing(t, 3)
	r.fragment()
	v := r.look()
	plan, err := PlanDefrag(v, DefragOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.node(plan.Steps[1].Member).kill()
	done, err := Defrag(t.Context(), r.site(), plan, nil)
	if !errors.Is(err, ErrUnsteady) || len(done) > 0 {
		t.Errorf("done %+v, error %v", done, err)
	}
}

func TestMoveLeader(t *testing.T) {
	r := startRing(t, 3)
	for _, to := range []string{"m1", "m2", "m3", "m3", ""} {
		before := r.look().Leader
		from, target, err := MoveLeader(t.Context(), r.site(), to, nil)
		if err != nil || to != "" && target != to || from != before || to == "" && target == before {
			t.Fatalf("to %q: from %s (it was %s) to %s, %v", to, from, before, target, err)
		}
		r.until(target+" to lead", func(v View) bool { return v.Leader == target })
	}
	if _, _, err := MoveLeader(t.Context(), r.site(), "m9", nil); err == nil || !strings.Contains(err.Error(), "no member") {
		t.Errorf("to an unknown member: %v", err)
	}
	leader := r.look().Leader
	var down string
	for _, n := range r.Nodes {
		if n.Member.Name != leader {
			down = n.Member.Name
		}
	}
	r.node(down).kill()
	if _, _, err := MoveLeader(t.Context(), r.site(), down, nil); err == nil || !strings.Contains(err.Error(), "not in step") {
		t.Errorf("to one that is down: %v", err)
	}
	if _, _, err := PlanMoveLeader(wellView().change(func(v *View) { v.Members = v.Members[:1] }), ""); err == nil {
		t.Error("a single member handed its lead over")
	}
}
