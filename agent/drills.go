package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/calendar"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

const (
	// drillCalm is how long after the boot no drill begins: the host has other
	// things to do.
	drillCalm = 10 * time.Minute
	// drillLook is how often the scheduled drills look again where the record or
	// the folder cannot tell when the next is due.
	drillLook = time.Hour
)

// drills makes the scheduled drills of one host in a goroutine of its own, each
// in a process of its own: its memory and its priority are not the agent's, and a
// database that makes etcd's code fail does not end the agent.
type drills struct {
	spec string // the digest of the spec that is followed
	background
}

// follow makes drills as the host's spec says. While that does not change it does
// nothing; otherwise it ends what was scheduled before, and a drill that runs.
func (d *drills) follow(ctx context.Context, h *Host, s Settings) {
	spec := h.Spec()
	if d.spec == spec.Digest {
		return
	}
	d.stop()
	if !spec.Has(hosts.RoleEtcd) {
		d.spec = spec.Digest
		return
	}
	if !etcdops.Initialised(h.root) {
		return
	}
	d.spec = spec.Digest
	if err := etcdops.CleanDrills(h.root.Scratch()); err != nil {
		h.log.Error("what a drill left that was ended is not removed", "error", err)
	}
	if spec.Snapshots.Drill == "" {
		return
	}
	schedule, err := calendar.Parse(spec.Snapshots.Drill)
	if err != nil {
		panic(err) // a spec with another schedule is never valid
	}
	d.begin(ctx, func(ctx context.Context) { makeDrills(ctx, h, spec, schedule, s) })
}

func makeDrills(ctx context.Context, h *Host, spec *hosts.Spec, schedule calendar.Schedule, s Settings) {
	calm := time.Now().Add(drillCalm - pki.ObserveClock().Uptime)
	for ctx.Err() == nil {
		now := time.Now()
		next := drillPlanOf(h.root, spec, schedule).next(now)
		if next.IsZero() {
			return
		}
		if next.Before(calm) {
			next = calm
		}
		if pause := now.Add(drillLook); next.After(pause) {
			sleepUntil(ctx, pause) // a person's drill or a clock that is set moves it
			continue
		}
		if !sleepUntil(ctx, next) {
			return
		}
		if err := makeDrill(ctx, h, s); err != nil && ctx.Err() == nil {
			h.log.Error("the scheduled drill failed: whether the newest snapshot restores is not known", "error", err)
			sleepUntil(ctx, time.Now().Add(drillLook))
		}
	}
}

// drillPlanOf reads what decides about the host's next drill.
func drillPlanOf(root layout.Root, spec *hosts.Spec, schedule calendar.Schedule) drillPlan {
	p := drillPlan{schedule: schedule, delay: ownDelay(spec.Snapshots.DrillSpread, spec.Cluster, spec.Name, "drill")}
	if marker, err := os.Stat(root.EtcdMarker()); err == nil {
		p.since = marker.ModTime()
	}
	// A record that cannot be read is one that was never written: drilling writes it.
	record, _, _ := etcdops.ReadDrills(root)
	p.last = record.Last
	return p
}

// drillEnds is how long a drill may take to clean up when it is ended.
const drillEnds = time.Minute

// makeDrill runs `nodeagent snapshot drill` with the fleet that is in force.
func makeDrill(ctx context.Context, h *Host, s Settings) error {
	program := cmp.Or(s.Program, "/proc/self/exe")
	cmd := exec.CommandContext(ctx, program, "snapshot", "drill", "--fleet", keptFleet(h.root), "--host", h.Spec().Name)
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = drillEnds
	// Should the agent be killed, the drill ends as well. That signal is sent when
	// the thread ends that started it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	ended := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		ended <- cmd.Run()
	}()
	err := <-ended
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return fmt.Errorf("%s (%w)", bytes.TrimSpace(said.Bytes()), err)
	}
	if err != nil {
		return fmt.Errorf("run %q: %w", program, err)
	}
	if record, ok, err := etcdops.ReadDrills(h.root); err == nil && ok {
		r := record.Last
		h.log.Info("a snapshot was restored on trial", "snapshot", r.Snapshot, "revision", r.Revision, "keys", r.Keys,
			"age", time.Duration(r.RPOSeconds)*time.Second, "seconds until it served", r.Seconds.RTO())
	}
	return nil
}
