package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/test/s3"
)

// smallPart is the smallest part that a bucket takes before the last one.
const smallPart = partSize

// each runs a test over every kind of store.
func each(t *testing.T, test func(t *testing.T, s Store)) {
	t.Run("folder", func(t *testing.T) {
		t.Parallel()
		test(t, NewFolder(t.TempDir()))
	})
	t.Run("s3", func(t *testing.T) {
		t.Parallel()
		server := s3.Start(t)
		server.Bucket("backup", false)
		test(t, open(t, server.URL, server.CAFile, "pre/fix"))
	})
}

func open(t testing.TB, url, caFile, prefix string) *S3 {
	t.Helper()
	at := hosts.S3{Endpoint: url, Bucket: "backup", Region: s3.Region, Prefix: prefix, PathStyle: true, CAFile: caFile, Encryption: hosts.EncryptionNone}
	s, err := openS3(at, Keys{AccessKey: s3.AccessKey, SecretKey: s3.SecretKey}, 20*time.Second, smallPart)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// some are n bytes that do not repeat, and what they are. Nobody changes them.
func some(n int) ([]byte, Meta) {
	if made, ok := somes.Load(n); ok {
		return made.([]byte), metaOf(made.([]byte))
	}
	content := make([]byte, n)
	random := rand.NewChaCha8([32]byte{byte(n)})
	_, _ = random.Read(content)
	somes.Store(n, content)
	return content, metaOf(content)
}

var somes sync.Map

func metaOf(content []byte) Meta {
	sum := sha256.Sum256(content)
	return Meta{Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:]), ContentType: "application/zstd", About: map[string]string{"Cluster": "mercury"}}
}

