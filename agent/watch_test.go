package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

func expectEvent(t *testing.T, events <-chan Event, what string) {
	t.Helper()
	select {
	case <-events:
	case <-time.After(10 * time.Second):
		t.Fatalf("no event for %s", what)
	}
	for {
		select {
		case <-events:
		case <-time.After(50 * time.Millisecond):
			return
		}
	}
}

func TestWatchTrees(t *testing.T) {
	dir := t.TempDir()
	deep := filepath.Join(dir, "certs", "etcd")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	events := make(chan Event)
	if err := watchTrees(t.Context(), slog.New(slog.DiscardHandler), events, Event{Source: "files"}, dir); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(deep, "tls.crt")
	if err := atomicfile.Write(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	expectEvent(t, events, "a file deep in the tree")
	later := filepath.Join(dir, "later", "inner")
	if err := os.MkdirAll(later, 0o755); err != nil {
		t.Fatal(err)
	}
	expectEvent(t, events, "a new folder")
	if err := os.WriteFile(filepath.Join(later, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expectEvent(t, events, "a file in a folder made later")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	expectEvent(t, events, "a deleted file")
}

// TestBrokenWatchIsMadeAgain closes a watch as a lost subscription does.
func TestBrokenWatchIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		made := 0
		watch := func(context.Context) (<-chan struct{}, error) {
			made++
			if made == 2 {
				return nil, errors.New("not yet")
			}
			signals := make(chan struct{}, 1)
			signals <- struct{}{}
			if made == 1 {
				close(signals)
			}
			return signals, nil
		}
		events := make(chan Event)
		if err := watchSignals(ctx, slog.New(slog.DiscardHandler), watch, events, Event{Source: "test"}); err != nil {
			t.Fatal(err)
		}
		for range 3 { // the signal before, the break itself, the signal after
			<-events
		}
		if made != 3 {
			t.Errorf("watched %d times, want 3", made)
		}
		cancel()
		synctest.Wait()
	})
}

func TestWatchTreesNamesAMissingFolder(t *testing.T) {
	err := watchTrees(t.Context(), slog.New(slog.DiscardHandler), make(chan Event), Event{}, filepath.Join(t.TempDir(), "no"))
	if err == nil {
		t.Error("a folder that does not exist is watched")
	}
}
