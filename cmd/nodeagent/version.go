package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// What the linker is told (see the Makefile); empty in a plain go build, which may
// know some of it from Git itself.
var release, commit, commitTime, tree string

// What a build says of the tree that it was made from.
const (
	treeClean    = "clean"
	treeModified = "modified" // with changes that are in no commit
	treeUnknown  = "unknown"  // not built in a Git checkout
)

// buildFacts are what a binary tells of how it was built. The JSON keys are
// stable.
type buildFacts struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	// CommitTime is RFC 3339 in UTC; empty where the tree is unknown.
	CommitTime string     `json:"commitTime,omitempty"`
	Tree       string     `json:"tree"`
	Go         string     `json:"go"`
	Platform   string     `json:"platform"`
	Module     moduleFact `json:"module"`
	// Dependencies are all modules that are linked in.
	Dependencies moduleSum `json:"dependencies"`
}

// moduleFact is nodeagent's own module. Only a build by "go install …@version"
// has a checksum of it, as go.sum files have.
type moduleFact struct {
	Path    string `json:"path"`
	Version string `json:"version,omitempty"`
	Sum     string `json:"sum,omitempty"`
}

// moduleSum is a digest over lines "path version checksum\n", sorted, of all
// modules; the checksums are those of go.sum. Two binaries with the same one are
// of the same sources, but for nodeagent's own.
type moduleSum struct {
	Count  int    `json:"count"`
	SHA256 string `json:"sha256"`
}

// ownBuild reads the build information of this binary.
func ownBuild() buildFacts {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return buildFactsOf(info, buildFacts{Version: release, Commit: commit, CommitTime: commitTime, Tree: tree})
}

// buildFactsOf is ownBuild of the information, and of what the linker was told: version,
// commit, its time and the tree, each of which may be empty.
func buildFactsOf(info *debug.BuildInfo, told buildFacts) buildFacts {
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	stamped := map[string]string{"true": treeModified, "false": treeClean}[settings["vcs.modified"]]
	installed := ""
	if info.Main.Sum != "" {
		installed = info.Main.Version
	}
	return buildFacts{
		Version:    cmp.Or(told.Version, installed, "devel"),
		Commit:     cmp.Or(told.Commit, settings["vcs.revision"], "unknown"),
		CommitTime: cmp.Or(told.CommitTime, settings["vcs.time"]),
		Tree:       cmp.Or(told.Tree, stamped, treeUnknown),
		Go:         runtime.Version(),
		Platform:   runtime.GOOS + "/" + runtime.GOARCH,
		Module:     moduleFact{Path: info.Main.Path, Version: info.Main.Version, Sum: info.Main.Sum},

		Dependencies: sumOf(info.Deps),
	}
}

func sumOf(deps []*debug.Module) moduleSum {
	var lines []string
	for _, m := range deps {
		if m.Replace != nil {
			m = m.Replace
		}
		lines = append(lines, fmt.Sprintf("%s %s %s\n", m.Path, m.Version, m.Sum))
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "")))
	return moduleSum{Count: len(lines), SHA256: hex.EncodeToString(sum[:])}
}

// version tells the release, the commit it was built from and the Go version:
// "0.1.0 (commit 1a2b3c4, go1.26.0, linux/amd64)".
func version() string {
	f := ownBuild()
	return f.Version + " (commit " + f.Commit + ", " + f.Go + ", " + f.Platform + ")"
}

func newVersion(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Tell the version and how this binary was built",
		Long: `version tells the version, the commit and whether it was built from exactly that,
the Go version, and a digest over all modules that are linked in. Who builds the
same commit with the same Go gets the same bytes (docs/releases.md).`,
		Example: `  nodeagent version
  nodeagent version -o json`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			if o.json() {
				return printJSON(o, ownBuild())
			}
			return ownBuild().print(o.stdout)
		},
	}
}

func (f buildFacts) print(w io.Writer) error {
	tree := map[string]string{
		treeClean:    "built from exactly that commit",
		treeModified: "built with changes that are in no commit",
		treeUnknown:  "not built in a Git checkout",
	}[f.Tree]
	if f.CommitTime != "" {
		tree = "of " + f.CommitTime + ", " + tree
	}
	_, err := fmt.Fprintf(w, "nodeagent %s\ncommit %s (%s)\n%s, %s\n%d modules, sha256 %s\n",
		f.Version, f.Commit, tree, f.Go, f.Platform, f.Dependencies.Count, f.Dependencies.SHA256)
	return err
}
