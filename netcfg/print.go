package netcfg

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/hosts"
)

// String returns the link in one line as plans print it, without its addresses:
// "bridge, mtu 1450, up", "veth to veth1, master br0, up".
func (l Link) String() string {
	words := []string{l.kindWord()}
	if l.Master != "" {
		words = append(words, "master "+l.Master)
	}
	if l.MTU != 0 {
		words = append(words, fmt.Sprintf("mtu %d", l.MTU))
	}
	if l.Up {
		words = append(words, "up")
	} else {
		words = append(words, "down")
	}
	return strings.Join(words, ", ")
}

func (l Link) kindWord() string {
	switch {
	case l.Kind == hosts.LinkVeth && l.Peer != "":
		return "veth to " + l.Peer
	case l.Kind == hosts.LinkPhysical && l.Driver != "":
		return l.Driver
	}
	return string(l.Kind)
}

// String returns the route in the words of ip-route(8):
// "default via 192.0.2.1 dev lan0 metric 100 src 192.0.2.10".
func (r Route) String() string {
	var b strings.Builder
	b.WriteString(destinationWord(r.Destination))
	if r.Other != "" {
		fmt.Fprintf(&b, " %s", r.Other)
	}
	if r.Via.IsValid() {
		fmt.Fprintf(&b, " via %s", r.Via)
	}
	if r.Device != "" {
		fmt.Fprintf(&b, " dev %s", r.Device)
	}
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	if r.Source.IsValid() {
		fmt.Fprintf(&b, " src %s", r.Source)
	}
	return b.String()
}

func destinationWord(p netip.Prefix) string {
	switch {
	case p.Bits() == 0:
		return "default"
	case p.IsSingleIP():
		return p.Addr().String()
	}
	return p.String()
}

// routeMakers are the protocol numbers that rtnetlink.h gives names to, as far
// as they are met on hosts.
var routeMakers = map[int]string{
	0: "unknown", 1: "an ICMP redirect", 2: "the kernel", 3: "hand (protocol boot)", 4: "an administrator (protocol static)",
	9: "router advertisement", 11: "zebra", 12: "bird", 16: "DHCP", 18: "keepalived",
	186: "BGP", 187: "IS-IS", 188: "OSPF", 189: "RIP", RouteProtocol: "nodeagent",
}

// maker says who made the route: "DHCP", "protocol 77".
func (r Route) maker() string {
	if name, ok := routeMakers[r.Protocol]; ok {
		return name
	}
	return fmt.Sprintf("protocol %d", r.Protocol)
}

// The keys of changes. They name the thing, not its values, so that they stay
// the same from one run to the next.
func linkKey(name string) string { return "link " + name }

func addressKey(p netip.Prefix, link string) string { return fmt.Sprintf("address %s on %s", p, link) }

func routeKey(r Route) string {
	if r.Metric != 0 {
		return fmt.Sprintf("route %s metric %d", r.Destination, r.Metric)
	}
	return "route " + r.Destination.String()
}

// foundLinks is the end of the message about a link that is missing.
func foundLinks(names []string) string {
	if len(names) == 0 {
		return "no links found"
	}
	const enough = 20 // a pod host has hundreds
	rest := ""
	if len(names) > enough {
		rest = fmt.Sprintf(" and %d more", len(names)-enough)
		names = slices.Clone(names[:enough])
	}
	return "links found: " + strings.Join(names, ", ") + rest
}
