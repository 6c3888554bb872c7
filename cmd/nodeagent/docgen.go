//go:build docgen

package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/internal/docs"
)

// Built with the tag docgen this package is not nodeagent but the program that
// makes its documentation (see the Makefile), since nobody else can import the
// commands:
//
//	go run -tags docgen ./cmd/nodeagent [-docs DIR] [-man DIR] [-version V]
//
// -docs writes what is committed, below the repository's root DIR; -man writes
// the manual pages into DIR, dated by SOURCE_DATE_EPOCH or the last commit.
func main() {
	root := flag.String("docs", "", "write what is committed, below this root of the repository")
	man := flag.String("man", "", "write manual pages into this folder")
	edition := flag.String("version", "", "the version that manual pages name")
	flag.Parse()
	if err := generate(*root, *man, *edition); err != nil {
		fmt.Fprintln(os.Stderr, "docgen:", err)
		os.Exit(1)
	}
}

func generate(root, man, edition string) error {
	cmd := newRoot(io.Discard, io.Discard)
	if root != "" {
		files, err := docs.Files(cmd)
		if err != nil {
			return err
		}
		if err := writeAll(root, files); err != nil {
			return err
		}
	}
	if man == "" {
		return nil
	}
	date, err := sourceDate()
	if err != nil {
		return err
	}
	pages, err := docs.Pages(cmd, docs.Edition{Version: edition, Date: date})
	if err != nil {
		return err
	}
	return writeAll(man, pages)
}

func writeAll(dir string, files map[string][]byte) error {
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// sourceDate is SOURCE_DATE_EPOCH, seconds since 1970, or the time of the last
// commit. Where there is neither, pages have no date.
func sourceDate() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		out, err := exec.Command("git", "log", "-1", "--format=%ct").Output()
		if err != nil {
			return time.Time{}, nil
		}
		text = strings.TrimSpace(string(out))
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("read SOURCE_DATE_EPOCH %q: it is a number of seconds since 1970", text)
	}
	return time.Unix(seconds, 0), nil
}
