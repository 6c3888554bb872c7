package etcdops

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

// saveSealed fills f with what etcd sends, compressed or encrypted, and checks it on
// the way; see passingCheck for what of it is written elsewhere. What cannot be
// checked so is streamed once more, and lies on disk unsealed while it is checked.
func saveSealed(ctx context.Context, opts SaveOptions, client *clientv3.Client, f *os.File, m *Manifest) error {
	unusual := savePassing(ctx, opts, client, f, m)
	if !errors.Is(unusual, errUnusual) || ctx.Err() != nil {
		return unusual
	}
	opts.step(stepAgain)
	if err := saveAgain(ctx, opts, client, f, m); err != nil {
		return fmt.Errorf("%w (the first time: %w)", err, unusual)
	}
	return nil
}

// stepAgain is the step to which no database comes that etcd has made.
const stepAgain = "not checked in passing"

// savePassing checks what goes by.
func savePassing(ctx context.Context, opts SaveOptions, client *clientv3.Client, f *os.File, m *Manifest) (err error) {
	most := m.Size/2 + 1<<20 // objects of 100 bytes with names as long
	check, err := newPassingCheck(ctx, opts.Scratch, most)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, check.Close()) }()
	if err := roomFor(opts.Scratch, most); err != nil {
		return err
	}
	opts.step("scratch made")
	if err := streamSealed(ctx, opts, client, f, m, nil, check.look); err != nil {
		return err
	}
	runtime.GC() // or else the names of objects come on top of what packing took
	return durably(f, func() error { return m.note(check.contents(m.Size - trailerSize)) })
}

// saveAgain streams once more from the same member, and keeps what it sends beside
// until it is checked, where the host keeps its own data: the destination sees
// nothing that is not sealed.
func saveAgain(ctx context.Context, opts SaveOptions, client *clientv3.Client, f *os.File, m *Manifest) (err error) {
	if err := again(f); err != nil {
		return err
	}
	status, err := memberStatus(ctx, client, m.Endpoint)
	if err != nil {
		return err
	}
	if err := sameMember(status, m.Endpoint, m.MemberID, m.ClusterID); err != nil {
		return err
	}
	raw, err := scratch(opts.Scratch)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, raw.Close()) }()
	if err := roomFor(opts.Scratch, status.DbSize); err != nil {
		return err
	}
	opts.step("room beside made")
	beside := bufio.NewWriterSize(raw, writeSize)
	if err := tellOnce(streamSealed(ctx, opts, client, f, m, beside, nil), beside.Flush()); err != nil {
		return err
	}
	return durably(f, func() error { return m.inspect(ctx, raw.path) })
}

// again empties a file that is to be written anew.
func again(f *os.File) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return f.Truncate(0)
}

// streamSealed fills f with what etcd sends in the form of opts. It shows it to look
// piece by piece and writes it to beside as well, where these are not nil.
func streamSealed(ctx context.Context, opts SaveOptions, client *clientv3.Client, f *os.File, m *Manifest, beside io.Writer, look func([]byte) error) error {
	stored, out := newCountingHash(), bufio.NewWriterSize(&spread{f: f}, writeSize)
	sealed, err := opts.Sealing.seal(io.MultiWriter(out, stored), look)
	if err != nil {
		return err
	}
	w := io.Writer(sealed)
	if beside != nil {
		w = io.MultiWriter(beside, sealed)
	}
	if err := stream(ctx, opts, client, w, m); err != nil {
		return tellOnce(err, sealed.Close())
	}
	if err := tellOnce(sealed.Close(), out.Flush()); err != nil {
		return err
	}
	opts.step("sealed")
	m.Stored.Size, m.Stored.SHA256 = stored.n, stored.sum()
	return nil
}

// durably has the disk take f while the processor checks what is in it.
func durably(f *os.File, check func() error) error {
	var group errgroup.Group
	group.Go(f.Sync)
	group.Go(check)
	return group.Wait()
}
