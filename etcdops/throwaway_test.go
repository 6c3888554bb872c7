package etcdops

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
)

// etcdProgram is etcd's own program, which the test binary is too.
func etcdProgram(t testing.TB) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return self
}

// stageAlone restores a snapshot as the data of one member.
func stageAlone(t *testing.T, snapshot string) string {
	t.Helper()
	report, err := Verify(t.Context(), snapshot, VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "data")
	err = stage(t.Context(), RestorePlan{
		Snapshot: report, StagedDir: dir, Host: "alone", Token: "throwaway",
		Members: []Member{{Name: "alone", PeerURL: "unix://peers:0"}},
	}, func(int64, int64) {})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestThrowawayServesWhatWasSaved(t *testing.T) {
	h := startHost(t)
	put(t, h, "a", "b", "c")
	_, path := save(t, h)
	data := stageAlone(t, path)
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30)) // longer than the path of a socket may be
	throwaway, err := StartThrowaway(t.Context(), ThrowawayOptions{Program: etcdProgram(t), Dir: dir, Data: data, Name: "alone", Low: true})
	if err != nil {
		t.Fatal(err)
	}
	defer throwaway.Stop()
	answer, err := throwaway.Client().Get(t.Context(), "\x00", clientv3.WithFromKey(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	if answer.Count != 3 {
		t.Errorf("%d keys, want 3", answer.Count)
	}
	if _, err := throwaway.Client().HashKV(t.Context(), throwaway.Endpoint(), answer.Header.Revision); err != nil {
		t.Error(err)
	}
	checkApart(t, throwaway)
	pid := throwaway.cmd.Process.Pid
	if err := throwaway.Stop(); err != nil {
		t.Error(err)
	}
	if running(pid) {
		t.Errorf("process %d still runs", pid)
	}
}

// checkApart looks at how the kernel has the process.
func checkApart(t *testing.T, throwaway *Throwaway) {
	t.Helper()
	pid := throwaway.cmd.Process.Pid
	attr, err := unix.SchedGetAttr(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	if attr.Policy != unix.SCHED_IDLE {
		t.Errorf("scheduling policy %d, want SCHED_IDLE", attr.Policy)
	}
	if prio, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, ioprioWhoProcess, uintptr(pid), 0); errno != 0 || prio != ioprioIdle {
		t.Errorf("disk priority %#x (%v), want idle", prio, errno)
	}
	own, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if own.Policy == unix.SCHED_IDLE {
		t.Error("the test itself was lowered")
	}
	if info, err := os.Stat(throwaway.dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("its folder: %v %v", info.Mode(), err)
	}
	if os.Geteuid() != 0 {
		return
	}
	theirs, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(theirs), "\n"); lines != 1 {
		t.Errorf("it has TCP sockets or shares a network: %s", theirs)
	}
}

func TestThrowawayThatCannotServeSaysWhy(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(filepath.Join(data, "member", "snap"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "member", "snap", "db"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := StartThrowaway(t.Context(), ThrowawayOptions{Program: etcdProgram(t), Dir: filepath.Join(dir, "run"), Data: data, Name: "alone"})
	if err == nil || !strings.Contains(err.Error(), "it ended") {
		t.Fatalf("error %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "run", throwawayNote)); err == nil {
		t.Error("its note stays")
	}
}

// TestThrowawayLeftIsEnded has one outlive its starter: the note alone leads to it.
func TestThrowawayLeftIsEnded(t *testing.T) {
	h := startHost(t)
	put(t, h, "a")
	_, path := save(t, h)
	dir := t.TempDir()
	opts := ThrowawayOptions{Program: etcdProgram(t), Dir: dir, Data: stageAlone(t, path), Name: "alone"}
	first, err := StartThrowaway(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { first.Stop() })
	// Another process with that number is none of ours.
	note, err := noteOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	note.Started++
	if err := note.kill(); err != nil {
		t.Error(err)
	}
	second, err := StartThrowaway(t.Context(), opts) // ends the first one by itself
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-first.ended:
	default:
		t.Error("the first one still runs")
	}
	if err := second.Stop(); err != nil {
		t.Error(err)
	}
}

func TestThrowawayEndsWithItsContext(t *testing.T) {
	h := startHost(t)
	put(t, h, "a")
	_, path := save(t, h)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	if _, err := StartThrowaway(ctx, ThrowawayOptions{Program: etcdProgram(t), Dir: dir, Data: stageAlone(t, path), Name: "alone", Patience: time.Minute}); err == nil {
		t.Fatal("no error")
	}
	if _, err := os.Stat(filepath.Join(dir, throwawayNote)); err == nil {
		t.Error("its note stays")
	}
}
