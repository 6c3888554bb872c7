package agent

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/netcfg"
)

// lookupPatience is how long DNS may take to answer. A name that it does not
// know by then is a way that is not judged.
const lookupPatience = 2 * time.Second

// Cut is a way in, or one that the host needs, that its spec would certainly
// cut.
type Cut struct {
	// Text says which way, and by what.
	Text string
	// Line is the line of the fleet that does it, "cluster.toml:12"; empty where
	// it is what the spec does not say.
	Line string
	// Already tells that the way is cut now, too.
	Already bool
}

// String returns the text with the line in front.
func (c Cut) String() string {
	if c.Line == "" {
		return c.Text
	}
	return c.Line + ": " + c.Text
}

// Cuts returns the ways that the network of the spec would certainly cut, where
// there is anything to change. session is the present SSH session as the
// environment variable SSH_CONNECTION has it (ssh(1)), empty for none. It writes
// nothing; it may ask DNS.
func (h *Host) Cuts(ctx context.Context, session string) ([]Cut, error) {
	want, err := h.wantNetwork()
	if err != nil {
		return nil, err
	}
	have, err := h.network.Observe(ctx, want)
	if err != nil || len(netcfg.Diff(have, want)) == 0 {
		return nil, err
	}
	ways := resolveWays(ctx, waysOf(h.Spec(), session))
	now, err := h.network.Surroundings(ctx, ways)
	if err != nil {
		return nil, err
	}
	var cuts []Cut
	for _, c := range netcfg.Reach(want, have, now, ways) {
		cuts = append(cuts, Cut{Text: c.String(), Line: lineOf(h.Spec(), c.By), Already: c.Already})
	}
	return cuts, nil
}

// Warnings are what a person should know of a plan of the domains: ways that it
// cuts, and names that it cannot overrule.
func (h *Host) Warnings(ctx context.Context, p plan.Plan, domains []Domain, session string) []string {
	var list []string
	if len(p.Domain(DomainNetwork)) > 0 {
		cuts, err := h.Cuts(ctx, session)
		if err != nil {
			list = append(list, fmt.Sprintf("whether the change cuts a way in is not known: %v", err))
		}
		for _, c := range cuts {
			list = append(list, c.String())
		}
	}
	if slices.ContainsFunc(domains, func(d Domain) bool { return d.Name() == DomainHostNames }) {
		list = append(list, h.nameWarnings(ctx)...)
	}
	return list
}

// namedWay is a way whose other end may have only a name yet.
type namedWay struct {
	netcfg.Way
	host string
	port uint16
}

// waysOf are the ways that matter to the host: the session, and what it needs.
func waysOf(spec *hosts.Spec, session string) []namedWay {
	var ways []namedWay
	if w, ok := sessionWay(session); ok {
		ways = append(ways, namedWay{Way: w})
	}
	add := func(name, protocol, hostPort, tunnel string) {
		host, port, err := net.SplitHostPort(hostPort)
		number, portErr := strconv.ParseUint(port, 10, 16)
		if err == nil && portErr == nil {
			ways = append(ways, namedWay{netcfg.Way{Name: name, Protocol: protocol, Tunnel: tunnel}, host, uint16(number)})
		}
	}
	if spec.Has(hosts.RoleEtcd) {
		ways = append(ways, etcdWays(spec)...)
	}
	if v := spec.PKI.Vault; v != nil {
		if u, err := url.Parse(v.Address); err == nil {
			add("the way to Vault at "+u.Host, "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443")), "")
		}
	}
	if spec.Kubernetes.Endpoint != "" {
		add("the way to the API endpoint "+spec.Kubernetes.Endpoint, "tcp", spec.Kubernetes.Endpoint, "")
	}
	if w := spec.Network.WireGuard; w != nil {
		for _, p := range spec.Peers {
			if p.WireGuard != nil && p.WireGuard.Endpoint != "" && p.WireGuard.PublicKey != "" {
				add(fmt.Sprintf("WireGuard's way to %s at %s", p.Name, p.WireGuard.Endpoint), "udp", p.WireGuard.Endpoint, w.Interface)
			}
		}
	}
	return ways
}

