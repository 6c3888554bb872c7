// Package lab runs whole hosts on one machine, for tests and for the demo:
// each host has a real systemd as its process 1, a root file system of its own
// and network interfaces plugged into a switch. nodeagent and the servers it
// manages run in it as they would on a rented server.
//
// Words: a lab is a set of hosts and switches that are made and removed
// together; a switch is a bridge; the wire is the network namespace that all
// switches of a lab live in; the machine is what the lab runs on.
//
// The machine is left alone: a lab adds no address, route, rule or interface
// to the machine's own network namespace, changes none of the machine's
// sysctls, and removes at Close every process, mount and control group it
// made, each by the id it wrote down when it made it. A command meant for a
// host that is not running fails; it never runs on the machine.
//
// A lab needs root, a few Debian packages and the products of package
// servers. Require says so in a test.
package lab

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/servers"
)

// Options say what kind of lab Open makes.
type Options struct {
	// Name is the lab's folder in the cache. Empty: a random one, for a lab
	// that nobody needs to find again.
	Name string
	// Keep lets the lab live on after the process that opened it, until
	// somebody attaches to it and closes it. Without it, the next lab that
	// is opened removes it once that process is gone.
	Keep bool
	// Log is told what takes long. Nil: nobody is.
	Log io.Writer
}

// A Lab is a set of hosts and switches.
type Lab struct {
	// Builder finds and builds the programs that the lab's hosts run.
	Builder *servers.Builder

	log   io.Writer
	dir   string
	state state
	hosts []*Host
}

// New opens a lab for a test and closes it when the test ends, passed or not.
// If the machine cannot run one, the test is skipped with the reason; see
// Require.
func New(t testing.TB) *Lab {
	t.Helper()
	Require(t)
	l, err := Open(t.Context(), Options{Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The test's own context is cancelled before its cleanups run.
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		if t.Failed() {
			l.dump(t)
		}
		if err := l.Close(ctx); err != nil {
			t.Errorf("close lab: %v", err)
		}
	})
	return l
}

// closeTimeout is how long a whole lab may take to disappear.
const closeTimeout = 2 * time.Minute

// Open makes a lab without hosts and switches. Labs that a killed test left
// behind are removed first.
func Open(ctx context.Context, options Options) (*Lab, error) {
	if err := missing(); err != nil {
		return nil, err
	}
	l, err := blank(options.Log)
	if err != nil {
		return nil, err
	}
	if err := Sweep(ctx, options.Log); err != nil {
		return nil, err
	}
	self, err := identify(os.Getpid())
	if err != nil {
		return nil, fmt.Errorf("open lab: %w", err)
	}
	var random [3]byte
	_, _ = rand.Read(random[:]) // never fails, says its documentation
	unique := hex.EncodeToString(random[:])
	name := cmp.Or(options.Name, "t"+unique)
	l.dir = filepath.Join(l.Builder.Cache, "lab", name)
	// Another clone of the repository may have a lab of the same name.
	l.state = state{Name: name, ID: name + "-" + unique, Owner: self, Keep: options.Keep}
	if _, err := os.Stat(l.dir); err == nil {
		return nil, fmt.Errorf("open lab %q: %s exists; close that lab first", name, l.dir)
	}
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return nil, fmt.Errorf("open lab %q: %w", name, err)
	}
	if err := l.save(); err != nil {
		return nil, err
	}
	if err := l.makeWire(ctx); err != nil {
		return nil, errors.Join(err, l.Close(ctx))
	}
	return l, nil
}

// Attach finds a lab that another process opened. It returns an error that is
// os.ErrNotExist if there is none of this name.
func Attach(name string, log io.Writer) (*Lab, error) {
	l, err := blank(log)
	if err != nil {
		return nil, err
	}
	if err := l.load(filepath.Join(l.Builder.Cache, "lab", name)); err != nil {
		return nil, fmt.Errorf("attach to lab %q: %w", name, err)
	}
	return l, nil
}

// Sweep removes the labs whose process is gone, such as those of a test that
// ran into its time limit. Labs that are meant to be kept stay.
func Sweep(ctx context.Context, log io.Writer) error {
	l, err := blank(log)
	if err != nil {
		return err
	}
	labs := filepath.Join(l.Builder.Cache, "lab")
	if err := os.MkdirAll(labs, 0o755); err != nil {
		return fmt.Errorf("look for abandoned labs: %w", err)
	}
	unlock, err := servers.Lock(ctx, filepath.Join(labs, ".lock")) // one sweeper at a time
	if err != nil {
		return fmt.Errorf("look for abandoned labs: %w", err)
	}
	defer unlock()
	dirs, err := filepath.Glob(filepath.Join(labs, "[^.]*")) // not the lock
	if err != nil {
		return fmt.Errorf("look for abandoned labs: %w", err)
	}
	var errs []error
	for _, dir := range dirs {
		abandoned, err := Attach(filepath.Base(dir), log)
		if errors.Is(err, os.ErrNotExist) {
			continue // just being made, or just gone
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if abandoned.state.Keep || abandoned.state.Owner.alive() {
			continue
		}
		fmt.Fprintf(l.log, "removing lab %q, left behind by a process that is gone\n", abandoned.state.Name)
		errs = append(errs, abandoned.Close(ctx))
	}
	return errors.Join(errs...)
}

func blank(log io.Writer) (*Lab, error) {
	if log == nil {
		log = io.Discard
	}
	builder, err := servers.New(log)
	if err != nil {
		return nil, err
	}
	return &Lab{Builder: builder, log: log}, nil
}

// Name is the lab's name, which begins the name of everything it makes on the
// machine.
func (l *Lab) Name() string { return l.state.Name }

// Host returns the host of this name, or nil.
func (l *Lab) Host(name string) *Host {
	i := slices.IndexFunc(l.hosts, func(h *Host) bool { return h.name == name })
	if i < 0 {
		return nil
	}
	return l.hosts[i]
}

// Hosts returns all hosts in the order they were added.
func (l *Lab) Hosts() []*Host { return slices.Clone(l.hosts) }

// Close kills every host and removes all that the lab made. It goes on after
// an error, so that one stubborn part does not keep the rest, and can be
// called again.
func (l *Lab) Close(ctx context.Context) error {
	var errs []error
	for _, h := range l.hosts {
		errs = append(errs, h.Kill(ctx))
	}
	errs = append(errs, l.removeWire())
	if err := errors.Join(errs...); err != nil {
		// What is left can still be found through the state file.
		return fmt.Errorf("close lab %q: %w", l.state.Name, err)
	}
	if err := os.RemoveAll(l.dir); err != nil {
		return fmt.Errorf("close lab %q: %w", l.state.Name, err)
	}
	return nil
}

// dump writes what helps to understand a failed test.
func (l *Lab) dump(t testing.TB) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, h := range l.hosts {
		out, err := h.Exec(ctx, "journalctl", "--no-pager", "-b", "-n", "2000", "-o", "short-precise")
		t.Logf("last journal lines of host %s, without Kubernetes' informational ones (%v):\n%s", h.name, err, last(complaints(out), 16000))
	}
}

// informational matches a line that a Kubernetes component logs about its own
// well-being, and lines of the machine's kernel, which speaks of every host.
var informational = regexp.MustCompile(`^\S+ \S+ \S+ \S+ (kube\S+\]: I\d{4} |kernel: )`)

func complaints(journal string) string {
	var kept strings.Builder
	for line := range strings.Lines(journal) {
		if !informational.MatchString(line) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}
