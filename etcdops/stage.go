package etcdops

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/verify"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// quiet is the logger of etcd's code, which logs what it also returns. A fatal
// entry would end nodeagent; it becomes a panic, and guarded makes that an
// error.
func quiet() *zap.Logger {
	return zap.NewNop().WithOptions(zap.WithFatalHook(zapcore.WriteThenPanic))
}

// stage makes the restored data folder beside the live one with etcd's own
// restore, verifies it with etcd's own verification and makes it durable.
func stage(ctx context.Context, p RestorePlan, progress func(done, total int64)) error {
	if err := os.RemoveAll(p.StagedDir); err != nil {
		return err
	}
	if err := makeStaged(ctx, p, progress); err != nil {
		return err
	}
	if err := writeMark(p.StagedDir, p); err != nil {
		return err
	}
	if err := guarded(func() error {
		return verify.Verify(verify.Config{DataDir: p.StagedDir, ExactIndex: true, Logger: quiet()})
	}); err != nil {
		return fmt.Errorf("verify %q: %w", p.StagedDir, err)
	}
	return settle(p.StagedDir)
}

// makeStaged runs etcd's restore, which knows no context, and follows its
// progress by the size of the database that grows.
func makeStaged(ctx context.Context, p RestorePlan, progress func(done, total int64)) (err error) {
	path, closeSource, err := p.plainSource(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeSource()) }()
	var self Member
	for _, m := range p.Members {
		if m.Name == p.Host {
			self = m
		}
	}
	done := make(chan error, 1)
	go func() {
		done <- guarded(func() error {
			return snapshot.NewV3(quiet()).Restore(snapshot.RestoreConfig{
				SnapshotPath:        path,
				Name:                p.Host,
				OutputDataDir:       p.StagedDir,
				PeerURLs:            []string{self.PeerURL},
				InitialCluster:      initialCluster(p.Members),
				InitialClusterToken: p.Token,
				SkipHashCheck:       p.SkipHash || path != p.Snapshot.Path, // which was hashed when it was unsealed
				RevisionBump:        p.RevisionBump,
				MarkCompacted:       p.RevisionBump > 0,
			})
		})
	}()
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	database := filepath.Join(p.StagedDir, "member", "snap", "db")
	for {
		select {
		case err := <-done:
			if err != nil {
				return fmt.Errorf("restore %q into %q: %w", p.Snapshot.Path, p.StagedDir, err)
			}
			progress(p.Snapshot.Size, p.Snapshot.Size)
			return ctx.Err()
		case <-ticker.C:
			if info, err := os.Stat(database); err == nil {
				progress(min(info.Size(), p.Snapshot.Size), p.Snapshot.Size)
			}
		}
	}
}

// plainSource is the path of what etcd sent: the snapshot itself, or what was
// unsealed of it.
func (p RestorePlan) plainSource(ctx context.Context) (path string, done func() error, err error) {
	path, done = p.Snapshot.Path, func() error { return nil }
	if p.Snapshot.Stored.plain() {
		return path, done, nil
	}
	source := p.source
	if source == nil {
		opts := p.open
		opts.Progress = nil
		if source, err = openPlain(ctx, path, opts); err != nil {
			return "", nil, fmt.Errorf("unseal %q: %w", path, err)
		}
		done = source.Close
	}
	if ok, whole := source.whole(); whole != p.Snapshot.SHA256 || p.Snapshot.Trailer && !ok {
		err := fmt.Errorf("%q is no longer the snapshot that was planned with: its SHA-256 is %s, not %s", path, whole, p.Snapshot.SHA256)
		return "", nil, errors.Join(err, done())
	}
	return source.plain, done, nil
}

// settle gives the staged folder the owner of the folder around it and modes
// that let nobody else in, and syncs all of it to the disk.
func settle(dir string) error {
	var parent unix.Stat_t
	if err := unix.Stat(filepath.Dir(dir), &parent); err != nil {
		return fmt.Errorf("look at %q: %w", filepath.Dir(dir), err)
	}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o600)
		if entry.IsDir() {
			mode = 0o700
		}
		if err := os.Lchown(path, int(parent.Uid), int(parent.Gid)); err != nil {
			return err
		}
		if err := os.Chmod(path, mode); err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
	if err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}
