package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// TestDaemonGivesWay: what a command changes is often what the daemon waits for.
func TestDaemonGivesWay(t *testing.T) {
	// Proof may have the components' lock beside its own.
	for _, held := range []string{DomainUnits, DomainProof} {
		root := layout.Root(t.TempDir())
		lock, err := acquireQuietly(t.Context(), root, []string{held})
		if err != nil {
			t.Fatal(err)
		}
		way, end := givingWay(t.Context(), root, []string{held})
		defer end()
		got := make(chan error, 1)
		go func() {
			command, err := Acquire(t.Context(), root, []string{held}, time.Minute)
			if err == nil {
				err = command.Release()
			}
			got <- err
		}()
		<-way.Done()
		if !errors.Is(context.Cause(way), errGaveWay) {
			t.Errorf("the converge of %s ended because of %v", held, context.Cause(way))
		}
		if err := lock.Release(); err != nil {
			t.Error(err)
		}
		if err := <-got; err != nil {
			t.Errorf("a command that wants the lock of %s: %v", held, err)
		}
	}
}

// TestNobodyIsCutShortForNothing: neither the network's converge, nor one that no
// command waits for any more.
func TestNobodyIsCutShortForNothing(t *testing.T) {
	root := layout.Root(t.TempDir())
	lock, err := acquireQuietly(t.Context(), root, []string{DomainUnits})
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	if _, err := Acquire(t.Context(), root, []string{DomainUnits}, 0); !errors.Is(err, ErrLocked) {
		t.Errorf("a lock that is held was taken: %v", err)
	}
	if anyAsked(root, lockNames(nil)) {
		t.Error("a command that has given up asks still")
	}
	if way, end := givingWay(t.Context(), root, []string{DomainKernel, DomainNetwork}); way != t.Context() {
		end()
		t.Error("a converge of the network is cut short")
	}
}

// TestDaemonComesAfterCommands: it must not take the lock again in the moment
// between its end and a command's next try.
func TestDaemonComesAfterCommands(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = file.Close() })
		return file
	}
	first, second, daemon := open(), open(), open()
	for _, command := range []*os.File{first, second} {
		if err := ask(command); err != nil {
			t.Fatal(err)
		}
	}
	takes := func(who string, file *os.File, command, want bool) {
		t.Helper()
		if got, err := try(file, command); got != want || err != nil {
			t.Errorf("%s takes the lock: %t, %v; want %t", who, got, err, want)
		}
	}
	takes("the daemon, while two ask", daemon, false, false)
	takes("the first", first, true, true)
	takes("the second, while the first has it", second, true, false)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	takes("the daemon, while the second asks", daemon, false, false)
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	takes("the daemon, once nobody asks", daemon, false, true)
}
