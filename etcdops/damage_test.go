package etcdops

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// damagedPlaces is how many bits are flipped in all.
const damagedPlaces = 10_000

// specimen is a real snapshot of one form with its manifest.
type specimen struct {
	suffix            string
	snapshot          string // the path
	content, manifest []byte
	open              VerifyOptions
}

// specimens are a snapshot of a real etcd in three forms, each signed.
func specimens(t *testing.T) (*host, []specimen) {
	t.Helper()
	h := startHost(t)
	fill(t, h, 4, 8<<10)
	put(t, h, "/registry/pods/default/a", "/registry/services/specs/default/s", "other")
	key := signer(t)
	var list []specimen
	all := forms(t)
	for _, suffix := range []string{".db", ".db.zst", ".db.zst.age"} {
		form := all[suffix]
		opts := h.saveOptions()
		opts.Dir, opts.Signer, opts.Sealing = filepath.Join(t.TempDir(), "snapshots"), key, form.Sealing
		m, err := Save(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		s := specimen{suffix: suffix, snapshot: m.Path(opts.Dir), open: VerifyOptions{OpenOptions: OpenOptions{
			Identities: form.Identities, Trust: Trust{Signers: Signers{"m1": {key.PublicKey()}}},
		}}}
		if s.content, err = os.ReadFile(s.snapshot); err != nil {
			t.Fatal(err)
		}
		if s.manifest, err = os.ReadFile(manifestPath(s.snapshot)); err != nil {
			t.Fatal(err)
		}
		list = append(list, s)
	}
	return h, list
}

// copyTo puts the specimen into a folder where it may be damaged.
func (s specimen) copyTo(dir string) (specimen, error) {
	s.snapshot = filepath.Join(dir, filepath.Base(s.snapshot))
	return s, errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(s.snapshot, s.content, 0o600), os.WriteFile(manifestPath(s.snapshot), s.manifest, 0o600))
}

// flipBit flips a bit of a file, does something, and flips it back.
func flipBit(path string, at int, bit int, do func() error) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, int64(at)); err != nil {
		return err
	}
	for range 2 {
		b[0] ^= 1 << bit
		if _, err := f.WriteAt(b, int64(at)); err != nil {
			return err
		}
		if do != nil {
			if err := do(); err != nil {
				return err
			}
			do = nil
		}
	}
	return nil
}

// refused tells whether the specimen is refused as it lies there, as well by who
// hashes what comes out of it as by who hashes the file alone, as a restore does.
func (s specimen) refused(what string) error {
	for _, byFile := range []bool{false, true} {
		s.open.StoredHash = byFile
		report, err := Verify(context.Background(), s.snapshot, s.open)
		if err == nil {
			return fmt.Errorf("%s: %s is taken for sound (by the file alone: %t): %+v", s.suffix, what, byFile, report)
		}
		if s.suffix == snapshotSuffix {
			break // the file is what comes out of it
		}
	}
	return nil
}

// places are n places spread evenly over size bytes, a bit each.
func places(n, size int) (list [][2]int) {
	for i := range n {
		list = append(list, [2]int{i * size / n, (i * 5) % 8})
	}
	return list
}

// TestBitFlips flips one bit at each of 10,000 places of snapshots in every form
// and of their manifests: Verify refuses each, and so nothing is ever done with
// one.
func TestBitFlips(t *testing.T) {
	t.Parallel()
	_, list := specimens(t)
	type job struct {
		specimen
		manifest bool
		place    [2]int
	}
	var jobs []job
	for _, s := range list {
		// To open one that is encrypted takes several times as long.
		share := damagedPlaces * map[string]int{".db": 6, ".db.zst": 3, ".db.zst.age": 1}[s.suffix] / 10
		inManifest := min(share/3, len(s.manifest)*8)
		for _, place := range places(inManifest, len(s.manifest)) {
			jobs = append(jobs, job{s, true, place})
		}
		for _, place := range places(share-inManifest, len(s.content)) {
			jobs = append(jobs, job{s, false, place})
		}
	}
	if len(jobs) < damagedPlaces {
		t.Fatalf("only %d places", len(jobs))
	}
	queue := make(chan job)
	var wait sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		dir := t.TempDir()
		wait.Go(func() {
			copies := map[string]specimen{}
			for j := range queue {
				s, ok := copies[j.suffix]
				if !ok {
					var err error
					if s, err = j.specimen.copyTo(filepath.Join(dir, j.suffix)); err != nil {
						t.Error(err)
						continue
					}
					copies[j.suffix] = s
				}
				path, where := s.snapshot, "snapshot"
				if j.manifest {
					path, where = manifestPath(s.snapshot), "manifest"
				}
				err := flipBit(path, j.place[0], j.place[1], func() error {
					return s.refused(fmt.Sprintf("bit %d of byte %d of the %s", j.place[1], j.place[0], where))
				})
				if err != nil {
					t.Error(err)
				}
			}
			for _, s := range copies { // each bit is back, so it was the bits that were refused
				if _, err := Verify(context.Background(), s.snapshot, s.open); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, j := range jobs {
		queue <- j
	}
	close(queue)
	wait.Wait()
	t.Logf("%d places", len(jobs))
}

// TestTruncation cuts each form at every 4 KiB, and each manifest at every 64
// bytes. A plan is refused as well, and changes nothing.
func TestTruncation(t *testing.T) {
	t.Parallel()
	h, list := specimens(t)
	before := h.files(t)
	cuts := 0
	for _, original := range list {
		s, err := original.copyTo(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range []struct {
			path    string
			content []byte
			step    int
		}{{s.snapshot, s.content, 4096}, {manifestPath(s.snapshot), s.manifest, 64}} {
			for n := 0; n < len(file.content); n += file.step {
				if err := os.WriteFile(file.path, file.content[:n], 0o600); err != nil {
					t.Fatal(err)
				}
				if err := s.refused(fmt.Sprintf("%s cut to %d bytes", filepath.Base(file.path), n)); err != nil {
					t.Error(err)
				}
				cuts++
			}
			restore := h.restoreOptions(s.snapshot)
			restore.OpenOptions = s.open.OpenOptions
			if _, err := PlanRestore(t.Context(), restore); err == nil {
				t.Errorf("%s: a restore of one that is cut off was planned", s.suffix)
			}
			if err := os.WriteFile(file.path, file.content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Verify(t.Context(), s.snapshot, s.open); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff(before, h.files(t)); diff != "" {
		t.Errorf("files of the host (-before +after):\n%s", diff)
	}
	t.Logf("%d cuts", cuts)
}
