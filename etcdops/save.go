package etcdops

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// SaveOptions says what to save and where to.
type SaveOptions struct {
	// Dir is the destination folder; it is made with mode 0700 if missing.
	Dir string
	// Cluster and Host are names from the fleet; they begin the file's name.
	Cluster, Host string
	// Site is the cluster as this host reaches it; see chooseMembers for which of
	// its members is saved.
	Site Site
	// Version is nodeagent's own, for the manifest.
	Version string
	// Surroundings go into the manifest.
	Surroundings Surroundings
	// Signer signs the manifest; nil leaves it unsigned.
	Signer *Signer
	// Sealing is the form of the file; the zero one is plain.
	Sealing Sealing
	// Scratch is the folder for what is noted of the snapshot, without a name, while
	// it is checked; Dir by default.
	Scratch string
	// Stall is how long the stream may bring no byte; 30 s by default.
	Stall time.Duration
	// Now is the time for name and manifest; the clock's by default.
	Now time.Time
	// Progress, if set, is called with the bytes saved and in all.
	Progress func(done, total int64)
	// step is told of each step that is done; tests kill the process there.
	step func(name string)
}

func (o SaveOptions) withDefaults() SaveOptions {
	if o.Stall == 0 {
		o.Stall = 30 * time.Second
	}
	if o.Scratch == "" {
		o.Scratch = o.Dir
	}
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	if o.Progress == nil {
		o.Progress = func(int64, int64) {}
	}
	if o.step == nil {
		o.step = func(string) {}
	}
	return o
}

// lockName is the file in a folder of snapshots that one writer at a time locks.
const lockName = ".nodeagent-lock"

// Save streams a snapshot of one member into the folder, checks it as it comes (a
// plain one on disk), and gives it its name only when it is whole, durable and has
// its manifest. Whatever fails, no partial file stays; what a crash left is
// cleaned by the next save. Memory does not depend on the database's size. A
// second save into the same folder at once is refused with ErrBusy.
//
// The snapshot lies at [Manifest.Path] of the folder.
func Save(ctx context.Context, opts SaveOptions) (_ Manifest, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("save snapshot: %w", err)
		}
	}()
	opts = opts.withDefaults()
	if len(opts.Site.Members) == 0 {
		return Manifest{}, errors.New("no member of etcd given")
	}
	if err := atomicfile.MkdirAll(opts.Dir, 0o700); err != nil {
		return Manifest{}, err
	}
	opts.step("folder made")
	release, err := Lock(filepath.Join(opts.Dir, lockName))
	if err != nil {
		return Manifest{}, err
	}
	defer func() { err = errors.Join(err, release()) }()
	opts.step("locked")
	if err := clean(opts.Dir); err != nil {
		return Manifest{}, err
	}
	opts.step("cleaned")

	client, source, err := chooseMember(ctx, opts.Site)
	if err != nil {
		return Manifest{}, err
	}
	defer func() { err = errors.Join(err, closeClient(client)) }()
	if err := roomFor(opts.Dir, opts.Sealing.form().atMost(source.status.DbSize)); err != nil {
		return Manifest{}, err
	}
	opts.step("member chosen")
	return saveFrom(ctx, opts, client, source)
}

func saveFrom(ctx context.Context, opts SaveOptions, client *clientv3.Client, source member) (_ Manifest, err error) {
	f, err := os.CreateTemp(opts.Dir, atomicfile.TempPrefix)
	if err != nil {
		return Manifest{}, err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = errors.Join(err, ignoreMissing(os.Remove(f.Name())))
		}
	}()
	opts.step("file made")
	if err := f.Chmod(0o600); err != nil {
		return Manifest{}, err
	}
	m := source.manifest(opts)
	if m.Stored.plain() {
		err = savePlain(ctx, opts, client, f, &m)
	} else {
		err = saveSealed(ctx, opts, client, f, &m)
	}
	if err != nil {
		return Manifest{}, err
	}
	opts.step("checked and durable")
	err = publish(opts, f.Name(), &m)
	return m, err
}

// writeSize is how much is written to a file at once: whole pages, and many of
// them, where gRPC, age and zstd have other ends.
const writeSize = 256 << 10

// copyLarge copies r to w, so much at once. Both are wrapped, for a file copies by a
// method of its own, 32 KiB at a time.
func copyLarge(w io.Writer, r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, writeSize))
}

// savePlain fills f with what etcd sends.
func savePlain(ctx context.Context, opts SaveOptions, client *clientv3.Client, f *os.File, m *Manifest) error {
	out := bufio.NewWriterSize(&spread{f: f}, writeSize)
	if err := tellOnce(stream(ctx, opts, client, out, m), out.Flush()); err != nil {
		return err
	}
	opts.step("streamed")
	m.Stored.Size, m.Stored.SHA256 = m.Size, m.SHA256
	if err := m.inspect(ctx, f.Name()); err != nil {
		return err
	}
	return f.Sync()
}

