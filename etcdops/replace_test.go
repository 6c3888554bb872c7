package etcdops

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// replacing is a replacement that a process of its own does, and at whose end it
// is killed.
type replacing struct {
	Site      Site
	Options   ReplaceOptions
	KillAfter ReplaceStep
}

func runReplace(config []byte) error {
	var r replacing
	if err := json.Unmarshal(config, &r); err != nil {
		return err
	}
	turnTime = 6 * time.Second // how long the next one waits for one that was killed
	r.Options.after = func(step ReplaceStep) {
		if step == r.KillAfter {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	_, err := Replace(ctx, r.Site, r.Options, nil)
	return err
}

// killed runs a replacement that is killed after a step, and fails the test if
// it was not.
func (r *ring) killed(opts ReplaceOptions, after ReplaceStep) {
	r.t.Helper()
	cmd, err := selfAs(envReplace, replacing{r.site(), opts, after})
	if err != nil {
		r.t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		r.t.Fatalf("not killed after %s: %v\n%s", after, err, out)
	}
}

// replaceOptions are those of a test: no machine comes back here.
func (r *ring) replaceOptions(host string) ReplaceOptions {
	return ReplaceOptions{Host: host, Silence: 500 * time.Millisecond, Patience: time.Minute, Peer: r.Files}
}

// One command replaces a dead host's member by its reinstalled self, whether or
// not anything of the host is left.
func TestReplace(t *testing.T) {
	r := newRing(t, 3)
	for _, n := range r.Nodes[:2] {
		r.agent(n)
	}
	stop := r.agent(r.Nodes[2])
	r.began()
	r.fill("/registry/", 500)
	m3 := r.node("m3")
	for _, marker := range []bool{false, true} {
		stop()
		before, _ := r.look().member("m3")
		m3.lose(marker)
		r.until("m3 to be missed", func(v View) bool { return v.Serving == 2 && v.Quorum })
		stop = r.agent(m3)
		var h heard
		done, err := Replace(t.Context(), r.site(), r.replaceOptions("m3"), h.told)
		if err != nil {
			t.Fatalf("%v\n%s\n%s", err, strings.Join(h.lines, "\n"), m3.log())
		}
		v := Look(t.Context(), r.site(), true)
		after, _ := v.member("m3")
		if done.Removed != before.ID || done.Added != after.ID || after.ID == before.ID || after.Learner || len(problems(v)) > 0 {
			t.Errorf("done %+v, before %+v, after %+v, problems %q", done, before, after, problems(v))
		}
		r.began()
		if again, err := Replace(t.Context(), r.site(), r.replaceOptions("m3"), nil); err != nil || again.Removed != "" || again.Added != "" {
			t.Errorf("a second time: %+v, %v", again, err)
		}
	}
}

// Killed after every step, on whichever host, the same command goes on.
func TestReplaceKilled(t *testing.T) {
	r := newRing(t, 3)
	for _, n := range r.Nodes[:2] {
		r.agent(n)
	}
	stop := r.agent(r.Nodes[2])
	r.began()
	r.fill("/registry/", 500)
	stop()
	m3 := r.node("m3")
	m3.lose(false)
	opts := r.replaceOptions("m3")
	for _, step := range []ReplaceStep{ReplaceRemove, ReplaceAdd, ReplaceStart} {
		r.killed(opts, step)
		r.oneCluster()
	}
	// The learner starts, loses its data once more, and dies in the middle.
	stop = r.agent(m3)
	joined := r.until("m3 to have joined", func(v View) bool { m, _ := v.member("m3"); return m.Started && m.Learner })
	stop()
	m3.lose(false)
	r.agent(m3)
	r.killed(opts, ReplaceAdd)
	again := r.until("m3 to have joined again", func(v View) bool { m, _ := v.member("m3"); return m.Started && m.Learner })
	if first, _ := joined.member("m3"); first.ID == again.Members[2].ID {
		t.Error("m3 took its own place with its data lost")
	}
	m3.kill()
	r.killed(opts, ReplacePromote)
	eventually(t, "the turn to lapse", func() error {
		claims, err := OpenClaims(t.Context(), r.Files, r.site().Endpoints())
		if err != nil {
			return err
		}
		defer claims.Close()
		claim, err := claims.Look(t.Context(), TurnClaim)
		if err == nil && claim.Holder != "" {
			err = errors.New(claim.Holder)
		}
		return err
	})
	if done, err := Replace(t.Context(), r.site(), opts, nil); err != nil || done.Removed != "" {
		t.Fatalf("at the end: %+v, %v", done, err)
	}
	if v := Look(t.Context(), r.site(), true); len(problems(v)) > 0 || v.Voters != 3 {
		t.Errorf("afterwards: %q", problems(v))
	}
}

// A member that differs from the others is replaced though its alarm keeps etcd
// from answering, and then the alarm may go.
func TestReplaceCorrupt(t *testing.T) {
	r := newRing(t, 3)
	for _, n := range r.Nodes[:2] {
		r.agent(n)
	}
	stop := r.agent(r.Nodes[2])
	r.began()
	m3 := r.node("m3")
	old, _ := r.look().member("m3")
	raise(t, r.client(r.Nodes[0]), pb.AlarmType_CORRUPT, old.id)
	stop()
	m3.lose(true)
	r.agent(m3)
	if _, err := Replace(t.Context(), r.site(), r.replaceOptions("m3"), nil); err != nil {
		t.Fatal(err)
	}
	plan, err := PlanDisarm(r.look())
	if err != nil || !plan.Compare {
		t.Fatalf("plan %+v, %v", plan, err)
	}
	if _, err := Disarm(t.Context(), r.site(), plan, nil); err != nil {
		t.Fatal(err)
	}
	r.settle()
	r.fill("/registry/", 1)
}

func TestReplaceRefuses(t *testing.T) {
	r := startRing(t, 3)
	if _, err := Replace(t.Context(), r.site(), r.replaceOptions("m9"), nil); !errors.Is(err, ErrNotReplaced) {
		t.Errorf("an unknown host: %v", err)
	}
	// One that is only restarted answers again.
	m3 := r.node("m3")
	m3.kill()
	opts := r.replaceOptions("m3")
	opts.Silence = time.Minute
	var h heard
	ended := make(chan error, 1)
	go func() {
		_, err := Replace(t.Context(), r.site(), opts, h.told)
		ended <- err
	}()
	eventually(t, "the silence to be made sure of", func() error {
		if h.has("making sure") {
			return nil
		}
		return errors.New("not yet")
	})
	m3.start()
	if err := <-ended; !errors.Is(err, ErrNotReplaced) || !strings.Contains(err.Error(), "m3") {
		t.Errorf("one that was restarted: %v", err)
	}
	r.settle()
	// Without a quorum nothing is changed.
	r.node("m2").kill()
	m3.kill()
	r.until("the quorum to be lost", func(v View) bool { return !v.Quorum })
	if _, err := Replace(t.Context(), r.site(), r.replaceOptions("m3"), nil); !errors.Is(err, ErrNotReplaced) || !strings.Contains(err.Error(), "no quorum") {
		t.Errorf("without a quorum: %v", err)
	}
}
