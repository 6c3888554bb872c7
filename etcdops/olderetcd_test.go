package etcdops

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nodeagent/nodeagent/test/etcds"
)

// startOlder starts an etcd of an older release as the only member of a cluster.
// The returned function ends it.
func startOlder(t *testing.T, h *host, program, name string) (stop func()) {
	t.Helper()
	s := h.Server
	client, peer := h.Members[0].ClientURL, h.Members[0].PeerURL
	cmd := exec.Command(program,
		"--name="+name, "--data-dir="+s.Data,
		"--listen-client-urls="+client, "--advertise-client-urls="+client, "--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer,
		"--cert-file="+s.Cert, "--key-file="+s.Key, "--trusted-ca-file="+s.CA, "--client-cert-auth",
		"--peer-cert-file="+s.Cert, "--peer-key-file="+s.Key, "--peer-trusted-ca-file="+s.CA, "--peer-client-cert-auth",
		"--initial-cluster="+name+"="+peer, "--initial-cluster-token="+s.Token,
	)
	log, err := os.Create(h.file("older.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cmd.Process.Signal(os.Interrupt)
			cmd.Wait()
		}
	}
	t.Cleanup(stop)
	eventually(t, "the older etcd", func() error {
		_, err := askOnce(t.Context(), h.Files, client)
		if err != nil {
			text, _ := os.ReadFile(h.file("older.log"))
			err = fmt.Errorf("%w\n%s", err, text[max(0, len(text)-2000):])
		}
		return err
	})
	return stop
}

// plainSnapshot is what etcdctl and k3s write: the stream as it comes.
func plainSnapshot(t *testing.T, h *host, path string) {
	t.Helper()
	client := h.client(t)
	defer client.Close()
	stream, err := client.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(f, stream)
	if err := errors.Join(err, stream.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// What servers of etcd 3.4, 3.5 and 3.6 hold is saved, verified and restored: as a
// snapshot of nodeagent's, as the plain file that etcdctl and k3s write, and as the
// database of a data folder whose etcd was stopped.
func TestRestoreOfOlderEtcds(t *testing.T) {
	t.Parallel()
	for _, minor := range etcds.Minors {
		t.Run(minor, func(t *testing.T) {
			t.Parallel()
			program := etcds.Program(t, minor)
			old := newHost(t)
			name := "m1"
			if minor == "3.5" {
				name = "server-0-5d1b0f2a" // as k3s names its members
			}
			stop := startOlder(t, old, program, name)
			put(t, old, "a", "b", "gone")
			client := old.client(t)
			if _, err := client.Delete(t.Context(), "gone"); err != nil {
				t.Fatal(err)
			}
			if err := client.Close(); err != nil {
				t.Fatal(err)
			}
			files := t.TempDir()
			saved := ""
			if name == "m1" {
				_, saved = save(t, old)
			}
			plain := filepath.Join(files, "etcd-snapshot-server-0-1767225600")
			plainSnapshot(t, old, plain)
			stop()
			database := filepath.Join(files, "db")
			content, err := os.ReadFile(filepath.Join(old.Root.EtcdData(), "member", "snap", "db"))
			if err == nil {
				err = os.WriteFile(database, content, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range slices.DeleteFunc([]string{saved, plain, database}, func(p string) bool { return p == "" }) {
				restoreOlder(t, path, minor, path == database, name != "m1")
			}
		})
	}
}

// restoreOlder restores a file on a host of its own, with today's etcd.
func restoreOlder(t *testing.T, path, minor string, database, foreign bool) {
	t.Helper()
	report, err := Verify(t.Context(), path, VerifyOptions{SkipHash: database})
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if report.Keys != 2 || strings.HasPrefix(report.StorageVersion, "3.6") != (minor == "3.6") {
		t.Errorf("%s: %d keys, storage version %q", path, report.Keys, report.StorageVersion)
	}
	h := newHost(t)
	opts := h.restoreOptions(path)
	opts.SkipHash, opts.EtcdBinary, opts.Trial = database, etcdProgram(t), true
	if foreign {
		if _, err := PlanRestore(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "--other-cluster") {
			t.Errorf("%s, whose members are of no fleet: %v", path, err)
		}
		opts.OtherCluster = true
	}
	plan, err := PlanRestore(t.Context(), opts)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	result, err := Restore(t.Context(), h.Root, plan, h, nil)
	if err != nil || result.Keys != 2 || result.Revision != report.Revision+DefaultRevisionBump {
		log, _ := os.ReadFile(h.file("etcd.log"))
		t.Fatalf("%s: %d keys at revision %d, %v\n%s", path, result.Keys, result.Revision, err, log)
	}
	put(t, h, "after")
	if diff := cmp.Diff([]string{"a", "after", "b"}, keysOf(t, h)); diff != "" {
		t.Errorf("%s: keys (-want +got):\n%s", path, diff)
	}
	client := h.client(t)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), answerTimeout)
	defer cancel()
	if answer, err := client.Get(ctx, "b", clientv3.WithSerializable()); err != nil || string(answer.Kvs[0].Value) != "b" {
		t.Errorf("%s: %v", path, err)
	}
}
