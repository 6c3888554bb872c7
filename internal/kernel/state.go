// Package kernel keeps the kernel modules that a spec names loaded and the
// sysctls that it names at their values.
//
// Words: a module is present when it is loaded or built into the running
// kernel; a sysctl's original is the value that it had before nodeagent first
// changed it, kept in a file and put back when the spec drops the sysctl.
//
// Nothing is written to /etc/modules-load.d or /etc/sysctl.d: nodeagent runs
// at boot and converges, which loads the modules and then sets the sysctls
// again before any Kubernetes component starts. Modules are never unloaded: a
// module that a spec no longer names may be in use by somebody else.
//
// Files below /etc/modprobe.d are not read: what a spec says of a module's
// parameters is the only word on them. Modules that would make a link when they
// are loaded make none unless a spec says so, as with systemd's modprobe.d.
package kernel

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/hosts"
)

// Domain is the name of this domain in plans.
const Domain = "kernel"

// State is the wanted or observed modules and sysctls. Observed, it holds the
// ones that the wanted state names.
type State struct {
	Modules []Module // sorted by name
	Sysctls []Sysctl // sorted by name
}

// Presence tells how a module is in the kernel.
type Presence int

// The ways of being there. Wanted modules are Loaded.
const (
	Absent Presence = iota
	Loaded
	BuiltIn
)

// Module is one kernel module.
type Module struct {
	// Name with underscores, as /sys/module has it.
	Name     string
	Presence Presence
	// Parameters by name. Observed: those that the wanted module names.
	Parameters map[string]Parameter
}

// Parameter is one parameter of a module.
type Parameter struct {
	Value string
	// Writable, Hidden and Unknown are observed. A writable parameter can be
	// changed while the module is loaded. A hidden one exists but the kernel
	// does not show its value (its permissions are 0), so that it can only be
	// given when the module is loaded. An unknown one is none of the module's.
	Writable, Hidden, Unknown bool
}

// Sysctl is one key below /proc/sys.
type Sysctl struct {
	// Name is the canonical dotted name: a slash stands for a dot within one
	// of its parts, as in net.ipv4.conf.eth0/100.rp_filter.
	Name string
	// Value without the newline at its end.
	Value string
	// Revert (wanted only) tells that the spec dropped the sysctl: Value is its
	// original, and once it is back the original is forgotten.
	Revert bool
	// Back (wanted only) tells that Value is one that the sysctl had before
	// ([Back]): no original is kept of what it takes the place of.
	Back bool
	// Exists is observed: false where the running kernel has no such key.
	Exists bool
}

// Want returns the modules and sysctls of the spec, and the originals of those
// sysctls that it does not name any more. It fails on a name that cannot be one
// and on two spellings of one name with different values.
func Want(spec *hosts.Spec, originals Originals) (State, error) {
	modules, err := wantModules(spec.Kernel.Modules)
	if err != nil {
		return State{}, err
	}
	sysctls, err := wantSysctls(spec.Kernel.Sysctls, originals)
	if err != nil {
		return State{}, err
	}
	return State{Modules: modules, Sysctls: sysctls}, nil
}

func wantModules(specified []hosts.Module) ([]Module, error) {
	byName := map[string]Module{}
	for _, m := range specified {
		name, err := moduleName(m.Name)
		if err != nil {
			return nil, err
		}
		module, ok := byName[name]
		if !ok {
			module = Module{Name: name, Presence: Loaded, Parameters: map[string]Parameter{}}
		}
		for parameter, value := range m.Parameters {
			if err := checkParameter(name, parameter, value); err != nil {
				return nil, err
			}
			if other, ok := module.Parameters[parameter]; ok && other.Value != value {
				return nil, fmt.Errorf("module %q: parameter %q is given as %q and as %q", name, parameter, other.Value, value)
			}
			module.Parameters[parameter] = Parameter{Value: value}
		}
		byName[name] = module
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b Module) int {
		return strings.Compare(a.Name, b.Name)
	}), nil
}

func wantSysctls(specified map[string]string, originals Originals) ([]Sysctl, error) {
	byName := map[string]Sysctl{}
	for _, spelled := range slices.Sorted(maps.Keys(specified)) {
		value := strings.TrimSpace(specified[spelled])
		name, err := sysctlName(spelled)
		if err != nil {
			return nil, err
		}
		if strings.ContainsAny(value, "\n\x00") {
			return nil, fmt.Errorf("sysctl %q: the value is more than one line", name)
		}
		if other, ok := byName[name]; ok && !sameValue(other.Value, value) {
			return nil, fmt.Errorf("sysctl %q is given as %q and as %q under two spellings", name, other.Value, value)
		}
		byName[name] = Sysctl{Name: name, Value: value}
	}
	for name, value := range originals {
		if _, wanted := byName[name]; !wanted {
			byName[name] = Sysctl{Name: name, Value: value, Revert: true}
		}
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b Sysctl) int {
		return strings.Compare(a.Name, b.Name)
	}), nil
}
