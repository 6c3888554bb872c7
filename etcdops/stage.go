package etcdops

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

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

// stage makes the restored data folder beside the live one, verifies it with
// etcd's own verification and makes it durable.
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

// makeStaged puts the database into the folder and makes it the data of the host's
// member.
func makeStaged(ctx context.Context, p RestorePlan, progress func(done, total int64)) error {
	database := filepath.Join(p.StagedDir, "member", "snap", "db")
	if err := atomicfile.MkdirAll(filepath.Dir(database), 0o700); err != nil {
		return err
	}
	if err := p.place(ctx, database, progress); err != nil {
		return err
	}
	if p.Snapshot.Trailer {
		if err := os.Truncate(database, p.Snapshot.Size-trailerSize); err != nil {
			return err
		}
	}
	s := seed{Dir: p.StagedDir, Host: p.Host, Members: p.Members, Token: p.Token, Bump: p.RevisionBump, Latest: p.Snapshot.Revision}
	if err := guarded(s.plant); err != nil {
		return fmt.Errorf("restore %q into %q: %w", p.Snapshot.Path, p.StagedDir, err)
	}
	progress(p.Snapshot.Size, p.Snapshot.Size)
	return ctx.Err()
}

// place puts what etcd sent at the path. What was unsealed becomes it, as long as
// it lies on the same disk; everything else is copied.
func (p RestorePlan) place(ctx context.Context, path string, progress func(done, total int64)) (err error) {
	if p.Snapshot.Stored.plain() {
		return p.copyPlain(ctx, path, progress)
	}
	source := p.source
	if source == nil || source.moved {
		opts := p.open
		opts.Progress = nil
		if source, err = openPlain(ctx, p.Snapshot.Path, opts); err != nil {
			return fmt.Errorf("unseal %q: %w", p.Snapshot.Path, err)
		}
		defer func() { err = errors.Join(err, source.Close()) }()
	}
	if ok, whole := source.whole(); whole != p.Snapshot.SHA256 || p.Snapshot.Trailer && !ok {
		return p.changed(whole)
	}
	if source.moveTo(path) {
		return nil
	}
	return p.copyTo(ctx, path, source, progress)
}

// copyPlain copies a snapshot that lies as etcd sent it, and compares it once more
// with what was planned: the file is a person's.
func (p RestorePlan) copyPlain(ctx context.Context, path string, progress func(done, total int64)) (err error) {
	f, err := os.Open(p.Snapshot.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := newCountingHash()
	if err := p.copyTo(ctx, path, f, progress, sum); err != nil {
		return err
	}
	if whole := sum.sum(); whole != p.Snapshot.SHA256 {
		return p.changed(whole)
	}
	return nil
}

// copyTo copies what etcd sent to a new file, and to the writers beside.
func (p RestorePlan) copyTo(ctx context.Context, path string, from io.ReaderAt, progress func(done, total int64), beside ...io.Writer) (err error) {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	in := &following{ctx: ctx, r: io.NewSectionReader(from, 0, p.Snapshot.Size), total: p.Snapshot.Size, progress: progress}
	if err := copyBeside(in, append(beside, out)...); err != nil {
		return fmt.Errorf("copy %q: %w", p.Snapshot.Path, err)
	}
	return nil
}

func (p RestorePlan) changed(sum string) error {
	return fmt.Errorf("%q is no longer the snapshot that was planned with: its SHA-256 is %s, not %s", p.Snapshot.Path, sum, p.Snapshot.SHA256)
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
