// Command packaging makes what a release of nodeagent consists of beside its
// binaries: Debian packages, lists of what is linked in (SBOM, notices) and
// release notes. The Makefile calls it; everything it writes depends on its
// arguments, the repository and the binaries alone, so that whoever does the
// same gets the same bytes.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"time"
)

const usage = `usage: packaging COMMAND [FLAG …]

  deb     make a Debian package of a binary, and print its path
  sbom    tell what is linked into a binary, as CycloneDX JSON
  notices tell the licences of what is linked into a binary
  sums    tell the SHA-256 of each file of a folder
  notes   print the release notes of a version
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "packaging: %v\n", err)
		os.Exit(1)
	}
}

// options are the flags of all commands; each uses some.
type options struct {
	root    string // the repository
	binary  string
	native  string // a build for this machine, which can be run
	man     string // the folder with man pages
	version string // as git describe tells it
	out     string // the folder to write to
	epoch   epoch
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	commands := map[string]func(context.Context, options, io.Writer) error{
		"deb": makeDeb, "sbom": printSBOM, "notices": printNotices, "sums": printSums, "notes": printNotes,
	}
	if len(args) == 0 || commands[args[0]] == nil {
		return fmt.Errorf("no such command\n%s", usage)
	}
	var o options
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.StringVar(&o.root, "root", "..", "the repository's `folder`")
	flags.StringVar(&o.binary, "binary", "", "the `file` to package")
	flags.StringVar(&o.native, "native", "", "a `file` of the same source that runs on this machine (default: the binary)")
	flags.StringVar(&o.man, "man", "", "the `folder` with man pages")
	flags.StringVar(&o.version, "version", "", "the `version`, as git describe tells it")
	flags.StringVar(&o.out, "out", "", "the `folder` to write to")
	flags.Var(&o.epoch, "epoch", "the `seconds` since 1970 that all files are dated by (default: $SOURCE_DATE_EPOCH)")
	if err := o.epoch.Set(os.Getenv("SOURCE_DATE_EPOCH")); err != nil && os.Getenv("SOURCE_DATE_EPOCH") != "" {
		return fmt.Errorf("read SOURCE_DATE_EPOCH: %w", err)
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if o.native == "" {
		o.native = o.binary
	}
	return commands[args[0]](ctx, o, stdout)
}

// epoch is a moment given in seconds since 1970, as SOURCE_DATE_EPOCH is.
type epoch struct{ time.Time }

// Set implements [flag.Value].
func (e *epoch) Set(text string) error {
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return err
	}
	e.Time = time.Unix(seconds, 0).UTC()
	return nil
}

// String implements [flag.Value].
func (e *epoch) String() string { return strconv.FormatInt(e.Unix(), 10) }
