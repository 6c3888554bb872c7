package etcdops

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// killed is what a child process does until it kills itself.
type killed struct {
	Host host
	// Plan is restored; without one an interrupted restore is ended, as How says.
	Plan *RestorePlan
	How  Ending
	// At is the number of the event, or of the step that has changed the disk, at
	// which the process dies.
	At int
}

const allEventsSeen = "all events seen"

func runRestore(config []byte) error {
	var k killed
	if err := json.Unmarshal(config, &k); err != nil {
		return err
	}
	n := 0
	at := func(point string) {
		if n++; n == k.At {
			fmt.Println(point)
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
				panic(err)
			}
			select {}
		}
	}
	passed = func(step string) { at("passed " + step) }
	report := func(e Event) {
		if e.Text != "" {
			at(e.Step + ": " + e.Text)
		}
	}
	var err error
	if k.Plan != nil {
		_, err = Restore(context.Background(), k.Host.Root, *k.Plan, &k.Host, report)
	} else {
		_, _, err = EndRestore(context.Background(), k.Host.Root, k.How, OpenOptions{}, &k.Host, report)
	}
	if err != nil && k.Host.RefuseRestored+k.Host.RefuseUndone == "" && !errors.Is(err, ErrStands) {
		return err
	}
	fmt.Println(allEventsSeen)
	return nil
}

// run runs the child and returns the event at which it died.
func (k killed) run(t *testing.T) string {
	t.Helper()
	return runKilled(t, envRestore, k)
}

// runKilled runs the test binary as what the variable of the environment stands
// for, and returns the event at which it killed itself.
func runKilled(t *testing.T, variable string, settings any) string {
	t.Helper()
	cmd, err := selfAs(variable, settings)
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	event := strings.TrimSpace(string(out))
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); event != allEventsSeen && (!ok || status.Signal() != syscall.SIGKILL) {
		t.Fatalf("child: %v, %q, %s", err, event, stderr.String())
	}
	return event
}

// endings are tried in turn, so that over the cases each point of a restore meets
// each of them.
var endings = []Ending{EndSafely, EndForward, EndBack}

// killedCase is a state in which a restore and an undo are killed: with the live
// data gone, or with data that does not start. The shift has each meet the endings
// in an order of its own.
type killedCase struct {
	wiped  bool
	refuse string
	shift  int
}

var killedCases = map[string]killedCase{
	"live":  {},
	"wiped": {wiped: true, shift: 1},
	"fails": {refuse: "unit failed", shift: 2},
}

// kill kills what the plan does at its nth point, and at each second point what
// ends it as well. It answers where they died and how the rest is to be ended.
func (tc killedCase) kill(t *testing.T, h *host, plan RestorePlan, n int) (event string, how Ending) {
	t.Helper()
	how = endings[(n+tc.shift)%len(endings)]
	event = killed{Host: *h, Plan: &plan, At: n}.run(t)
	for m := 1; n%2 == 0 && m < 6; m += 2 {
		event += ", then " + killed{Host: *h, How: how, At: m}.run(t)
	}
	return event, how
}

// passedAll tells whether what was to be killed at its nth point has none.
func passedAll(t *testing.T, event string, n int) bool {
	t.Helper()
	if !strings.HasPrefix(event, allEventsSeen) {
		return false
	}
	if n < 15 {
		t.Errorf("only %d points", n)
	}
	t.Logf("killed at %d points", n-1)
	return true
}

