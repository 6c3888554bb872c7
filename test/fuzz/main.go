// Command fuzz runs every fuzz target of the module. Each package's tests are
// built once for all of its targets, and packages run side by side.
// "make test-fuzz" runs it, from the repository's root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

func main() {
	inputs := flag.String("time", "1500x", "how many inputs each target tries, as of go test -fuzztime")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *inputs); err != nil {
		fmt.Fprintf(os.Stderr, "fuzz: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, inputs string) error {
	packages, err := find(".")
	if err != nil {
		return err
	}
	gocache, err := goSays(ctx, "env", "GOCACHE")
	if err != nil {
		return err
	}
	module, err := goSays(ctx, "list", "-m")
	if err != nil {
		return err
	}
	built, err := os.MkdirTemp("", "nodeagent-fuzz-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(built)
	var all errgroup.Group // one that fails ends no other
	all.SetLimit(runtime.NumCPU())
	failed := make([]error, len(packages))
	for i, p := range packages {
		all.Go(func() error {
			// Where go test keeps the inputs that it found worth keeping.
			p.corpus = filepath.Join(gocache, "fuzz", module, p.dir)
			failed[i] = p.fuzz(ctx, filepath.Join(built, fmt.Sprint(i)), inputs)
			return nil
		})
	}
	return errors.Join(all.Wait(), errors.Join(failed...))
}

// pack is a package with fuzz targets.
type pack struct {
	dir     string
	targets []string
	corpus  string
}

var target = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)

// find finds the fuzz targets below a folder, those of other modules left out.
func find(root string) (packages []pack, err error) {
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if _, err := os.Stat(filepath.Join(path, "go.mod")); path != root && (err == nil || strings.HasPrefix(entry.Name(), ".")) {
			return fs.SkipDir
		}
		p, err := read(path)
		if len(p.targets) > 0 {
			packages = append(packages, p)
		}
		return err
	})
	if err == nil && len(packages) == 0 {
		err = fmt.Errorf("there are no fuzz targets below %q", root)
	}
	return packages, err
}

func read(dir string) (pack, error) {
	p := pack{dir: dir}
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return p, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return p, err
		}
		for _, match := range target.FindAllSubmatch(text, -1) {
			p.targets = append(p.targets, string(match[1]))
		}
	}
	slices.Sort(p.targets)
	return p, nil
}

// fuzz builds the package's tests and runs its targets, one after the other.
func (p pack) fuzz(ctx context.Context, program, inputs string) error {
	build := exec.CommandContext(ctx, "go", "test", "-c", "-fuzz", ".", "-o", program, "./"+p.dir)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the tests of %s: %w\n%s", p.dir, err, out)
	}
	var failed []error
	for _, name := range p.targets {
		began := time.Now()
		cmd := exec.CommandContext(ctx, program, "-test.run=^$", "-test.fuzz=^"+name+"$", "-test.fuzztime="+inputs,
			"-test.fuzzminimizetime=20x", "-test.fuzzcachedir="+p.corpus, "-test.paniconexit0", "-test.timeout=10m")
		cmd.Dir = p.dir // an input that fails is kept there
		if out, err := cmd.CombinedOutput(); err != nil {
			failed = append(failed, fmt.Errorf("%s of %s: %w\n%s", name, p.dir, err, out))
			continue
		}
		fmt.Printf("ok\t%s\t%s\t%.1fs\n", p.dir, name, time.Since(began).Seconds())
	}
	return errors.Join(failed...)
}

// goSays is the one line that the go command prints.
func goSays(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", args...).Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
