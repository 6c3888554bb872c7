package etcdops

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// DrillOptions says what is drilled: whether a snapshot restores, found out by
// restoring it where it disturbs nobody.
type DrillOptions struct {
	// Snapshot is the file, or with Fetch the name by which people know what is to
	// be fetched. SkipHash, Identities, Scratch and Progress are as for Verify;
	// below Scratch lies everything that the drill makes, in a folder that is
	// removed afterwards.
	Snapshot string
	VerifyOptions
	// Fetch, if set, makes it a file; done is called when that is not needed any
	// more.
	Fetch func(ctx context.Context) (path string, done func() error, err error)
	// Program is etcd's, which the throwaway runs.
	Program string
	// Live are folders of data that is in use: the drill is refused where its
	// scratch folder is inside of one.
	Live []string
	// OpenValue decrypts what kube-apiserver has encrypted at rest; false where
	// this host has not the key. Nil opens nothing.
	OpenValue func(key string, value []byte) ([]byte, bool)
	// Reserve is how many percent of the scratch folder's file system stay free at
	// least; 10 by default, below which kubelets evict pods.
	Reserve int
	// Low gives the throwaway what CPU and disk nobody else wants. The caller
	// lowers its own process.
	Low bool
	// Step, if set, is called as each of the Drill… steps begins; Begun once, when
	// the drill is known to be the only one, with the report of one that was killed
	// right then.
	Step  func(step string)
	Begun func(DrillReport) error
}

// The steps of a drill, in their order.
const (
	DrillPrepare = "prepare" // what an earlier drill left is removed
	DrillFetch   = "fetch"
	DrillVerify  = "verify"
	DrillStage   = "stage"
	DrillBoot    = "boot"
	DrillCompare = "compare"
)

// driller carries out one drill.
type driller struct {
	DrillOptions
	dir    string // of this drill
	report *DrillReport
	hash   KVHash // computed from the snapshot's own pages
	found  Report
}

// drillMember is the name of the throwaway's member.
const drillMember = "drill"

// Drill restores the snapshot into a scratch folder, boots a throwaway etcd on it
// and compares what that serves with what the snapshot and its manifest say. It
// touches nothing else. The report is filled as far as the drill has come; its
// Failed and Error say where and why it stopped, as the error does.
//
// One drill at a time may use a scratch folder: the next is refused with ErrBusy.
// What a drill leaves that was killed, the next one removes.
func Drill(ctx context.Context, opts DrillOptions) (report DrillReport, err error) {
	report = DrillReport{Snapshot: opts.Snapshot, Began: time.Now().UTC().Truncate(time.Second)}
	d := &driller{DrillOptions: opts, report: &report}
	if d.Scratch == "" {
		d.Scratch = filepath.Dir(opts.Snapshot)
	}
	defer func() {
		report.Ended = time.Now().UTC().Truncate(time.Second)
		if err != nil {
			report.Error = err.Error()
			err = fmt.Errorf("drill %q: %w", opts.Snapshot, err)
			return
		}
		report.Failed = ""
	}()
	d.enter(DrillPrepare)
	release, err := d.prepare()
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(d.dir), release()) }()
	if d.Begun != nil {
		if err := d.Begun(report); err != nil {
			return report, err
		}
	}
	done, err := d.fetch(ctx)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, done()) }()
	return report, d.run(ctx)
}

// fetch makes the snapshot a file.
func (d *driller) fetch(ctx context.Context) (done func() error, err error) {
	if d.Fetch == nil {
		return func() error { return nil }, nil
	}
	err = d.timed(DrillFetch, &d.report.Seconds.Fetch, func() error {
		d.Snapshot, done, err = d.Fetch(ctx)
		return err
	})
	return done, err
}

// enter begins a step. Until the next begins it is the one that failed.
func (d *driller) enter(step string) {
	d.report.Failed = step
	if d.Step != nil {
		d.Step(step)
	}
}

// timed runs one step and notes how long it took.
func (d *driller) timed(step string, seconds *float64, do func() error) error {
	d.enter(step)
	began := time.Now()
	defer func() { *seconds = time.Since(began).Seconds() }()
	return do()
}

