package agent

import (
	"bytes"
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
	watchTrees(t.Context(), slog.New(slog.DiscardHandler), events, Event{Source: "files"}, dir)
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

// TestWatchTreesOfFoldersRemoved: a folder that is moved aside before it is
// removed, as generations of certificates are, ends no watch, and is nothing to
// warn of.
func TestWatchTreesOfFoldersRemoved(t *testing.T) {
	dir := t.TempDir()
	events := make(chan Event, 1<<16)
	var log bytes.Buffer
	ctx, stop := context.WithCancel(t.Context())
	tree, err := openTrees([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		tree.forward(ctx, slog.New(slog.NewTextHandler(&log, nil)), events, Event{Source: "files"})
	}()
	for range 1000 {
		from, aside := filepath.Join(dir, "g"), filepath.Join(dir, "aside")
		if err := os.Mkdir(from, 0o755); err != nil {
			t.Fatal(err)
		}
		select {
		case <-events: // often that of this folder, which is watched then
		case <-time.After(time.Minute):
			t.Fatal("nothing is heard any more")
		}
		if err := errors.Join(os.Rename(from, aside), os.RemoveAll(aside)); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	<-done
	if err := tree.close(); err != nil {
		t.Error(err)
	}
	if log.Len() > 0 {
		t.Errorf("the log has:\n%s", log.String())
	}
}

// TestWatchTreesFollowsReplacedFolders replaces the watched folder in the ways
// in which fleets are rolled out.
func TestWatchTreesFollowsReplacedFolders(t *testing.T) {
	write := func(elem ...string) {
		t.Helper()
		path := filepath.Join(elem...)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, path string) {
		t.Helper()
		if err := errors.Join(os.Symlink(target, path+".new"), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
	}
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	base := t.TempDir()
	write(base, "releases", "1", "fleet", "cluster.toml")
	write(base, "releases", "2", "fleet", "cluster.toml")
	link("releases/1", filepath.Join(base, "current"))
	dir := filepath.Join(base, "current", "fleet")
	events := make(chan Event)
	watchTrees(t.Context(), slog.New(slog.DiscardHandler), events, Event{Source: "files"}, dir)
	write(dir, "host.toml")
	expectEvent(t, events, "a file behind a link")

	link(filepath.Join(base, "releases", "2"), filepath.Join(base, "current"))
	expectEvent(t, events, "a link that was switched")
	write(dir, "host.toml")
	expectEvent(t, events, "a file behind the switched link")

	move(dir, dir+".old")
	expectEvent(t, events, "a folder that was moved away")
	write(base, "next", "cluster.toml")
	move(filepath.Join(base, "next"), dir)
	expectEvent(t, events, "a folder that was moved in")
	write(dir, "other.toml")
	expectEvent(t, events, "a file in the folder that was moved in")

	write(dir+".old", "host.toml")
	write(base, "beside")
	select {
	case <-events:
		t.Error("an event for files outside of the folder")
	case <-time.After(200 * time.Millisecond):
	}
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

func TestWatchTreesWaitsForAMissingFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "yet")
	events := make(chan Event)
	watchTrees(t.Context(), slog.New(slog.DiscardHandler), events, Event{}, dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	expectEvent(t, events, "a folder that is made later")
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expectEvent(t, events, "a file in it")
}
