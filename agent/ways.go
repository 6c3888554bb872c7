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
	"github.com/nodeagent/nodeagent/netcfg"
)

// lookupPatience is how long DNS may take to answer. A name that it does not
// know by then is a way that is not judged.
const lookupPatience = 2 * time.Second

// namedWay is a way whose other end may have only a name yet.
type namedWay struct {
	netcfg.Way
	host string
	port uint16
}

// to returns the way to one of the addresses that its other end has.
func (w namedWay) to(a netip.Addr) netcfg.Way {
	w.Remote = netip.AddrPortFrom(a.Unmap(), w.port)
	return w.Way
}

// waysOf are the ways that matter to the host: the session, and what it needs.
func waysOf(spec *hosts.Spec, session string) []namedWay {
	return slices.Concat(sessionWays(session), neededWays(spec), meshWays(spec))
}

func sessionWays(session string) []namedWay {
	if w, ok := sessionWay(session); ok {
		return []namedWay{{Way: w}}
	}
	return nil
}

// meshWays are those of WireGuard's outer packets.
func meshWays(spec *hosts.Spec) []namedWay {
	var ways []namedWay
	w := spec.Network.WireGuard
	if w == nil {
		return nil
	}
	for _, p := range spec.Peers {
		if p.WireGuard != nil && p.WireGuard.Endpoint != "" && p.WireGuard.PublicKey != "" {
			ways = addWay(ways, fmt.Sprintf("WireGuard's way to %s at %s", p.Name, p.WireGuard.Endpoint), "udp", p.WireGuard.Endpoint, w.Interface)
		}
	}
	return ways
}

// neededWays are those without which the cluster does not work: to and from
// etcd, to Vault and the API endpoint, and from the others to the host's own.
func neededWays(spec *hosts.Spec) []namedWay {
	var ways []namedWay
	if spec.Has(hosts.RoleEtcd) {
		ways = append(ways, etcdWays(spec)...)
	}
	if v := spec.PKI.Vault; v != nil {
		if u, err := url.Parse(v.Address); err == nil {
			ways = addWay(ways, "the way to Vault at "+u.Host, "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443")), "")
		}
	}
	if spec.Kubernetes.Endpoint != "" {
		ways = addWay(ways, "the way to the API endpoint "+spec.Kubernetes.Endpoint, "tcp", spec.Kubernetes.Endpoint, "")
	}
	return append(ways, apiWays(spec)...)
}

func addWay(ways []namedWay, name, protocol, hostPort, tunnel string) []namedWay {
	host, port, err := net.SplitHostPort(hostPort)
	number, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil {
		return ways
	}
	return append(ways, namedWay{netcfg.Way{Name: name, Protocol: protocol, Tunnel: tunnel}, host, uint16(number)})
}

// inboundWay is one from a peer to the host's node address.
func inboundWay(spec *hosts.Spec, name string, p hosts.Peer, port int) namedWay {
	return namedWay{Way: netcfg.Way{
		Name: name, Inbound: true, Protocol: "tcp",
		Local: netip.AddrPortFrom(spec.Address, uint16(port)), Remote: netip.AddrPortFrom(p.Address, 0),
	}}
}

// etcdWays are those to and from the other members.
func etcdWays(spec *hosts.Spec) []namedWay {
	var ways []namedWay
	for _, p := range spec.Peers {
		if !p.Has(hosts.RoleEtcd) {
			continue
		}
		there := netip.AddrPortFrom(p.Address, uint16(spec.Etcd.PeerPort))
		ways = append(ways,
			namedWay{Way: netcfg.Way{Name: "the way to etcd on " + p.Name, Protocol: "tcp", Remote: there}},
			inboundWay(spec, "the way to this host's etcd from "+p.Name, p, spec.Etcd.PeerPort))
	}
	return ways
}

// apiWays are those of the other hosts' components to the API endpoint where it
// is the node address of this host.
func apiWays(spec *hosts.Spec) []namedWay {
	host, port, err := net.SplitHostPort(spec.Kubernetes.Endpoint)
	number, portErr := strconv.ParseUint(port, 10, 16)
	endpoint, addressErr := netip.ParseAddr(host)
	if err != nil || portErr != nil || addressErr != nil || endpoint != spec.Address || !spec.Has(hosts.RoleControlPlane) {
		return nil
	}
	var ways []namedWay
	for _, p := range spec.Peers {
		if p.Has(hosts.RoleControlPlane) || p.Has(hosts.RoleWorker) {
			ways = append(ways, inboundWay(spec, "the way to this host's API endpoint from "+p.Name, p, int(number)))
		}
	}
	return ways
}

// sessionName begins the name of the session's way.
const sessionName = "the SSH session from "

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
		Name: sessionName + client.Addr().String(), Inbound: true, Protocol: "tcp",
		Local: server, Remote: client,
	}, true
}

// resolveWays asks DNS, all at once, for the names among the ways' ends, and
// returns for each way one for every address. A name without an answer is no way
// that could be judged.
func resolveWays(ctx context.Context, named []namedWay) [][]netcfg.Way {
	ctx, cancel := context.WithTimeout(ctx, lookupPatience)
	defer cancel()
	found := make([][]netip.Addr, len(named))
	var asking sync.WaitGroup
	for i, w := range named {
		if _, err := netip.ParseAddr(w.host); w.host != "" && err != nil {
			asking.Go(func() { found[i], _ = net.DefaultResolver.LookupNetIP(ctx, "ip", w.host) })
		}
	}
	asking.Wait()
	return spread(named, found)
}

// numberedWays are those of the ways whose ends are known without DNS.
func numberedWays(named []namedWay) [][]netcfg.Way {
	return spread(named, make([][]netip.Addr, len(named)))
}

// spread returns for each way one for every address of its other end, of which
// found holds those that have names.
func spread(named []namedWay, found [][]netip.Addr) [][]netcfg.Way {
	var ways [][]netcfg.Way
	for i, w := range named {
		if w.host == "" {
			ways = append(ways, []netcfg.Way{w.Way})
			continue
		}
		if a, err := netip.ParseAddr(w.host); err == nil {
			found[i] = []netip.Addr{a}
		}
		var all []netcfg.Way
		for _, a := range found[i] {
			if way := w.to(a); !slices.Contains(all, way) {
				all = append(all, way)
			}
		}
		if len(all) > 0 {
			ways = append(ways, all)
		}
	}
	return ways
}