// etcdWays are those to and from the other members.
func etcdWays(spec *hosts.Spec) []namedWay {
	var ways []namedWay
	port := uint16(spec.Etcd.PeerPort)
	for _, p := range spec.Peers {
		if !p.Has(hosts.RoleEtcd) {
			continue
		}
		there, here := netip.AddrPortFrom(p.Address, port), netip.AddrPortFrom(spec.Address, port)
		ways = append(ways,
			namedWay{Way: netcfg.Way{Name: "the way to etcd on " + p.Name, Protocol: "tcp", Remote: there}},
			namedWay{Way: netcfg.Way{Name: "the way to this host's etcd from " + p.Name, Inbound: true, Protocol: "tcp", Local: here, Remote: netip.AddrPortFrom(p.Address, 0)}})
	}
	return ways
}

// sessionWay reads SSH_CONNECTION: the client's address and port, the server's
// address and port.
func sessionWay(session string) (netcfg.Way, bool) {
	words := strings.Fields(session)
	if len(words) != 4 {
		return netcfg.Way{}, false
	}
	end := func(address, port string) (netip.AddrPort, error) {
		return netip.ParseAddrPort(net.JoinHostPort(address, port))
	}
	client, err := end(words[0], words[1])
	server, serverErr := end(words[2], words[3])
	if err != nil || serverErr != nil {
		return netcfg.Way{}, false
	}
	return netcfg.Way{
		Name: "the SSH session from " + client.Addr().String(), Inbound: true, Protocol: "tcp",
		Local: server, Remote: client,
	}, true
}

// resolveWays asks DNS, all at once, for the names among the ways' ends. A name
// without an answer is no way that could be judged, nor is one with several:
// each address is a chance, and that one of them is cut cuts nothing off.
func resolveWays(ctx context.Context, named []namedWay) []netcfg.Way {
	ctx, cancel := context.WithTimeout(ctx, lookupPatience)
	defer cancel()
	found := make([][]netip.Addr, len(named))
	var asking sync.WaitGroup
	for i, w := range named {
		if w.host == "" {
			continue
		}
		if a, err := netip.ParseAddr(w.host); err == nil {
			found[i] = []netip.Addr{a}
			continue
		}
		asking.Go(func() { found[i], _ = net.DefaultResolver.LookupNetIP(ctx, "ip", w.host) })
	}
	asking.Wait()
	var ways []netcfg.Way
	for i, w := range named {
		if w.host == "" {
			ways = append(ways, w.Way)
		}
		if len(found[i]) == 1 {
			w.Remote = netip.AddrPortFrom(found[i][0].Unmap(), w.port)
			ways = append(ways, w.Way)
		}
	}
	return ways
}

// lineOf is where the fleet says what cuts a way.
func lineOf(spec *hosts.Spec, by netcfg.CutBy) string {
	var fields []string
	switch {
	case by.Route.IsValid():
		i := slices.IndexFunc(spec.Network.Routes, func(r hosts.Route) bool {
			return r.Destination.Masked() == by.Route && cmp.Or(r.Table, hosts.MainTable) == by.Table
		})
		fields = []string{fmt.Sprintf("network.route[%d]", i), "network.route"}
	case by.Rule != 0:
		i := slices.IndexFunc(spec.Network.Rules, func(r hosts.Rule) bool { return r.Priority == by.Rule })
		fields = []string{fmt.Sprintf("network.rule[%d]", i), "network.rule"}
	case by.WireGuard:
		fields = []string{"network.wireguard"}
	case by.Firewall:
		fields = []string{"firewall.allow", "firewall"}
	}
	for _, field := range fields {
		if line := spec.Defined[field]; line != "" {
			return line
		}
	}
	return ""
}
