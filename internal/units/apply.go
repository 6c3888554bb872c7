package units

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// step carries out one change. It is what Diff puts into Change.Payload.
type step interface {
	do(ctx context.Context, a *application) error
}

// Apply carries out changes that Diff returned, in their order; units that do
// not need each other start side by side. It goes on past a change that fails
// and returns all failures, except that a unit is neither started nor restarted
// when one of its files could not be written or when a unit that it needs is
// not ready.
//
// It can be stopped at any point: what was done stays, and the next Observe and
// Diff find the rest. While units start, rep hears Begin of several before the
// End of the first.
func (s *Systemd) Apply(ctx context.Context, changes []plan.Change, rep plan.Reporter) error {
	a := &application{systemd: s, unwritten: map[string]error{}}
	var failed []error
	for len(changes) > 0 && ctx.Err() == nil {
		n := 1
		if starts(changes[0]) {
			n = slices.IndexFunc(changes, func(c plan.Change) bool { return !starts(c) })
			if n < 0 {
				n = len(changes)
			}
			failed = append(failed, a.startAll(ctx, changes[:n], rep))
		} else {
			failed = append(failed, plan.Each(ctx, changes[:1], rep, a.do))
		}
		changes = changes[n:]
	}
	if err := ctx.Err(); err != nil {
		return errors.Join(append(failed, err)...)
	}
	return errors.Join(append(failed, a.settle(ctx))...)
}

// application is the state of one Apply.
type application struct {
	systemd *Systemd
	// dirty: unit files were written that systemd has not read yet.
	dirty bool
	// unwritten are the paths of files, and names of units, that could not be
	// written.
	unwritten map[string]error
}

func starts(c plan.Change) bool {
	_, ok := c.Payload.(startUnit)
	return ok
}

func (a *application) do(ctx context.Context, c plan.Change) error {
	s, ok := c.Payload.(step)
	if !ok {
		return fmt.Errorf("not a change of domain %s", Domain)
	}
	return s.do(ctx, a)
}

// settle makes systemd read unit files that were written, before anything
// relies on them and at the end.
func (a *application) settle(ctx context.Context) error {
	if !a.dirty {
		return nil
	}
	if err := a.systemd.reload(ctx); err != nil {
		return err
	}
	a.dirty = false
	return nil
}

// writable returns why a unit must not be started: a file of it is not as it
// should be.
func (a *application) writable(u Unit) error {
	if err := a.unwritten[u.Name]; err != nil {
		return errors.New("not started: its unit file could not be written")
	}
	for path := range a.unwritten {
		if reads(u, path) {
			return fmt.Errorf("not started: its file %s could not be written", path)
		}
	}
	return nil
}

type writeFile struct{ file File }

func (w writeFile) do(_ context.Context, a *application) error {
	err := a.systemd.folders.write(w.file)
	if err != nil {
		a.unwritten[w.file.Path] = err
	}
	return err
}

// The modes of folders made for configuration files: nobody but root looks
// into those of the components; others are as folders of the system are.
const (
	stateMode     fs.FileMode = 0o700
	componentMode fs.FileMode = 0o750
	systemMode    fs.FileMode = 0o755
)

func (f folders) write(file File) error {
	dir := filepath.Dir(file.Path)
	mode := systemMode
	if strings.HasPrefix(file.Path, f.components()+"/") {
		mode = componentMode
		if err := atomicfile.MkdirAll(f.root.State(), stateMode); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	if err := atomicfile.MkdirAll(dir, mode); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	return atomicfile.Write(file.Path, file.Content, file.Mode)
}

type deleteFile struct{ path string }

// do deletes the file and the folders that it leaves empty.
func (d deleteFile) do(_ context.Context, a *application) error {
	if err := atomicfile.Remove(d.path); err != nil {
		return err
	}
	top := a.systemd.folders.components()
	for dir := filepath.Dir(d.path); strings.HasPrefix(dir, top+"/"); dir = filepath.Dir(dir) {
		if os.Remove(dir) != nil {
			break // not empty: another file is there
		}
	}
	return nil
}

type writeUnit struct{ name, path, content string }

func (w writeUnit) do(_ context.Context, a *application) error {
	if err := w.write(); err != nil {
		a.unwritten[w.name] = err
		return err
	}
	a.dirty = true
	return nil
}

func (w writeUnit) write() error {
	if !ours(w.content) {
		return fmt.Errorf("write unit file %q: its first line is not nodeagent's header, so that nodeagent would not know it again", w.path)
	}
	if err := atomicfile.MkdirAll(filepath.Dir(w.path), systemMode); err != nil {
		return fmt.Errorf("make folder of unit files: %w", err)
	}
	return atomicfile.Write(w.path, []byte(w.content), 0o644)
}

type refuseUnit struct{ foreign Foreign }

func (r refuseUnit) do(_ context.Context, a *application) error {
	err := errors.New(r.foreign.why())
	a.unwritten[r.foreign.Unit] = err
	return err
}

type reloadManager struct{}

func (reloadManager) do(ctx context.Context, a *application) error {
	a.dirty = true
	return a.settle(ctx)
}

type removeCopies struct{ paths []string }

// do deletes unit files in the folder that does not count, with the links that
// lie beside them.
func (r removeCopies) do(_ context.Context, a *application) error {
	var failed []error
	for _, path := range r.paths {
		content, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
			continue
		}
		for _, link := range installLinks(string(content)) {
			failed = append(failed, atomicfile.Remove(filepath.Join(filepath.Dir(path), link, filepath.Base(path))))
		}
		failed = append(failed, atomicfile.Remove(path))
	}
	a.dirty = true
	return errors.Join(failed...)
}

type enableUnit struct {
	name   string
	enable bool
	folder string
}

func (e enableUnit) do(ctx context.Context, a *application) error {
	if err := a.unwritten[e.name]; err != nil && e.enable {
		return errors.New("not enabled: its unit file could not be written")
	}
	// systemd finds the unit file on disk, but takes notice of the links only
	// when it reads all unit files the next time.
	a.dirty = true
	return a.systemd.setEnabled(ctx, e.name, e.enable, e.folder)
}

type stopUnit struct{ name string }

func (s stopUnit) do(ctx context.Context, a *application) error {
	return a.systemd.Stop(ctx, s.name)
}

type removeUnit struct {
	unit   Unit
	folder string
}

// do stops the unit, removes its links, then its files: in this order each
// step is found again by the file that is still there.
func (r removeUnit) do(ctx context.Context, a *application) error {
	name := r.unit.Name
	if err := a.systemd.Stop(ctx, name); err != nil {
		return err
	}
	if r.unit.Content != "" {
		if err := a.systemd.setEnabled(ctx, name, false, r.folder); err != nil {
			return err
		}
		if err := atomicfile.Remove(filepath.Join(r.folder, name)); err != nil {
			return err
		}
	}
	if err := (removeCopies{r.unit.Copies}).do(ctx, a); err != nil {
		return err
	}
	// A unit that failed is remembered as failed even without its file.
	return a.systemd.forget(ctx, name)
}