// TestRestoreKilledAnywhere kills a restore with SIGKILL at each of its events and
// after each step that changes the disk, and what then ends it as well, once with
// etcd running, once with its data wiped, once with restored data that does not
// start. Each time what ends it last leaves either exactly the old state or
// exactly the restored one, and which of them whoever ends it has said.
func TestRestoreKilledAnywhere(t *testing.T) {
	t.Parallel()
	for name, tc := range killedCases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startHost(t)
			put(t, h, "a")
			_, path := save(t, h)
			put(t, h, "b")
			if err := MarkInitialised(h.Root, time.Now()); err != nil {
				t.Fatal(err)
			}
			for n := 1; ; n++ {
				if tc.wiped {
					h.wipe(t, n%2 == 0)
				}
				h.RefuseRestored = tc.refuse
				plan := planOf(t, h, path)
				event, how := tc.kill(t, h, plan, n)
				h.checkEnded(t, event, plan, how, tc.wiped)
				if passedAll(t, event, n) {
					break
				}
				h.reset(t, plan)
			}
		})
	}
}

// checkEnded ends the restore and looks at what is there then.
func (h *host) checkEnded(t *testing.T, event string, plan RestorePlan, how Ending, wiped bool) {
	t.Helper()
	event = fmt.Sprintf("killed at %q, ended %s", event, how)
	if !wiped && !exists(h.Root.EtcdData()) {
		t.Fatalf("%s: etcd would have found no data folder", event)
	}
	outcome, result, err := EndRestore(t.Context(), h.Root, how, OpenOptions{}, h, nil)
	if err != nil && h.RefuseRestored == "" && !errors.Is(err, ErrStands) {
		t.Fatalf("%s: %v", event, err)
	}
	if again, _, err := EndRestore(t.Context(), h.Root, how, OpenOptions{}, h, nil); again != OutcomeNone || err != nil {
		t.Fatalf("%s: still to do: %v, %v", event, again, err)
	}
	restored, err := plan.marked(plan.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	if restored && h.RefuseRestored != "" {
		t.Fatalf("%s: data that does not start is live (%+v)", event, result)
	}
	if done := outcome != OutcomeNone; done && restored != (outcome == OutcomeCompleted) || done && how == EndForward && h.RefuseRestored == "" && !restored {
		t.Fatalf("%s: %s, and the restored data is live: %v", event, outcome, restored)
	}
	h.checkTidy(t, event)
	if !restored && wiped {
		if err := h.permit(t); !errors.Is(err, ErrDataLost) {
			t.Fatalf("%s: guard says %v", event, err)
		}
		if pid, err := h.pid(layout.Etcd); pid != 0 || err != nil {
			t.Fatalf("%s: etcd runs without data (%v)", event, err)
		}
		return
	}
	h.waitHealthy(t)
	want := []string{"a", "b"}
	if restored {
		want = []string{"a"}
	}
	if diff := cmp.Diff(want, keysOf(t, h)); diff != "" {
		t.Fatalf("%s: keys (-want +got):\n%s", event, diff)
	}
	if restored && !wiped {
		h.checkKept(t, event, plan.AsideDir, 2)
	}
}

// checkTidy makes sure that nothing half done is left.
func (h *host) checkTidy(t *testing.T, event string) {
	t.Helper()
	for _, name := range h.files(t) {
		if strings.Contains(name, ".restore-") || strings.HasPrefix(name, ".nodeagent-tmp") || name == "restore.json" {
			t.Errorf("%s: %s is left", event, name)
		}
	}
}

// checkKept makes sure that data which was put aside is whole.
func (h *host) checkKept(t *testing.T, event, dir string, keys int64) {
	t.Helper()
	old, err := Verify(t.Context(), filepath.Join(dir, "member", "snap", "db"), VerifyOptions{SkipHash: true})
	if err != nil || old.Keys != keys {
		t.Fatalf("%s: the data in %s has %d keys, %v; want %d", event, dir, old.Keys, err, keys)
	}
}

// reset brings the host back to keys a and b after a restore.
func (h *host) reset(t *testing.T, plan RestorePlan) {
	t.Helper()
	if err := os.RemoveAll(plan.AsideDir); err != nil {
		t.Fatal(err)
	}
	if data, err := hasData(h.Root.EtcdData()); err != nil || !data {
		return // wiped, and wiped again
	}
	put(t, h, "b")
}
