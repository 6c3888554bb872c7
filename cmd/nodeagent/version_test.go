package main

import (
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestBuildFacts(t *testing.T) {
	vcs := func(modified string) []debug.BuildSetting {
		return []debug.BuildSetting{
			{Key: "vcs.revision", Value: "aa11"}, {Key: "vcs.time", Value: "2026-11-21T22:00:00Z"}, {Key: "vcs.modified", Value: modified},
		}
	}
	for _, test := range []struct {
		name string
		info debug.BuildInfo
		told buildFacts
		want buildFacts
	}{
		{"nothing is known", debug.BuildInfo{}, buildFacts{}, buildFacts{Version: "devel", Commit: "unknown", Tree: treeUnknown}},
		{"a checkout", debug.BuildInfo{Settings: vcs("false")}, buildFacts{}, buildFacts{
			Version: "devel", Commit: "aa11", CommitTime: "2026-11-21T22:00:00Z", Tree: treeClean,
		}},
		{"a release", debug.BuildInfo{Settings: vcs("false")}, buildFacts{Version: "0.1.0", Commit: "aa1", Tree: treeModified}, buildFacts{
			Version: "0.1.0", Commit: "aa1", CommitTime: "2026-11-21T22:00:00Z", Tree: treeModified,
		}},
		{"a checkout with changes", debug.BuildInfo{Settings: vcs("true")}, buildFacts{}, buildFacts{
			Version: "devel", Commit: "aa11", CommitTime: "2026-11-21T22:00:00Z", Tree: treeModified,
		}},
		{"go install", debug.BuildInfo{Main: debug.Module{Path: "m", Version: "v0.1.0", Sum: "h1:x"}}, buildFacts{}, buildFacts{
			Version: "v0.1.0", Commit: "unknown", Tree: treeUnknown, Module: moduleFact{Path: "m", Version: "v0.1.0", Sum: "h1:x"},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := buildFactsOf(&test.info, test.told)
			ignore := cmpopts.IgnoreFields(buildFacts{}, "Go", "Platform", "Dependencies")
			if diff := cmp.Diff(test.want, got, ignore); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if !strings.HasPrefix(got.Go, "go") || !strings.Contains(got.Platform, "/") {
				t.Errorf("Go is %q, platform is %q", got.Go, got.Platform)
			}
		})
	}
}

// TestSumOf: the order of modules says nothing, versions and checksums do.
func TestSumOf(t *testing.T) {
	a := &debug.Module{Path: "a", Version: "v1.0.0", Sum: "h1:a"}
	b := &debug.Module{Path: "b", Version: "v1.0.0", Sum: "h1:b"}
	replaced := &debug.Module{Path: "c", Version: "v1.0.0", Replace: b}
	same := sumOf([]*debug.Module{a, b})
	// printf 'a v1.0.0 h1:a\nb v1.0.0 h1:b\n' | sha256sum
	want := moduleSum{2, "788b3cc048c0edd9177b2d1a710cb77ed7661fa8a31230da03ca59b6a8259170"}
	if same != want {
		t.Errorf("digest %+v, want %+v", same, want)
	}
	if got := sumOf([]*debug.Module{b, a}); got != same {
		t.Errorf("another order has another digest: %+v, %+v", got, same)
	}
	if got := sumOf([]*debug.Module{a, replaced}); got != same {
		t.Errorf("a module in the place of another has another digest: %+v, %+v", got, same)
	}
	if got := sumOf([]*debug.Module{a, {Path: "b", Version: "v1.0.1", Sum: "h1:b"}}); got == same {
		t.Error("another version has the same digest")
	}
}
