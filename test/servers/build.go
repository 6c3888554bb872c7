package servers

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// progressEvery is how often a running build says how far it is.
const progressEvery = 20 * time.Second

// build finds a server's programs in the cache or builds them, and returns
// their folder.
func (b *Builder) build(ctx context.Context, s *server) (string, error) {
	key, err := b.key(s)
	if err != nil {
		return "", err
	}
	return b.cached(ctx, filepath.Join("servers", s.name), key, s.expect, func(dir string) error {
		for _, p := range s.programs {
			if err := b.goBuild(ctx, s.name, b.moduleDir(s), s, p.pkg, filepath.Join(dir, p.names[0])); err != nil {
				return err
			}
			for _, link := range p.names[1:] {
				if err := os.Symlink(p.names[0], filepath.Join(dir, link)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// fetch brings the sources of a server that is to be built into Go's module
// cache. It is a help and no more: what goes wrong, the build will say.
func (b *Builder) fetch(ctx context.Context, s *server) {
	key, err := b.key(s)
	if err != nil {
		return
	}
	if _, err := os.Stat(filepath.Join(b.Cache, "servers", s.name, key)); err == nil {
		return
	}
	args := []string{"list", "-deps", "-tags=" + s.tags}
	if s.modfile != "" {
		args = append(args, "-modfile="+s.modfile)
	}
	for _, p := range s.programs {
		args = append(args, p.pkg)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = b.moduleDir(s)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	_ = cmd.Run()
}

// Agent builds nodeagent itself and returns the file. It is built at every
// call, since its sources are what is being worked on; Go's own cache makes
// that a matter of seconds.
func (b *Builder) Agent(ctx context.Context) (string, error) {
	dir := filepath.Join(b.Cache, "agent")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("build nodeagent: %w", err)
	}
	// Several tests may do this at once; each has a folder of its own until
	// the rename.
	temp, err := os.MkdirTemp(dir, "building")
	if err != nil {
		return "", fmt.Errorf("build nodeagent: %w", err)
	}
	defer os.RemoveAll(temp)
	fresh := filepath.Join(temp, "nodeagent")
	if err := b.goBuild(ctx, "nodeagent", b.Root, &server{}, "./cmd/nodeagent", fresh); err != nil {
		return "", err
	}
	file := filepath.Join(dir, "nodeagent")
	if err := os.Rename(fresh, file); err != nil {
		return "", fmt.Errorf("build nodeagent: %w", err)
	}
	return file, nil
}

// goBuild builds one static executable.
func (b *Builder) goBuild(ctx context.Context, name, dir string, s *server, pkg, out string) error {
	flags, err := b.linkerFlags(s)
	if err != nil {
		return err
	}
	args := []string{"build", "-v", "-trimpath", "-mod=readonly", "-ldflags=" + flags, "-o", out}
	if s.compiler != "" {
		args = append(args, "-gcflags="+s.compiler)
	}
	if s.tags != "" {
		args = append(args, "-tags="+s.tags)
	}
	if s.modfile != "" {
		args = append(args, "-modfile="+s.modfile)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Dir = dir
	// GOWORK=off: a workspace above the clone must not change what is built.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	return b.run(cmd, name, "packages compiled", "go build "+pkg)
}

// run runs a long command whose lines of output count as progress, and says
// every progressEvery how far it is. The last lines are part of the error.
func (b *Builder) run(cmd *exec.Cmd, name, unit, what string) error {
	output, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, write
	progress := &progress{}
	read := make(chan struct{})
	go func() {
		defer close(read)
		progress.read(output)
	}()
	start := time.Now()
	err := cmd.Start()
	if err == nil {
		stop := make(chan struct{})
		go b.report(name, unit, start, progress, stop)
		err = cmd.Wait()
		close(stop)
	}
	write.Close()
	<-read
	if err != nil {
		return fmt.Errorf("%s: %s in %s: %w; its last output:\n%s", name, what, cmd.Dir, err, progress.tail())
	}
	return nil
}

func (b *Builder) report(name, unit string, start time.Time, p *progress, stop <-chan struct{}) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			fmt.Fprintf(b.Log, "  %s: %d %s after %s\n", name, p.count(), unit, round(time.Since(start)))
		}
	}
}

// progress counts a command's lines of output and keeps the last ones.
type progress struct {
	mu    sync.Mutex
	lines int
	last  []string
}

func (p *progress) read(r io.Reader) {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		p.mu.Lock()
		p.lines++
		p.last = append(p.last, scanner.Text())
		if len(p.last) > 15 {
			p.last = p.last[1:]
		}
		p.mu.Unlock()
	}
	// A line too long for the scanner must not block the command.
	_, _ = io.Copy(io.Discard, r)
}

func (p *progress) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lines
}

func (p *progress) tail() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.last, "\n")
}

// cached returns the folder kind/key of the cache. If it is not there, fill
// makes its content in a temporary folder, which is then renamed. Processes
// that want the same product at once wait for the first one.
func (b *Builder) cached(ctx context.Context, kind, key, expect string, fill func(dir string) error) (string, error) {
	final := filepath.Join(b.Cache, kind, key)
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return "", fmt.Errorf("make cache folder for %s: %w", kind, err)
	}
	unlock, err := Lock(ctx, filepath.Join(b.Cache, kind, ".lock"))
	if err != nil {
		return "", fmt.Errorf("lock cache of %s: %w", kind, err)
	}
	defer unlock()
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	temp := final + ".building"
	if err := os.RemoveAll(temp); err != nil { // left by a build that was killed
		return "", fmt.Errorf("clear unfinished build of %s: %w", kind, err)
	}
	if err := os.MkdirAll(temp, 0o755); err != nil {
		return "", fmt.Errorf("make build folder of %s: %w", kind, err)
	}
	name := filepath.Base(kind)
	if expect != "" {
		fmt.Fprintf(b.Log, "  %s %s: building (once; %s)\n", name, key, expect)
	}
	start := time.Now()
	if err := fill(temp); err != nil {
		return "", errors.Join(err, os.RemoveAll(temp))
	}
	if err := os.Rename(temp, final); err != nil {
		return "", fmt.Errorf("finish build of %s: %w", kind, err)
	}
	if expect != "" {
		fmt.Fprintf(b.Log, "  %s: built in %s, kept in %s\n", name, round(time.Since(start)), final)
	}
	return final, nil
}

// Lock takes an exclusive lock on a file, waiting for other processes, and
// returns the function that gives it back.
func Lock(ctx context.Context, name string) (func(), error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	retry := time.NewTicker(200 * time.Millisecond)
	defer retry.Stop()
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil // closing releases the lock
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(err, file.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), file.Close())
		case <-retry.C:
		}
	}
}

// lineWriter writes whole lines at a time, so that builds that run side by
// side do not write into each other's lines.
type lineWriter struct {
	mu   sync.Mutex
	w    io.Writer
	rest bytes.Buffer
}

func (l *lineWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest.Write(p)
	end := bytes.LastIndexByte(l.rest.Bytes(), '\n') + 1
	if end > 0 {
		if _, err := l.w.Write(l.rest.Next(end)); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func round(d time.Duration) time.Duration { return d.Round(time.Second) }
