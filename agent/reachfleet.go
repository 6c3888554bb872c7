package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/kernel"
	"github.com/nodeagent/nodeagent/netcfg"
)

// Session is the SSH session that a fleet is judged in.
type Session struct {
	// Connection is SSH_CONNECTION (ssh(1)), empty for none.
	Connection string
	// Host is the name of the machine that it is on.
	Host string
}

// FleetCuts returns as warnings the ways that the specs of the fleet would
// certainly cut, whichever machine it is judged on: those of etcd, Vault, the
// API endpoint and WireGuard, as far as their ends are addresses, and that of
// the session where it is on a host of the fleet. It looks at no host and asks
// no DNS.
func FleetCuts(fleet *hosts.Fleet, session Session) []hosts.Problem {
	var problems []hosts.Problem
	more := map[string]int{} // by place: one line may cut ways of every host
	first := map[string]int{}
	on := session.on(fleet)
	for _, spec := range fleet.Hosts {
		connection := ""
		if spec == on {
			connection = session.Connection
		}
		for _, c := range specCuts(spec, connection) {
			if _, said := first[c.Line]; said && c.Line != "" && !strings.HasPrefix(c.Text, sessionName) {
				more[c.Line]++
				continue
			}
			first[c.Line] = len(problems)
			problems = append(problems, c.problem(spec))
		}
	}
	for line, n := range more {
		problems[first[line]].Reason += fmt.Sprintf(" (and %d more by this line)", n)
	}
	return problems
}

// specCuts are those that the spec of one host shows.
func specCuts(spec *hosts.Spec, connection string) []Cut {
	sysctls := map[string]string{}
	if wanted, err := kernel.Want(spec, kernel.Originals{}); err == nil { // else plan says why
		sysctls = valuesOf(wanted)
	}
	named := append(sessionWays(connection), neededWays(spec)...)
	if mayCutMesh(spec, sysctls) {
		named = append(named, meshWays(spec)...)
	}
	network := *spec
	if !slices.ContainsFunc(named, func(w namedWay) bool { return w.Inbound }) {
		network.Firewall = hosts.Firewall{} // large, and nothing comes in
	}
	want := netcfg.Want(&network)
	ways := numberedWays(named)
	own := []netip.Addr{spec.Address}
	for _, f := range spec.Network.Floating {
		own = append(own, f.Address.Addr())
	}
	if w, ok := sessionWay(connection); ok {
		own = append(own, w.Local.Addr())
	}
	now := netcfg.Declared(want, own, slices.Concat(ways...)).With(sysctls)
	found := netcfg.Reach(want, netcfg.State{}, now, slices.Concat(ways...))
	// Loading the fleet said this of endpoints.
	found = slices.DeleteFunc(found, func(c netcfg.Cut) bool {
		return c.Way.Tunnel != "" && (c.Kind == netcfg.CutNoRoute || c.Kind == netcfg.CutRefused && c.By.Table == hosts.MainTable)
	})
	return judge(spec, found, ways)
}

// mayCutMesh tells whether the spec has what may cut WireGuard's ways beside
// routes. These were judged when the fleet was loaded: an endpoint that a route
// leads through its own tunnel is an error, one that no route leads to a warning.
func mayCutMesh(spec *hosts.Spec, sysctls map[string]string) bool {
	if len(spec.Network.Rules) > 0 {
		return true
	}
	for name, value := range sysctls {
		if strings.HasSuffix(name, ".disable_ipv6") && value != "0" {
			return true
		}
	}
	return false
}

// problem is the cut as a warning about the fleet.
func (c Cut) problem(spec *hosts.Spec) hosts.Problem {
	p := hosts.Problem{File: spec.Name + ".toml", Field: c.Field, Reason: fmt.Sprintf("on the host %s %s", spec.Name, c.Text)}
	if file, line, ok := strings.Cut(c.Line, ":"); ok {
		p.File = file
		p.Line, _ = strconv.Atoi(line) // as this module wrote it
	}
	return p
}

// on is the host of the fleet that the session is on, nil for none: the one that
// has the session's address, else the one of the machine's name.
func (s Session) on(fleet *hosts.Fleet) *hosts.Spec {
	w, ok := sessionWay(s.Connection)
	if !ok {
		return nil
	}
	has := func(spec *hosts.Spec) bool {
		mesh := spec.Network.WireGuard
		return spec.Address == w.Local.Addr() || mesh != nil && mesh.Address.Addr() == w.Local.Addr() ||
			slices.ContainsFunc(spec.Network.Links, func(l hosts.Link) bool {
				return slices.ContainsFunc(l.Addresses, func(a hosts.Address) bool { return a.Prefix.Addr() == w.Local.Addr() })
			})
	}
	named := func(spec *hosts.Spec) bool { return spec.Name == s.Host }
	for _, is := range []func(*hosts.Spec) bool{has, named} {
		if i := slices.IndexFunc(fleet.Hosts, is); i >= 0 {
			return fleet.Hosts[i]
		}
	}
	return nil
}
