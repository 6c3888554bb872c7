package pki

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// watcher watches files as kube-apiserver and the kubelet do
// (k8s.io/apiserver, dynamic_serving_content.go): through the link, on the
// inode that it led to when the watch was set, and set anew only when that
// inode's removal is told.
type watcher struct {
	t     *testing.T
	files []string
	notes *fsnotify.Watcher
}

func watch(t *testing.T, files ...string) *watcher {
	notes, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { notes.Close() })
	w := &watcher{t, files, notes}
	for _, f := range files {
		if err := notes.Add(f); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// next waits for an event of a removal, sets the watch anew and returns what
// the files then hold, as the component would read it.
func (w *watcher) next(deadline <-chan time.Time) ([]string, error) {
	for {
		select {
		case e := <-w.notes.Events:
			if !e.Has(fsnotify.Remove) && !e.Has(fsnotify.Rename) {
				continue
			}
			_ = w.notes.Remove(e.Name)
			if err := w.notes.Add(e.Name); err != nil {
				return nil, err
			}
			var contents []string
			for _, f := range w.files {
				content, err := os.ReadFile(f)
				if err != nil {
					return nil, err
				}
				contents = append(contents, string(content))
			}
			return contents, nil
		case err := <-w.notes.Errors:
			return nil, err
		case <-deadline:
			return nil, fmt.Errorf("no event")
		}
	}
}

// A component that watches the pair hears of every switch, and what it reads
// when it hears of it is the new pair.
func TestEverySwitchIsNoticed(t *testing.T) {
	h := newHost(t, mercury())
	h.converge()
	at := h.root.Certificate(layout.CertAPIServer)
	w := watch(t, at.Cert, at.Key)
	for i := range 4 {
		h.now = h.now.Add(65 * day)
		changes := h.diff()
		only(t, changes, "certificate kube-apiserver")
		if err := h.apply(changes); err != nil {
			t.Fatal(err)
		}
		want := []string{readString(t, at.Cert), readString(t, at.Key)}
		deadline := time.After(10 * time.Second)
		for range w.files { // an event for each file
			got, err := w.next(deadline)
			if err != nil {
				t.Fatalf("switch %d: %v", i+1, err)
			}
			if got[0] != want[0] || got[1] != want[1] {
				t.Fatalf("switch %d: the event came before the new pair was in place", i+1)
			}
		}
	}
}

// The trust bundle is replaced by a rename, which removes the watched inode.
func TestTrustBundleIsNoticed(t *testing.T) {
	h := newHost(t, mercury())
	h.converge()
	path := h.root.Trust(layout.CAK8sClient)
	w := watch(t, path)
	for i := range 2 {
		h.now = h.now.Add(3600 * day)
		if err := h.apply(h.diff()); err != nil {
			t.Fatal(err)
		}
		got, err := w.next(time.After(10 * time.Second))
		if err != nil {
			t.Fatalf("switch %d: %v", i+1, err)
		}
		if got[0] != readString(t, path) {
			t.Fatalf("switch %d: the event came before the new bundle was in place", i+1)
		}
	}
}

// A run that was killed between switching the link and removing the old files
// has told nobody; the next one does.
func TestInterruptedSwitchIsNoticedLater(t *testing.T) {
	h := newHost(t, mercury())
	h.converge()
	at := h.root.Certificate(layout.CertAPIServer)
	w := watch(t, at.Cert)
	h.now = h.now.Add(65 * day)
	changes := h.diff()
	stopped := make(chan struct{})
	h.step = func(name string) {
		if name == "link switched" {
			close(stopped)
			select {} // as if killed: this goroutine goes no further
		}
	}
	go h.apply([]plan.Change{only(t, changes, "certificate kube-apiserver")}) //nolint:errcheck // it never returns
	<-stopped
	h.step = nil
	only(t, h.diff(), "leftovers of certificate kube-apiserver")
	h.converge()
	if _, err := w.next(time.After(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
}