// inspect reads the saved database at the path in full, and notes what is in it.
// The trailer has proved that we have what etcd read; this proves that what
// etcd read is a database that etcd can open.
func (m *Manifest) inspect(ctx context.Context, path string) error {
	return m.note(inspect(ctx, path, m.Size-trailerSize, map[string]int64{}))
}

// note notes what a check found in the database.
func (m *Manifest) note(contents Contents, err error) error {
	if err != nil {
		return fmt.Errorf("check what %s sent: %w", m.Endpoint, err)
	}
	m.Revision, m.Keys, m.Objects = contents.Revision, contents.Keys, contents.Objects
	m.Hash, m.Prefixes, m.EncryptedWith = contents.Hash, contents.Prefixes, contents.EncryptedWith
	m.RaftTerm, m.RaftIndex = contents.RaftTerm, contents.RaftIndex
	m.StorageVersion = contents.StorageVersion
	return nil
}

// publish gives the finished file its name. The manifest goes first: the rename
// of the snapshot is the one step that makes it exist, and a manifest without a
// snapshot is plainly a save that was interrupted there.
func publish(opts SaveOptions, temp string, m *Manifest) error {
	dir := opts.Dir
	for { // two saves in one second: names stay distinct and in order
		_, snapshot := os.Lstat(m.Path(dir))
		_, manifest := os.Lstat(manifestPath(m.Path(dir))) // of one in another form
		if errors.Is(snapshot, os.ErrNotExist) && errors.Is(manifest, os.ErrNotExist) {
			break
		}
		if err := errors.Join(ignoreMissing(snapshot), ignoreMissing(manifest)); err != nil {
			return err
		}
		m.Taken = m.Taken.Add(time.Second)
	}
	if err := m.sign(opts.Signer); err != nil {
		return err
	}
	path := m.Path(dir)
	if err := writeManifest(path, *m); err != nil {
		return err
	}
	opts.step("manifest written")
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(err, atomicfile.Remove(manifestPath(path)))
	}
	opts.step("snapshot named")
	err := atomicfile.SyncDir(dir)
	opts.step("name durable")
	return err
}

// stream receives the snapshot into f and fills in what it learns on the way.
func stream(ctx context.Context, opts SaveOptions, client *clientv3.Client, f io.Writer, m *Manifest) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("stream from %s: %w", m.Endpoint, err)
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The raw stream rather than the client's reader: it tells how many bytes
	// are to come, and an empty message can be told from data.
	snapshots, err := openStream(ctx, client.ActiveConnection())
	if err != nil {
		return err
	}
	sum := newTrailerHash()
	hashing, writing := newBeside(sum), newBeside(f)
	put := func(b blob) error { return errors.Join(hashing.put(b), writing.put(b)) }
	err = receive(ctx, snapshots, cancel, put, opts.Stall, opts.Progress)
	if err := tellOnce(err, writing.Close(), hashing.Close()); err != nil {
		return err
	}
	if !sizeHasTrailer(sum.n) {
		return fmt.Errorf("%d bytes came, which is no whole database with a SHA-256 trailer", sum.n)
	}
	ok, trailer, whole := sum.sums()
	if !ok {
		return ErrHashMismatch
	}
	m.Size, m.Trailer, m.SHA256 = sum.n, trailer, whole
	return nil
}

// roomFor refuses early what would fill the disk in the middle.
func roomFor(dir string, size int64) error {
	free, err := FreeBytes(dir)
	if err != nil {
		return err
	}
	if need := size + size/20 + 1<<20; free < need {
		return fmt.Errorf("%q has %s free, the snapshot needs %s: free some space or lower the number of snapshots that are kept", dir, bytesText(free), bytesText(need))
	}
	return nil
}

// clean removes what an interrupted save left: temporary files, and manifests
// whose snapshot never came to be or is gone. The caller holds the lock.
func clean(dir string) error {
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := filepath.Join(dir, name.Name())
		leftover := strings.HasPrefix(name.Name(), atomicfile.TempPrefix)
		if filepath.Ext(path) == manifestSuffix {
			if m, err := readManifestFile(path); err == nil { // ours, not any JSON file
				_, missing := os.Lstat(m.Path(dir))
				leftover = errors.Is(missing, os.ErrNotExist)
			}
		}
		if leftover && name.Type().IsRegular() {
			if err := ignoreMissing(os.Remove(path)); err != nil {
				return fmt.Errorf("clean up after an interrupted save: %w", err)
			}
		}
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
