package etcdops

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

func TestSaveIsWhatEtcdHolds(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	put(t, h, "/registry/pods/default/a", "/registry/pods/default/b", "/registry/services/specs/default/s",
		"/registry/example.com/widgets/w", "other", "gone")
	client := h.client(t)
	defer client.Close()
	if _, err := client.Delete(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	status, err := client.Status(t.Context(), h.endpoint())
	if err != nil {
		t.Fatal(err)
	}

	var last, total int64
	opts := h.saveOptions()
	opts.Now = time.Date(2026, 5, 4, 3, 2, 1, 999, time.UTC)
	opts.Progress = func(done, all int64) { last, total = done, all }
	m, err := Save(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	path := m.Path(opts.Dir)
	if want := filepath.Join(opts.Dir, "mercury-m1-20260504T030201Z.db"); path != want {
		t.Errorf("path %q, want %q", path, want)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	whole := sha256.Sum256(content)
	trailer := sha256.Sum256(content[:len(content)-trailerSize])
	want := Manifest{
		Format: 3, Cluster: "mercury", Host: "m1", Taken: time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC),
		Members:   []ManifestMember{{Name: "m1", ID: idText(status.Header.MemberId), PeerURLs: []string{h.Members[0].PeerURL}, ClientURLs: []string{h.endpoint()}}},
		ClusterID: idText(status.Header.ClusterId), MemberID: idText(status.Header.MemberId), MemberName: "m1", Endpoint: socketURL(h.Server.Socket),
		EtcdVersion: status.Version, StorageVersion: m.StorageVersion,
		Revision: status.Header.Revision, RaftTerm: status.RaftTerm, RaftIndex: m.RaftIndex, Hash: m.Hash, Keys: 5,
		Size: int64(len(content)), SHA256: hex.EncodeToString(whole[:]), Trailer: hex.EncodeToString(trailer[:]), NodeagentVersion: "test",
		Objects:  map[string]int64{"pods": 2, "services/specs": 1, "example.com/widgets": 1},
		Prefixes: map[string]int64{"/registry/pods/": 2, "/registry/services/specs/": 1, "/registry/example.com/widgets/": 1, "*": 1},
		Stored:   Stored{Size: int64(len(content)), SHA256: hex.EncodeToString(whole[:])},
	}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Errorf("manifest (-want +got):\n%s", diff)
	}
	if m.RaftIndex < status.RaftAppliedIndex {
		t.Errorf("raft index %d is before %d", m.RaftIndex, status.RaftAppliedIndex)
	}
	if last != m.Size || total != m.Size {
		t.Errorf("progress ended at %d of %d, want %d", last, total, m.Size)
	}
	if read, err := readManifest(path); err != nil || !cmp.Equal(read, m) {
		t.Errorf("manifest on disk: %v, %v", read, err)
	}
	for _, file := range []string{path, manifestPath(path)} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v, want mode 0600", file, info.Mode(), err)
		}
	}
	if info, _ := os.Stat(opts.Dir); info.Mode().Perm() != 0o700 {
		t.Errorf("folder has mode %v", info.Mode())
	}

	report, err := Verify(t.Context(), path, VerifyOptions{Objects: true})
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := snapshot.NewV3(quiet()).Status(path)
	if err != nil {
		t.Fatal(err)
	}
	if m.StorageVersion != theirs.Version || m.Hash != theirs.Hash || report.Hash != theirs.Hash || report.Revision != theirs.Revision || report.Keys != int64(theirs.TotalKey) || report.StorageVersion != theirs.Version {
		t.Errorf("report %+v, etcdutl says %+v", report.Contents, theirs)
	}
	objects := map[string]int64{"pods": 2, "services/specs": 1, "example.com/widgets": 1}
	if diff := cmp.Diff(objects, report.Objects); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
}

