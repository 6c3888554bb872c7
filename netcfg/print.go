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

// The keys of changes. They name the thing, not its values, so that they stay
// the same from one run to the next.
func linkKey(name string) string { return "link " + name }

func addressKey(p netip.Prefix, link string) string { return fmt.Sprintf("address %s on %s", p, link) }

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
