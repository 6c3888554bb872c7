package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nodeagent/nodeagent/internal/docs"
)

// What is generated and committed is as its sources are.
func TestDocsAreCurrent(t *testing.T) {
	files, err := docs.Files(newRoot(io.Discard, io.Discard))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil || string(got) != string(want) {
			t.Errorf("%s is not what its sources make (%v); run: make docs", name, err)
		}
	}
}

// Each command explains itself, gives an example that calls it, and says what
// each of its flags does.
func TestEveryCommandHelps(t *testing.T) {
	for _, cmd := range docs.Commands(newRoot(io.Discard, io.Discard)) {
		if cmd.Short == "" || cmd.Long == "" || cmd.Example == "" {
			t.Errorf("%s: short, long or examples are missing", cmd.CommandPath())
		}
		if strings.HasSuffix(cmd.Short, ".") || strings.Contains(cmd.Short, "\n") {
			t.Errorf("%s: short is a line without a full stop: %q", cmd.CommandPath(), cmd.Short)
		}
		if !strings.Contains(cmd.Example, strings.TrimPrefix(cmd.CommandPath(), "nodeagent ")) && cmd.HasParent() {
			t.Errorf("%s: no example calls it:\n%s", cmd.CommandPath(), cmd.Example)
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s: flag --%s has no help", cmd.CommandPath(), f.Name)
			}
		})
		for _, line := range strings.Split(cmd.Example, "\n") {
			checkExampleFlags(t, cmd, line)
		}
	}
}

var flagInExample = regexp.MustCompile(`\s--([a-z][a-z-]*)`)

// checkExampleFlags holds an example that calls the command, and no other
// program before it, to the flags that there are.
func checkExampleFlags(t *testing.T, cmd *cobra.Command, line string) {
	t.Helper()
	line, _, _ = strings.Cut(strings.TrimSpace(line), " | ")
	line, _, _ = strings.Cut(line, "   ") // a remark
	args, calls := strings.CutPrefix(line, "nodeagent ")
	if !calls {
		return
	}
	called, _, err := cmd.Root().Find(strings.Fields(args))
	if err != nil {
		t.Errorf("%s: its example %q calls nothing: %v", cmd.CommandPath(), line, err)
		return
	}
	for _, m := range flagInExample.FindAllStringSubmatch(line, -1) {
		if called.Flags().Lookup(m[1]) == nil && called.InheritedFlags().Lookup(m[1]) == nil {
			t.Errorf("%s: its example %q has a flag that %s has not", cmd.CommandPath(), line, called.CommandPath())
		}
	}
}

// Every exit code is in the reference.
func TestExitCodesAreDocumented(t *testing.T) {
	text := string(docs.CLI(newRoot(io.Discard, io.Discard)))
	for _, code := range []int{exitOK, exitFailed, exitChanges, exitInvalid, exitLockout, exitUsage} {
		if !strings.Contains(text, "\n| "+strconv.Itoa(code)+" | ") {
			t.Errorf("internal/docs/cli.md does not have exit code %d", code)
		}
	}
}

// A manual page of every command is made of macros that are there, the same
// each time, with the date that it was given.
func TestManualPages(t *testing.T) {
	edition := docs.Edition{Version: "1.2", Date: time.Unix(1700000000, 0)}
	root := newRoot(io.Discard, io.Discard)
	pages, err := docs.Pages(root, edition)
	if err != nil {
		t.Fatal(err)
	}
	again, err := docs.Pages(newRoot(io.Discard, io.Discard), edition)
	if err != nil {
		t.Fatal(err)
	}
	if want := len(docs.Commands(root)) + 1; len(pages) != want {
		t.Errorf("%d pages, want %d", len(pages), want)
	}
	macro := regexp.MustCompile(`^\.(TH|SH|SS|PP|TP|IP|RS|RE|EX|EE|br|sp|ad|nh|nr|ss)( |$)`)
	for name, page := range pages {
		if string(page) != string(again[name]) {
			t.Errorf("%s is another page each time", name)
		}
		if !strings.Contains(string(page), `"2023\-11\-14" "nodeagent 1.2"`) {
			t.Errorf("%s does not have its date and version: %.120s", name, page)
		}
		for i, line := range strings.Split(string(page), "\n") {
			control := strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'")
			if control && !macro.MatchString(line) {
				t.Errorf("%s:%d: %q is read as a macro", name, i+1, line)
			}
			if strings.Contains(line, "`") || strings.Contains(line, "](") {
				t.Errorf("%s:%d: %q has Markdown left in it", name, i+1, line)
			}
		}
	}
}