func TestSavesOfOneSecondHaveDistinctNames(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	opts := h.saveOptions()
	opts.Now = time.Now()
	for range 3 {
		if _, err := Save(t.Context(), opts); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := List(opts.Dir)
	if err != nil || len(entries) != 3 {
		t.Fatalf("%d snapshots, %v", len(entries), err)
	}
	for i, e := range entries {
		if !e.Good() || i > 0 && !e.Taken.Before(entries[i-1].Taken) {
			t.Errorf("entry %d: %+v", i, e)
		}
	}
}

// leftovers are the names of all files in the folder but the lock.
func leftovers(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != lockName {
			names = append(names, e.Name())
		}
	}
	return names
}

// proxy passes bytes between clients and the server at an https URL until it has
// passed limit bytes towards clients; then it goes silent but keeps the connections.
// It answers at the URL that it returns.
func proxy(t *testing.T, server string, limit int64) string {
	t.Helper()
	target := strings.TrimPrefix(server, "https://")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var passed atomic.Int64
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				in.Close()
				return
			}
			t.Cleanup(func() { in.Close(); out.Close() })
			go io.Copy(out, in)
			go func() {
				buffer := make([]byte, 4096)
				for passed.Load() < limit {
					n, err := out.Read(buffer)
					if err != nil {
						return
					}
					passed.Add(int64(n))
					if _, err := in.Write(buffer[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return "https://" + l.Addr().String()
}

// fill writes n values of the given size.
func fill(t testing.TB, h *host, n, size int) {
	t.Helper()
	client := h.client(t)
	defer client.Close()
	value := make([]byte, size)
	for i := range n {
		for j := range value {
			value[j] = byte(i*7 + j*13 + j>>8)
		}
		if _, err := client.Put(t.Context(), fmt.Sprintf("/registry/configmaps/default/c%06d", i), string(value)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSaveNoticesAStall(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	fill(t, h, 8, 256<<10)
	opts := h.saveOptions()
	opts.Stall = 300 * time.Millisecond
	opts.Site.Socket = "" // which would go around the proxy
	opts.Site.Local = proxy(t, h.endpoint(), 1<<20)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := Save(ctx, opts)
	if !errors.Is(err, ErrStalled) {
		t.Fatalf("error %v, want %v", err, ErrStalled)
	}
	if left := leftovers(t, opts.Dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// endless is a server that cannot read its database: etcd then sends empty
// messages for ever.
type endless struct{ ctx context.Context }

func (e endless) Recv() (blob, error) {
	select {
	case <-e.ctx.Done():
		return blob{}, e.ctx.Err()
	case <-time.After(time.Millisecond):
		return blob{remaining: 4096}, nil
	}
}

func TestEmptyMessagesAreAStall(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := receive(ctx, endless{ctx}, cancel, func(blob) error { return nil }, 100*time.Millisecond, func(int64, int64) {})
	if !errors.Is(err, ErrStalled) {
		t.Errorf("error %v, want %v", err, ErrStalled)
	}
}

// blobs is a stream of the given messages.
type blobs []blob

func (b *blobs) Recv() (blob, error) {
	if len(*b) == 0 {
		return blob{}, io.EOF
	}
	first := (*b)[0]
	*b = (*b)[1:]
	return first, nil
}

type failingWriter struct{}

var errDisk = errors.New("no space left")

func (failingWriter) Write([]byte) (int, error) { return 0, errDisk }

func TestReceive(t *testing.T) {
	t.Parallel()
	message := func(remaining uint64, text []byte) blob {
		return blob{remaining: remaining, parts: [][]byte{text}, size: len(text)}
	}
	page := make([]byte, 512)
	sum := sha256.Sum256(page)
	db, trailer := message(0, page), message(0, sum[:])
	for name, tc := range map[string]struct {
		stream blobs
		w      io.Writer
		want   error
		text   string
	}{
		"whole":          {stream: blobs{db, trailer}},
		"no trailer":     {stream: blobs{db}, want: io.ErrUnexpectedEOF},
		"nothing":        {want: io.ErrUnexpectedEOF},
		"too long":       {stream: blobs{db, trailer, trailer}, text: "longer than the 544 bytes"},
		"disk is full":   {stream: blobs{db, trailer}, w: failingWriter{}, want: errDisk},
		"cut in the db":  {stream: blobs{message(512, page), trailer}, want: io.ErrUnexpectedEOF},
		"split in parts": {stream: blobs{db, message(0, sum[:1]), {}, message(0, sum[1:31]), message(0, sum[31:])}},
	} {
		t.Run(name, func(t *testing.T) {
			hash := newTrailerHash()
			if tc.w == nil {
				tc.w = hash
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			err := receive(ctx, &tc.stream, cancel, func(b blob) error { return b.writeTo(tc.w) }, time.Second, func(int64, int64) {})
			switch {
			case tc.text != "":
				if err == nil || !strings.Contains(err.Error(), tc.text) {
					t.Errorf("error %v, want %q", err, tc.text)
				}
			case !errors.Is(err, tc.want):
				t.Errorf("error %v, want %v", err, tc.want)
			case tc.want == nil:
				if ok, _, _ := hash.sums(); !ok {
					t.Error("trailer does not match")
				}
			}
		})
	}
}

func TestSecondSaveIsRefused(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	fill(t, h, 4, 64<<10)
	opts := h.saveOptions()
	var second error
	opts.Progress = func(int64, int64) {
		if second == nil {
			_, second = Save(t.Context(), h.saveOptions())
		}
	}
	if _, err := Save(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(second, ErrBusy) {
		t.Errorf("second save: %v, want %v", second, ErrBusy)
	}
	if entries, err := List(opts.Dir); err != nil || len(entries) != 1 {
		t.Errorf("%d snapshots, %v", len(entries), err)
	}
}

func TestSaveCleansUpAfterACrash(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	opts := h.saveOptions()
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// Killed while streaming, and killed between manifest and rename.
	half := filepath.Join(opts.Dir, atomicfile.TempPrefix+"123")
	lost := Manifest{Format: 1, Cluster: "mercury", Host: "m1", Taken: time.Now().UTC().Add(-time.Hour).Truncate(time.Second), Size: 5}
	notOurs := filepath.Join(opts.Dir, "notes.json")
	for path, content := range map[string]string{half: "half", notOurs: `{"a":1}`} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeManifest(lost.Path(opts.Dir), lost); err != nil {
		t.Fatal(err)
	}
	entries, err := List(opts.Dir)
	if err != nil || len(entries) != 1 || entries[0].Good() || entries[0].Damage == "" {
		t.Fatalf("entries %+v, %v; want one that is damaged", entries, err)
	}
	if e, ok := Newest(entries); ok {
		t.Errorf("newest is %+v, want none", e)
	}
	_, path := save(t, h)
	want := []string{filepath.Base(path), filepath.Base(manifestPath(path)), "notes.json"}
	if diff := cmp.Diff(want, leftovers(t, opts.Dir)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestSaveFailsWithoutATrace(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	stranger := makeCerts(t, filepath.Join(t.TempDir(), "stranger"))
	for want, change := range map[string]func(*SaveOptions){
		"connection refused":     func(o *SaveOptions) { o.Site.Local = "https://127.0.0.1:1" },
		"unknown authority":      func(o *SaveOptions) { o.Site.TLS = stranger },
		"no such file":           func(o *SaveOptions) { o.Site.TLS.Cert = "/nonexistent" },
		"certificate":            func(o *SaveOptions) { o.Site.TLS.Cert, o.Site.TLS.Key = stranger.Cert, stranger.Key },
		"no member of etcd":      func(o *SaveOptions) { o.Site.Members = nil },
		"a file is in its place": func(o *SaveOptions) { o.Dir = h.Files.CA },
		"canceled":               func(*SaveOptions) {},
	} {
		t.Run(want, func(t *testing.T) {
			opts := h.saveOptions()
			opts.Dir = filepath.Join(t.TempDir(), "snapshots")
			change(&opts)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if want == "canceled" {
				cancel()
			}
			if _, err := Save(ctx, opts); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %q", err, want)
			}
			if left := leftovers(t, opts.Dir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestSaveRefusesACorruptMember(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	client := h.client(t)
	defer client.Close()
	status, err := client.Status(t.Context(), h.endpoint())
	if err != nil {
		t.Fatal(err)
	}
	alarm := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: status.Header.MemberId, Alarm: pb.AlarmType_CORRUPT}
	if _, err := pb.NewMaintenanceClient(client.ActiveConnection()).Alarm(t.Context(), alarm); err != nil {
		t.Fatal(err)
	}
	if _, err := Save(t.Context(), h.saveOptions()); err == nil || !strings.Contains(err.Error(), "CORRUPT") {
		t.Errorf("error %v, want one that names the alarm", err)
	}
}

// TestSaveMemory streams a database far larger than what a save may hold. It is no
// parallel test: those wait, so that the heap is its own.
func TestSaveMemory(t *testing.T) {
	h := startHost(t)
	fill(t, h, 128, 1<<20)
	for name, tc := range map[string]struct {
		sealing Sealing
		most    uint64
	}{
		"plain":  {Sealing{}, 40 << 20},
		"sealed": {Sealing{Compress: true, Recipients: []age.Recipient{identity(t).Recipient()}}, 80 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			opts := h.saveOptions()
			opts.Dir, opts.Sealing = t.TempDir(), tc.sealing
			var before runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			var peak uint64
			step := int64(0)
			opts.Progress = func(done, _ int64) {
				if done < step {
					return
				}
				step = done + 8<<20
				var now runtime.MemStats
				runtime.ReadMemStats(&now)
				peak = max(peak, now.HeapAlloc-min(now.HeapAlloc, before.HeapAlloc))
			}
			m, err := Save(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s saved with %s of heap more", bytesText(m.Size), bytesText(int64(peak)))
			if m.Size < 128<<20 || peak > tc.most {
				t.Errorf("%s saved with %s of heap more, want at most %s", bytesText(m.Size), bytesText(int64(peak)), bytesText(int64(tc.most)))
			}
		})
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	put(t, h, "a")
	health, err := AskHealth(t.Context(), h.Files, []string{h.endpoint()})
	if err != nil {
		t.Fatal(err)
	}
	if !health.Healthy || health.Leader != "m1" || len(health.Members) != 1 || len(health.Alarms) != 0 {
		t.Fatalf("health %+v", health)
	}
	m := health.Members[0]
	if m.Name != "m1" || m.Revision != 2 || m.DBSize == 0 || m.Latency <= 0 || m.Version == "" || m.Endpoint != h.endpoint() {
		t.Errorf("member %+v", m)
	}

	health, err = AskHealth(t.Context(), h.Files, []string{h.endpoint(), "https://127.0.0.1:1"})
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") || !health.Healthy {
		t.Errorf("with a dead endpoint: %+v, %v", health, err)
	}

	client := h.client(t)
	defer client.Close()
	status, err := client.Status(t.Context(), h.endpoint())
	if err != nil {
		t.Fatal(err)
	}
	alarm := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: status.Header.MemberId, Alarm: pb.AlarmType_NOSPACE}
	if _, err := pb.NewMaintenanceClient(client.ActiveConnection()).Alarm(t.Context(), alarm); err != nil {
		t.Fatal(err)
	}
	health, err = AskHealth(t.Context(), h.Files, []string{h.endpoint()})
	if err != nil || !cmp.Equal(health.Alarms, []string{"NOSPACE on m1"}) {
		t.Errorf("alarms %v, %v", health.Alarms, err)
	}
	m2, path := save(t, h)
	report, err := Verify(t.Context(), path, VerifyOptions{})
	if err != nil || !cmp.Equal(m2.Alarms, []string{"NOSPACE"}) || !cmp.Equal(report.Alarms, []string{"NOSPACE"}) {
		t.Errorf("alarms of the snapshot: %v, %v, %v", m2.Alarms, report.Alarms, err)
	}
	if _, err := client.AlarmDisarm(t.Context(), &clientv3.AlarmMember{}); err != nil {
		t.Fatal(err)
	}
}
