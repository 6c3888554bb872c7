package main

import (
	"runtime"
	"runtime/debug"
)

// release and commit are set by the linker (see the Makefile).
var release, commit string

// version tells the release, the commit it was built from and the Go version:
// "0.1.0 (commit 1a2b3c4, go1.26.0, linux/amd64)".
func version() string {
	r, c := release, commit
	if info, ok := debug.ReadBuildInfo(); ok && c == "" {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				c = s.Value
			}
		}
	}
	if r == "" {
		r = "devel"
	}
	if c == "" {
		c = "unknown"
	}
	return r + " (commit " + c + ", " + runtime.Version() + ", " + runtime.GOOS + "/" + runtime.GOARCH + ")"
}
