package etcdops

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// trialPrefix begins the name of the folder of a trial, beside the data. One that a
// crash leaves is removed with what else is doomed.
const trialPrefix = atomicfile.TempPrefix + "restore-trial-"

// try boots a copy of the staged data once, alone and out of everybody's reach, with
// the etcd that is installed, and compares what it answers with the snapshot. The
// staged data itself is not touched: etcd would write into it.
func (r *restorer) try(ctx context.Context) (err error) {
	p := r.plan
	if p.Trial == "" {
		return nil
	}
	r.say(StepTrial, "booting a copy with %s", p.Trial)
	dir := filepath.Join(filepath.Dir(p.DataDir), trialPrefix+p.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	copied := filepath.Join(dir, "data")
	if err := os.CopyFS(copied, os.DirFS(p.StagedDir)); err != nil {
		return fmt.Errorf("copy the staged data for a trial: %w", err)
	}
	throwaway, err := StartThrowaway(ctx, ThrowawayOptions{Program: p.Trial, Dir: filepath.Join(dir, "etcd"), Data: copied, Name: p.Host, Alone: true})
	if err != nil {
		return fmt.Errorf("trial of the staged data: %w", err)
	}
	defer func() { err = errors.Join(err, throwaway.Stop()) }()
	status, err := memberStatus(ctx, throwaway.Client(), throwaway.Endpoint())
	if err != nil {
		return fmt.Errorf("trial of the staged data: %w", err)
	}
	keys, err := countKeys(ctx, throwaway.Client(), p.wantRevision())
	if err != nil {
		return fmt.Errorf("trial of the staged data: %w", err)
	}
	if revision := status.Header.GetRevision(); revision < p.wantRevision() || keys != p.Snapshot.Keys {
		return fmt.Errorf("trial of the staged data: etcd answers with revision %d and %d keys, it should be %d and %d", revision, keys, p.wantRevision(), p.Snapshot.Keys)
	}
	r.say(StepTrial, "it serves revision %d with %d keys", status.Header.GetRevision(), keys)
	return nil
}
