package etcdops

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/internal/layout"
)

func (h *host) undoOptions() UndoOptions {
	o := h.restoreOptions("")
	return UndoOptions{
		Root: h.Root, Host: o.Host, Cluster: o.Cluster, Members: o.Members, TLS: o.TLS, Endpoint: o.Endpoint,
		Stop: o.Stop, Restart: o.Restart, HealthTimeout: o.HealthTimeout,
	}
}

func undoPlan(t testing.TB, h *host) RestorePlan {
	t.Helper()
	plan, err := PlanUndo(t.Context(), h.undoOptions())
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// restoredHost has a and b in the data that a restore has put aside, and a alone
// in that which is live.
func restoredHost(t testing.TB) *host {
	t.Helper()
	h := startHost(t)
	put(t, h, "a")
	_, path := save(t, h)
	put(t, h, "b")
	if _, err := Restore(t.Context(), h.Root, planOf(t, h, path), h, nil); err != nil {
		t.Fatal(err)
	}
	return h
}

// An undo goes forth and back, and nothing is lost on the way.
func TestUndoBringsTheOldDataBack(t *testing.T) {
	t.Parallel()
	h := restoredHost(t)
	if _, err := PlanUndo(t.Context(), UndoOptions{Root: layout.Root(t.TempDir())}); err == nil || !strings.Contains(err.Error(), "nothing to go back to") {
		t.Errorf("undo without a restore: %v", err)
	}
	put(t, h, "new")
	for _, want := range [][]string{{"a", "b"}, {"a", "new"}, {"a", "b"}} {
		kept, err := KeptData(h.Root)
		if err != nil || len(kept) != 1 {
			t.Fatalf("kept %+v, %v", kept, err)
		}
		h.calls(t)
		plan := undoPlan(t, h)
		result, err := Restore(t.Context(), h.Root, plan, h, nil)
		if err != nil || result.Keys != 2 || result.KeptOld != plan.AsideDir {
			t.Fatalf("undo: %+v, %v", result, err)
		}
		if diff := cmp.Diff(want, keysOf(t, h)); diff != "" {
			t.Errorf("keys (-want +got):\n%s", diff)
		}
		wantCalls := []string{"stop kube-apiserver", "stop etcd", "start etcd", "start kube-apiserver", "stop kubelet", "start kubelet"}
		if diff := cmp.Diff(wantCalls, h.calls(t)); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
		h.checkTidy(t, "undone")
	}
	opts := h.undoOptions()
	opts.Data = t.TempDir()
	if _, err := PlanUndo(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "does not lie beside") {
		t.Errorf("data from elsewhere: %v", err)
	}
	opts.Data = h.Root.EtcdData() + ".before-restore-20200101T000000Z"
	if _, err := PlanUndo(t.Context(), opts); err == nil {
		t.Error("data that is not there is to come back")
	}
}

// TestUndoKilledAnywhere does with an undo what TestRestoreKilledAnywhere does
// with a restore: with the restored data live, with that wiped, and with old data
// that does not start any more.
func TestUndoKilledAnywhere(t *testing.T) {
	t.Parallel()
	for name, tc := range killedCases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := restoredHost(t)
			for n := 1; ; n++ {
				if tc.wiped {
					h.wipe(t, n%2 == 0)
				}
				h.RefuseUndone = tc.refuse
				plan := undoPlan(t, h)
				event, how := tc.kill(t, h, plan, n)
				undone := h.checkUndone(t, event, plan, how, tc.wiped)
				if passedAll(t, event, n) {
					break
				}
				if undone && tc.wiped {
					h.putAsideByHand(t, plan)
				} else if undone {
					if _, err := Restore(t.Context(), h.Root, undoPlan(t, h), h, nil); err != nil {
						t.Fatalf("killed at %q: forth again: %v", event, err)
					}
				}
			}
		})
	}
}

// putAsideByHand makes the data that came back into such that was put aside.
func (h *host) putAsideByHand(t *testing.T, plan RestorePlan) {
	t.Helper()
	if err := h.Stop(t.Context(), layout.Etcd); err != nil {
		t.Fatal(err)
	}
	if err := rename(plan.DataDir, plan.StagedDir); err != nil {
		t.Fatal(err)
	}
}

// checkUndone ends the undo, and tells whether the old data came back.
func (h *host) checkUndone(t *testing.T, event string, plan RestorePlan, how Ending, wiped bool) bool {
	t.Helper()
	event = "killed at " + event + ", ended " + string(how)
	outcome, _, err := EndRestore(t.Context(), h.Root, how, OpenOptions{}, h, nil)
	if err != nil && h.RefuseUndone == "" && !errors.Is(err, ErrStands) {
		t.Fatalf("%s: %v", event, err)
	}
	h.checkTidy(t, event)
	live, _, err := dataCluster(plan.DataDir)
	undone := err == nil && live == plan.ClusterID
	if done := outcome != OutcomeNone; done && undone != (outcome == OutcomeCompleted) || done && how == EndForward && h.RefuseUndone == "" && !undone {
		t.Fatalf("%s: %s, and the old data is live: %v", event, outcome, undone)
	}
	if undone && h.RefuseUndone != "" {
		t.Fatalf("%s: data that does not start is live", event)
	}
	if !undone {
		h.checkKept(t, event, plan.StagedDir, 2)
		if wiped {
			return false
		}
	}
	h.waitHealthy(t)
	want := []string{"a"}
	if undone {
		want = []string{"a", "b"}
	}
	if diff := cmp.Diff(want, keysOf(t, h)); diff != "" {
		t.Fatalf("%s: keys (-want +got):\n%s", event, diff)
	}
	if undone && !wiped {
		h.checkKept(t, event, plan.AsideDir, 1)
	}
	return undone
}

// A fleet that was restored is undone as it was restored: on each host, with no
// member of the restored cluster left running.
func TestUndoAFleet(t *testing.T) {
	t.Parallel()
	r := startRing(t, 3)
	old := r.oneCluster()
	r.fill("/registry/", 20)
	store := t.TempDir()
	snapshot := r.saveTo(r.Nodes[0], store)
	r.fill("/later/", 20)
	all := map[*node]RestoreOptions{}
	for _, n := range r.Nodes {
		n.kill()
		all[n] = r.restoreOptions(n, snapshot)
	}
	restored := r.restoreAll(all)[r.Nodes[0]].Plan.ClusterID
	r.settle()
	undo := func(n *node) error {
		o := r.restoreOptions(n, "")
		plan, err := PlanUndo(t.Context(), UndoOptions{
			Root: n.Root, Host: o.Host, Cluster: o.Cluster, Members: o.Members, TLS: o.TLS, Peer: o.Peer, Endpoint: o.Endpoint, HealthTimeout: o.HealthTimeout,
		})
		if err != nil {
			return err
		}
		_, err = Restore(t.Context(), n.Root, plan, nodeUnits{n}, nil)
		return err
	}
	if err := undo(r.Nodes[0]); !errors.Is(err, ErrFenced) {
		t.Fatalf("undo beside the restored cluster: %v", err)
	}
	for _, n := range r.Nodes {
		n.kill()
	}
	failed := make(chan error)
	for _, n := range r.Nodes {
		go func() { failed <- undo(n) }()
	}
	for range r.Nodes {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	r.settle()
	if id := r.oneCluster(); id != old || id == restored {
		t.Errorf("the cluster is %s, it was %s before the restore made %s", id, old, restored)
	}
	for _, n := range r.Nodes {
		if keys := r.keys(n); len(keys) != 40 {
			t.Errorf("%s has %d keys", n.Member.Name, len(keys))
		}
	}
}
