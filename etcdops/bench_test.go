package etcdops

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// released is the path of one of etcd's released programs in the cache of
// servers that the lab builds.
func released(b *testing.B, name string) string {
	b.Helper()
	cache := os.Getenv("NODEAGENT_CACHE")
	if cache == "" {
		cache = filepath.Join("..", ".cache")
	}
	found, err := filepath.Glob(filepath.Join(cache, "servers", "etcd", "*", name))
	if err != nil {
		b.Fatal(err)
	}
	if len(found) == 0 {
		if os.Getenv("CI") == "true" {
			b.Fatalf("no %s below %s: build the servers first (make servers)", name, cache)
		}
		b.Skipf("no %s below %s: build the servers first (make servers)", name, cache)
	}
	return found[len(found)-1]
}

// benchMiB is how many MiB of objects the database holds; NODEAGENT_BENCH_MIB
// sets another number.
func benchMiB(b *testing.B) int {
	text := os.Getenv("NODEAGENT_BENCH_MIB")
	if text == "" {
		return 256
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// BenchmarkSnapshot compares save and restore with etcd's own tools in one run,
// over one database of objects of 10 KiB. What nodeagent does includes
// everything that its commands do: save reads the whole database once more,
// restore verifies before and after. Run it with -benchtime 3x.
func BenchmarkSnapshot(b *testing.B) {
	etcdctl, etcdutl := released(b, "etcdctl"), released(b, "etcdutl")
	h := startHost(b)
	fill(b, h, benchMiB(b)*100, 10<<10)
	_, snapshot := save(b, h)
	dir := b.TempDir()

	b.Run("save/nodeagent", func(b *testing.B) {
		for b.Loop() {
			opts := h.saveOptions()
			opts.Dir = filepath.Join(dir, "saved")
			m, err := Save(b.Context(), opts)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(m.Size)
			remove(b, opts.Dir)
		}
	})
	b.Run("save/etcdctl", func(b *testing.B) {
		for b.Loop() {
			file := filepath.Join(dir, "theirs.db")
			theirs(b, etcdctl, "--endpoints", h.endpoint(), "--cert", h.Files.Cert, "--key", h.Files.Key, "--cacert", h.Files.CA, "snapshot", "save", file)
			remove(b, file)
		}
	})
	b.Run("verify/nodeagent", func(b *testing.B) {
		for b.Loop() {
			if _, err := Verify(b.Context(), snapshot, VerifyOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("restore/nodeagent", func(b *testing.B) {
		for b.Loop() {
			plan, err := PlanRestore(b.Context(), h.restoreOptions(snapshot))
			if err != nil {
				b.Fatal(err)
			}
			if err := stage(b.Context(), plan, func(int64, int64) {}); err != nil {
				b.Fatal(err)
			}
			remove(b, plan.StagedDir)
		}
	})
	b.Run("restore/etcdutl", func(b *testing.B) {
		for b.Loop() {
			data := filepath.Join(dir, "restored")
			theirs(b, etcdutl, "snapshot", "restore", snapshot, "--data-dir", data, "--bump-revision", fmt.Sprint(DefaultRevisionBump), "--mark-compacted")
			remove(b, data)
		}
	})
}

// remove deletes outside of the measured time.
func remove(b *testing.B, path string) {
	b.StopTimer()
	defer b.StartTimer()
	if err := os.RemoveAll(path); err != nil {
		b.Fatal(err)
	}
}

// theirs runs one of etcd's programs.
func theirs(b *testing.B, name string, args ...string) {
	b.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", name, err, out)
	}
}
