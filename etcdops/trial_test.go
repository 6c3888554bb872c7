package etcdops

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A trial boots a copy of what was staged, also of a member of several, and
// leaves nothing; what does not serve is not swapped in.
func TestRestoreWithATrial(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	put(t, h, "a", "b")
	_, path := save(t, h)
	put(t, h, "c")
	opts := h.restoreOptions(path)
	opts.Trial, opts.EtcdBinary = true, etcdProgram(t)
	plan, err := PlanRestore(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if plan.Steps[1].Name != StepTrial {
		t.Errorf("steps %+v", plan.Steps)
	}
	broken := plan
	broken.Snapshot.Keys++
	h.calls(t)
	if _, err := Restore(t.Context(), h.Root, broken, h, nil); err == nil || !strings.Contains(err.Error(), "trial of the staged data: etcd answers with revision 1000000003 and 2 keys") {
		t.Errorf("with another count of keys: %v", err)
	}
	if calls := h.calls(t); !cmp.Equal(calls, []string{""}) {
		t.Errorf("units were touched: %v", calls)
	}
	var told []string
	result, err := Restore(t.Context(), h.Root, plan, h, func(e Event) { told = append(told, e.Text) })
	if err != nil || result.Keys != 2 || !strings.Contains(strings.Join(told, "\n"), "it serves revision 1000000003 with 2 keys") {
		t.Errorf("%+v, %v, told %v", result, err, told)
	}
	h.checkTidy(t, "a trial")

	r := newRing(t, 3)
	m1 := r.Nodes[0]
	opts = r.restoreOptions(m1, path)
	opts.Cluster, opts.Trial, opts.EtcdBinary = "mercury", true, etcdProgram(t)
	if plan, err = PlanRestore(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	x := newRestorer(m1.Root, plan, nodeUnits{m1}, nil)
	if err := stage(t.Context(), plan, func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
	if err := x.try(t.Context()); err != nil {
		t.Errorf("one of three: %v", err)
	}
}