func put(t *testing.T, s Store, name string, content []byte) {
	t.Helper()
	if err := s.Put(context.Background(), name, bytes.NewReader(content), metaOf(content), func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, s Store, dir string) []string {
	t.Helper()
	objects, err := s.List(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, o := range objects {
		names = append(names, fmt.Sprintf("%s:%d", o.Name, o.Size))
		if age := time.Since(o.Modified); age < -time.Hour || age > time.Hour {
			t.Errorf("%s is dated %s", o.Name, o.Modified)
		}
	}
	return names
}

func contentOf(t *testing.T, s Store, name string, from int64) []byte {
	t.Helper()
	r, err := s.Get(context.Background(), name, from)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return content
}

// TestStore puts, lists, reads, replaces and deletes objects of all sizes that
// make a difference.
func TestStore(t *testing.T) {
	each(t, func(t *testing.T, s Store) {
		ctx := context.Background()
		if got := names(t, s, ""); got != nil {
			t.Errorf("an empty store lists %v", got)
		}
		if got := names(t, s, "a/b"); got != nil {
			t.Errorf("a folder that is not there lists %v", got)
		}
		var want []string
		for _, n := range []int{0, 1, smallPart, smallPart + 1, 2*smallPart + 12345} {
			content, meta := some(n)
			name := fmt.Sprintf("a/b/%08d.db", n)
			var last int64
			err := s.Put(ctx, name, bytes.NewReader(content), meta, func(done, total int64) {
				if done < last || total != int64(n) {
					t.Errorf("progress of %d bytes: %d of %d after %d", n, done, total, last)
				}
				last = done
			})
			if err != nil || last != int64(n) {
				t.Fatalf("put %d bytes: %v, progress up to %d", n, err, last)
			}
			want = append(want, fmt.Sprintf("%s:%d", name, n))
			if !bytes.Equal(contentOf(t, s, name, 0), content) {
				t.Errorf("%d bytes come back as others", n)
			}
			if from := int64(n / 2); n > 0 && !bytes.Equal(contentOf(t, s, name, from), content[from:]) {
				t.Errorf("%d bytes come back as others from %d on", n, from)
			}
			if has, err := s.Has(ctx, name, meta); !has || err != nil {
				t.Errorf("it has %d bytes: %v, %v", n, has, err)
			}
			other := meta
			other.SHA256 = strings.Repeat("0", 64)
			if has, err := s.Has(ctx, name, other); has || err != nil {
				t.Errorf("it has others than the %d bytes: %v, %v", n, has, err)
			}
		}
		put(t, s, "a/bb.json", []byte("{}"))
		if got := names(t, s, "a/b"); !slices.Equal(got, want) {
			t.Errorf("the folder lists %v, want %v", got, want)
		}
		if got := names(t, s, ""); !slices.Equal(got, append(want, "a/bb.json:2")) {
			t.Errorf("the store lists %v", got)
		}
		put(t, s, "a/bb.json", []byte("{ }"))
		if got := contentOf(t, s, "a/bb.json", 0); string(got) != "{ }" {
			t.Errorf("it was replaced by %q", got)
		}
		for range 2 { // the second one has nothing to do
			if err := s.Delete(ctx, "a/bb.json"); err != nil {
				t.Error(err)
			}
		}
		if err := s.Delete(ctx, "no/such/thing"); err != nil {
			t.Error(err)
		}
		if has, err := s.Has(ctx, "a/bb.json", metaOf([]byte("{ }"))); has || err != nil {
			t.Errorf("what was deleted is there: %v, %v", has, err)
		}
		if _, err := s.Get(ctx, "a/bb.json", 0); !errors.Is(err, ErrNotFound) {
			t.Errorf("what was deleted is read: %v", err)
		}
		if err := s.Tidy(ctx, "a", nil); err != nil {
			t.Error(err)
		}
		if got := names(t, s, "a"); !slices.Equal(got, want) {
			t.Errorf("after a clean-up there are %v, want %v", got, want)
		}
	})
}

// failing is a file that cannot be read from an offset on.
type failing struct {
	io.ReaderAt
	from int64
	err  error
}

func (f failing) ReadAt(p []byte, at int64) (int, error) {
	if at+int64(len(p)) > f.from {
		return 0, f.err
	}
	return f.ReaderAt.ReadAt(p, at)
}

// TestPutIsWhole leaves the store as it was where what is put is not what it is
// said to be, or cannot be read.
func TestPutIsWhole(t *testing.T) {
	broken := errors.New("the disk is broken")
	each(t, func(t *testing.T, s Store) {
		for _, n := range []int{1000, smallPart + 1000} {
			content, meta := some(n)
			shorter, longer, other := meta, meta, meta
			shorter.Size--
			longer.Size++
			other.SHA256 = strings.Repeat("0", 64)
			name := fmt.Sprintf("a/%d.db", n)
			for _, old := range [][]byte{nil, []byte("what was there")} {
				if old != nil {
					put(t, s, name, old)
				}
				for _, c := range []struct {
					what string
					body io.ReaderAt
					meta Meta
					want error
				}{
					{"shorter", bytes.NewReader(content), shorter, ErrChanged},
					{"longer", bytes.NewReader(content), longer, ErrChanged},
					{"another", bytes.NewReader(content), other, ErrChanged},
					{"unreadable", failing{bytes.NewReader(content), int64(n) / 2, broken}, meta, broken},
				} {
					err := s.Put(context.Background(), name, c.body, c.meta, func(int64, int64) {})
					if !errors.Is(err, c.want) {
						t.Errorf("put %d bytes that are %s: %v, want %v", n, c.what, err, c.want)
					}
					var want []string
					if old != nil {
						want = []string{fmt.Sprintf("%s:%d", name, len(old))}
					}
					if got := names(t, s, "a"); !slices.Equal(got, want) {
						t.Errorf("after %d bytes that are %s there are %v, want %v", n, c.what, got, want)
					}
				}
			}
			if err := s.Delete(context.Background(), name); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestEndings ends what it does when its context does.
func TestEndings(t *testing.T) {
	each(t, func(t *testing.T, s Store) {
		put(t, s, "a/x.json", []byte("{}"))
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		content, meta := some(smallPart + 1)
		err := s.Put(ctx, "a/y.db", bytes.NewReader(content), meta, func(int64, int64) {})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("put after the end: %v", err)
		}
		if got := names(t, s, ""); !slices.Equal(got, []string{"a/x.json:2"}) {
			t.Errorf("there are %v", got)
		}
	})
}

// TestFolderIsNotThere says so, and makes nothing.
func TestFolderIsNotThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "share")
	s := NewFolder(dir)
	content, meta := some(10)
	_, err := s.List(context.Background(), "")
	for _, err := range []error{err, s.Put(context.Background(), "a", bytes.NewReader(content), meta, nil), s.Delete(context.Background(), "a"), s.Tidy(context.Background(), "", nil)} {
		if !errors.Is(err, ErrNoStore) || !strings.Contains(err.Error(), "mount the share") {
			t.Errorf("error %v, want one that says to mount the share", err)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("it was made")
	}
}

// TestFolderHangs gives a share up that gives no sign of life, and goes on while
// it gives some.
func TestFolderHangs(t *testing.T) {
	s := NewFolder(t.TempDir())
	s.stall = 200 * time.Millisecond
	content, meta := some(3 * copyBuffer)
	hanging := make(chan struct{})
	err := s.Put(context.Background(), "a", hangs{bytes.NewReader(content), hanging}, meta, func(int64, int64) {})
	if !errors.Is(err, ErrStalled) {
		t.Errorf("error %v, want %v", err, ErrStalled)
	}
	close(hanging)
	slow := slowly{bytes.NewReader(content), s.stall / 2}
	if err := s.Put(context.Background(), "b", slow, meta, func(int64, int64) {}); err != nil {
		t.Errorf("one that is slow: %v", err)
	}
}

type hangs struct {
	io.ReaderAt
	until chan struct{}
}

func (h hangs) ReadAt(p []byte, at int64) (int, error) {
	if at > 0 {
		<-h.until
	}
	return h.ReaderAt.ReadAt(p, at)
}

type slowly struct {
	io.ReaderAt
	pause time.Duration
}

func (s slowly) ReadAt(p []byte, at int64) (int, error) {
	<-time.After(s.pause)
	return s.ReaderAt.ReadAt(p, at)
}

// TestFolderTidies deletes what a killed upload left, and nothing else.
func TestFolderTidies(t *testing.T) {
	dir := t.TempDir()
	s := NewFolder(dir)
	put(t, s, "a/b/x.db", []byte("x"))
	left := filepath.Join(dir, "a", "b", atomicfile.TempPrefix+"123")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := names(t, s, ""); !slices.Equal(got, []string{"a/b/x.db:1"}) {
		t.Errorf("there are %v", got)
	}
	if err := s.Tidy(context.Background(), "a", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("what an upload left is still there")
	}
}
