package kernel

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// IsNetwork tells whether a sysctl belongs to the network, by its name.
func IsNetwork(name string) bool { return strings.HasPrefix(name, "net.") }

// overwriters are the sysctls that set others as well; see writesOver.
var overwriters = []string{
	"net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding",
	"net.ipv6.conf.all.forwarding", "net.ipv6.conf.all.disable_ipv6",
}

// Back returns the sysctls of the network as they are, as far as making want
// sets them or writes over them. [Diff] from any later state to it leads back.
// Loaded modules are not in it: a module in use cannot be unloaded, and nothing
// tells who uses it.
func Back(ctx context.Context, sys *System, want State) (State, error) {
	names := map[string]bool{}
	for _, s := range want.Sysctls {
		if !IsNetwork(s.Name) {
			continue
		}
		names[s.Name] = true
		if slices.Contains(overwriters, s.Name) {
			if err := sys.overwritten(s.Name, names); err != nil {
				return State{}, err
			}
		}
	}
	var asked State
	for name := range names {
		asked.Sysctls = append(asked.Sysctls, Sysctl{Name: name})
	}
	slices.SortFunc(asked.Sysctls, func(a, b Sysctl) int { return strings.Compare(a.Name, b.Name) })
	have, err := Observe(ctx, sys, asked)
	if err != nil {
		return State{}, err
	}
	return have.there(), nil
}

// overwritten adds the sysctls of all links that setting the named one sets.
func (s *System) overwritten(by string, into map[string]bool) error {
	for _, family := range []string{"ipv4", "ipv6"} {
		links, err := os.ReadDir(filepath.Join(s.Proc, "sys", "net", family, "conf"))
		if errors.Is(err, os.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return err
		}
		for _, link := range links {
			// In a sysctl's name a slash stands for a dot within a part.
			prefix := "net." + family + ".conf." + strings.ReplaceAll(link.Name(), ".", "/") + "."
			for _, last := range []string{"forwarding", "accept_redirects", "disable_ipv6"} {
				if writesOver(by, prefix+last) {
					into[prefix+last] = true
				}
			}
		}
	}
	return nil
}

// there is the observed state as one to go back to, without the sysctls that
// the kernel does not have.
func (s State) there() State {
	var exists State
	for _, sysctl := range s.Sysctls {
		if sysctl.Exists {
			sysctl.Back = true
			exists.Sysctls = append(exists.Sysctls, sysctl)
		}
	}
	return exists
}

// DiffBack is [Diff] towards a state that [Back] returned. Sysctls of links that
// are not there are left out: they come with the link, and are then set.
func DiffBack(have, back State) []plan.Change {
	missing := map[string]bool{}
	for _, s := range have.Sysctls {
		missing[s.Name] = !s.Exists
	}
	var there State
	for _, s := range back.Sysctls {
		if !missing[s.Name] {
			there.Sysctls = append(there.Sysctls, s)
		}
	}
	return Diff(have, there)
}

// Hold returns want with the sysctls of the network as back has them instead of
// as the spec says: what remains in force where the spec's network was undone.
func (s State) Hold(back State) State {
	held := State{Modules: s.Modules}
	for _, sysctl := range s.Sysctls {
		if !IsNetwork(sysctl.Name) {
			held.Sysctls = append(held.Sysctls, sysctl)
		}
	}
	held.Sysctls = append(held.Sysctls, back.Sysctls...)
	slices.SortFunc(held.Sysctls, func(a, b Sysctl) int { return strings.Compare(a.Name, b.Name) })
	return held
}
