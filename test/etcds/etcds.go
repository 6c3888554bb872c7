// Package etcds finds servers of older etcd releases for tests.
//
// The executables are built by "go run ./test/servers/build etcds". Without them a
// test is skipped, and fails where CI=true.
package etcds

import (
	"io"
	"testing"

	"github.com/nodeagent/nodeagent/test/servers"
)

// Minors are the releases that there are, the oldest first.
var Minors = []string{"3.4", "3.5", "3.6"}

// Program is the executable of one of the Minors.
func Program(t testing.TB, minor string) (file string) {
	t.Helper()
	servers.Require(t, "starts etcd "+minor, func() error {
		builder, err := servers.New(io.Discard)
		if err == nil {
			file, err = builder.FindEtcd(minor)
		}
		return err
	}, "CI=true")
	return file
}