// prepare makes the drill's folder, alone in its kind.
func (d *driller) prepare() (release func() error, err error) {
	if err := atomicfile.MkdirAll(d.Scratch, 0o700); err != nil {
		return nil, err
	}
	for _, live := range d.Live {
		if inside, err := isInside(d.Scratch, live); err != nil {
			return nil, err
		} else if inside {
			return nil, fmt.Errorf("the scratch folder %q is inside of %q, which is in use: name another one", d.Scratch, live)
		}
	}
	release, err = Lock(drillLock(d.Scratch))
	if err != nil {
		return nil, err
	}
	err = removeDrills(d.Scratch)
	if err == nil {
		d.dir, err = os.MkdirTemp(d.Scratch, drillPrefix)
	}
	if err != nil {
		return nil, errors.Join(err, release())
	}
	return release, nil
}

func (d *driller) run(ctx context.Context) (err error) {
	o, err := d.verify(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.Close()) }()
	data := filepath.Join(d.dir, "data")
	if err := d.stage(ctx, o, data); err != nil {
		return err
	}
	var throwaway *Throwaway
	err = d.timed(DrillBoot, &d.report.Seconds.Boot, func() error {
		throwaway, err = StartThrowaway(ctx, ThrowawayOptions{
			Program: d.Program, Dir: filepath.Join(d.dir, "etcd"), Data: data, Name: drillMember, Low: d.Low,
			Quota: 2*d.found.Size + 8<<30,
		})
		return err
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, throwaway.Stop()) }()
	return d.timed(DrillCompare, &d.report.Seconds.Compare, func() error {
		return d.compare(ctx, throwaway)
	})
}

// verify checks the snapshot as everybody does who restores it, and computes from
// its pages the hash that an etcd must have that serves it.
func (d *driller) verify(ctx context.Context) (o *opened, err error) {
	err = d.timed(DrillVerify, &d.report.Seconds.Verify, func() error {
		if err := d.checkSpace(); err != nil {
			return err
		}
		if o, err = openPlain(ctx, d.Snapshot, d.OpenOptions); err != nil {
			return err
		}
		d.Objects = true
		if d.found, err = o.verify(ctx, d.Snapshot, d.VerifyOptions); err != nil {
			return err
		}
		d.report.describe(d.found)
		return checkMemory(d.found.Keys)
	})
	if err == nil {
		d.hash, err = hashKV(ctx, o.plain)
	}
	if err != nil && o != nil {
		err = errors.Join(err, o.Close())
	}
	return o, err
}

// stage restores the snapshot as the data of one member, with the revisions that
// it has: they are compared.
func (d *driller) stage(ctx context.Context, o *opened, data string) error {
	return d.timed(DrillStage, &d.report.Seconds.Stage, func() error {
		return stage(ctx, RestorePlan{
			ID: filepath.Base(d.dir), Snapshot: d.found, source: o, StagedDir: data,
			Host: drillMember, Token: filepath.Base(d.dir),
			Members: []Member{{Name: drillMember, PeerURL: "unix://" + throwawayPeers}},
		}, func(int64, int64) {})
	})
}

// The names in a scratch folder.
const drillPrefix = "drill-"

func drillLock(scratch string) string { return filepath.Join(scratch, "drill.lock") }

// Drilling tells whether a drill is running in the scratch folder.
func Drilling(scratch string) (bool, error) { return held(drillLock(scratch)) }

// CleanDrills removes what drills left in the scratch folder that were killed: the
// throwaway etcd, should that have outlived them, and their folders. While a
// drill runs it does nothing.
func CleanDrills(scratch string) error {
	if _, err := os.Stat(scratch); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	release, err := Lock(drillLock(scratch))
	if errors.Is(err, ErrBusy) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("clean up after drills: %w", err)
	}
	return errors.Join(removeDrills(scratch), release())
}

func removeDrills(scratch string) error {
	entries, err := os.ReadDir(scratch)
	if err != nil {
		return fmt.Errorf("clean up after drills: %w", err)
	}
	var failed []error
	for _, entry := range entries {
		if !entry.IsDir() || !strings.HasPrefix(entry.Name(), drillPrefix) {
			continue
		}
		dir := filepath.Join(scratch, entry.Name())
		if err := EndThrowaway(filepath.Join(dir, "etcd")); err != nil {
			failed = append(failed, err) // it may write there
			continue
		}
		failed = append(failed, os.RemoveAll(dir))
	}
	return errors.Join(failed...)
}
