// Package units keeps systemd units and the configuration files that they read
// as wanted, over systemd's D-Bus interface: files and unit files written,
// units enabled, started, restarted when their inputs changed, stopped and
// removed when no longer wanted.
//
// Words: a unit's inputs are everything that it reads only when it starts (its
// unit file, its configuration files, CA bundles); Inputs is their digest. The
// digest is written into the unit file as the environment variable
// [InputsVariable], so that a running process carries the digest of the inputs
// with which it was started and "must be restarted" is read off the process
// (/proc/<pid>/environ), not off a note that a crash could lose.
//
// Ownership: unit files whose name begins with layout.UnitPrefix and whose
// first line is [Header]; files below the components folder. Nothing else is
// changed or removed.
package units

import (
	"io/fs"
	"time"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// InputsVariable is the environment variable that carries a unit's Inputs.
const InputsVariable = "NODEAGENT_INPUTS"

// Header is the first line of every file that nodeagent writes where the
// format has comments.
const Header = "# Written by nodeagent from the fleet's TOML files; changes made here are overwritten."

// State is the wanted or observed files and units.
type State struct {
	// Files are configuration files, sorted by path.
	Files []File
	// Units are in the order in which they start; they stop in reverse.
	Units []Unit
	// Host is what was observed of the host around them; empty in a wanted
	// state.
	Host Host
}

// Host is what Observe finds out about the host that decides how units are
// written, or that stops them from being written or started.
type Host struct {
	// UnitFolder is the folder where nodeagent's unit files belong on this
	// host: /etc/systemd/system, or /run/systemd/system where the former is
	// read-only.
	UnitFolder string
	// MissingBinaries are the paths of wanted units' binaries and programs at
	// which there is nothing executable, sorted.
	MissingBinaries []string
	// Foreign are the unit files that have the name of a wanted unit but that
	// nodeagent did not write, sorted by path.
	Foreign []Foreign
}

// Foreign is a unit file that has the name of a wanted unit but is not
// nodeagent's, as it lacks [Header].
type Foreign struct {
	Unit string // its name
	Path string
	// Masked: the file is empty or a link to /dev/null, which is how an
	// administrator forbids a unit.
	Masked bool
}

// File is one configuration file.
type File struct {
	Path    string
	Content []byte
	Mode    fs.FileMode
	// Secret content is printed as a fingerprint only.
	Secret bool
}

// Unit is one systemd unit.
type Unit struct {
	// Name with its suffix: "nodeagent-etcd.service".
	Name string
	// Content of the unit file with Header, without the Inputs line, which the
	// package adds to the [Service] section.
	Content string
	// Enabled: started at boot. Active: running.
	Enabled, Active bool
	// Inputs is, wanted, the digest of the inputs that the unit should run
	// with, Content included; observed, that of the running process, empty when
	// it has none. Only units with a [Service] section have inputs.
	Inputs string
	// Written is, observed, the digest that the unit file carries. It differs
	// from Inputs between writing the file and restarting the unit.
	Written string
	// Stale is, observed, whether systemd has loaded something else than what
	// lies on disk.
	Stale bool
	// Copies are, observed, the paths of unit files of this name that nodeagent
	// wrote to another folder than Host.UnitFolder, where they hide the one
	// that counts or are hidden by it.
	Copies []string
	// Effect of a restart: plan.Quorum for etcd, plan.Restart otherwise.
	Effect plan.Effect
	// Needs are the names of units that must be ready before this one starts.
	Needs []string
	// Binary is what the unit executes: an absolute path. When it is missing,
	// the error says Missing.
	Binary string
	// Missing completes the error "kubelet: no binary at …: " with the folder
	// searched and the spec line to change.
	Missing string
	// Programs are what the binary itself runs, and cannot do its work without.
	Programs []Program
	// Ready tells when the started unit can be used; nil when active is enough.
	Ready *Probe
	// Server is what has to answer before Ready can, so that errors say what is
	// really waited for; nil when there is no such thing.
	Server *Server
	// Detail is what was observed beyond the above, for status and for the
	// reasons that Diff gives; no change depends on it.
	Detail Detail
}

// Program is a program that a unit's binary runs.
type Program struct {
	Name string
	// Folders are where it is searched for; one of them must have it.
	Folders []string
	// Missing completes the error "no NAME in FOLDERS: " with what to do.
	Missing string
}

// Probe asks a health endpoint until it answers 200.
type Probe struct {
	URL string // http or https
	// CA, Cert and Key are PEM files for mTLS, read at every attempt; empty for
	// plain http.
	CA, Cert, Key string
	// ServerName overrides the name checked in the server's certificate.
	ServerName string
	// Timeout is how long the unit may take from start to ready.
	Timeout time.Duration
}

// Server is what a unit talks to, here or on another host.
type Server struct {
	Name string // "an API server"
	Probe
}

// Detail is what systemd and /proc say of a unit.
type Detail struct {
	ActiveState, SubState string
	MainPID               int
	Result                string // how the last run ended; "" of a unit that is active
	// Figures; see [Systemd.ObserveFigures].
	Restarts    int
	Since       time.Time
	MemoryBytes uint64
	// DropIns are files by which somebody changes what the unit file says
	// (systemctl edit). They are not nodeagent's, and are left alone.
	DropIns []string
}
