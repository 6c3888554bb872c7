package main

import (
	"fmt"
	"os"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/embedfleet"
)

// The environment that a wrapper sets, such as Nix's, instead of flags and of
// nodeagent's own defaults.
const (
	fleetVariable       = "NODEAGENT_FLEET"
	hostVariable        = "NODEAGENT_HOST"
	binariesVariable    = "NODEAGENT_BINARIES"
	cniBinariesVariable = "NODEAGENT_CNI_BINARIES"
)

// source is where the fleet is read: the folder that --fleet or the environment
// names, the default folder where there is one, and otherwise the fleet within
// the program, if one was built in.
func (o *options) source() hosts.Source {
	s := hosts.Source{Dir: o.fleet, Binaries: os.Getenv(binariesVariable), CNIBinaries: os.Getenv(cniBinariesVariable)}
	within := embedfleet.FS()
	switch {
	case within == nil:
	case o.fleet == hosts.Embedded, !o.chosen() && !exists(o.fleet):
		s.FS = within
	case !o.chosen() && !o.noted:
		o.noted = true
		fmt.Fprintf(o.stderr, "note: the fleet in %s is used, and not the one within this program, which --fleet %s names\n", o.fleet, hosts.Embedded)
	}
	return s
}

// load reads the fleet that is meant.
func (o *options) load() (*hosts.Fleet, error) { return o.source().Load() }
