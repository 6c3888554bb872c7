package etcdops

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// A snapshot of an etcd that ran out of its quota comes back read-only. It is
// refused, unless the restore is to make room.
func TestRestoreRepairsSpace(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.Server.Quota = 8 << 20
	if err := h.Start(t.Context(), layout.Etcd); err != nil {
		t.Fatal(err)
	}
	h.waitHealthy(t)
	put(t, h, "kept")
	client := h.client(t)
	defer client.Close()
	value := strings.Repeat("x", 256<<10)
	// The same key over and over: its history is what takes the room. etcd counts
	// it ten times a second, so how many writes go in depends on the machine.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for n := 0; ; n++ {
		_, err := client.Put(ctx, "again", value)
		if errors.Is(err, rpctypes.ErrNoSpace) {
			break
		}
		if err != nil {
			t.Fatalf("after %d writes: %v", n, err)
		}
	}
	_, path := save(t, h)
	opts := h.restoreOptions(path)
	if _, err := PlanRestore(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "--repair-space") {
		t.Fatalf("plan with the alarm: %v", err)
	}
	opts.RepairSpace = true
	plan, err := PlanRestore(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	if _, err := Restore(t.Context(), h.Root, plan, h, func(e Event) { told = append(told, e.Step+": "+e.Text) }); err != nil {
		t.Fatalf("%v; told %v", err, told)
	}
	if v := Look(t.Context(), h.site(), false); len(v.Alarms) != 0 {
		t.Errorf("alarms %+v", v.Alarms)
	}
	put(t, h, "writable")
}

// A disk without room for the staged data is found before anything is touched.
func TestPlanRefusesWithoutRoom(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	put(t, h, "a")
	_, path := save(t, h)
	plan := planOf(t, h, path)
	plan.Snapshot.Size = 1 << 50
	if err := plan.checkSpace(); err == nil || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("%v", err)
	}
}
