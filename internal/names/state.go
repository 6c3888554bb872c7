// Package names gives the host its name, the DNS servers that it asks, and the
// entries of /etc/hosts that the fleet's hosts know each other by.
//
// Words: a file's original is what somebody else had in it before nodeagent
// first replaced it, kept once and put back when the spec drops what took its
// place; the block is the part of /etc/hosts between two marker lines, and the
// only part of it that is nodeagent's.
//
// The static name is a line of /etc/hostname, which every distribution reads at
// boot, and the running one is set by sethostname(2): both work without
// systemd-hostnamed. Where /etc/resolv.conf is a link to systemd-resolved's, the
// servers go to resolved by a drop-in of its configuration; else the file is
// replaced by one of ours, known by its header.
package names

import (
	"fmt"
	"strings"

	"github.com/nodeagent/nodeagent/hosts"
)

// Domain is the name of this domain in plans.
const Domain = "names"

// State is the wanted or observed names. The fields up to Block are compared.
type State struct {
	// Static is the name in /etc/hostname, Running the kernel's. Wanted: empty
	// leaves them.
	Static, Running string
	// Resolv is the content of /etc/resolv.conf and DropIn that of resolved's
	// drop-in; nil where there is none. Both are wanted together: which of them
	// is used depends on the host.
	Resolv, DropIn *string
	// Block is the lines of /etc/hosts between the markers, nil for no block.
	Block *string

	// The rest is observed only.

	// Resolved tells that /etc/resolv.conf is systemd-resolved's.
	Resolved bool
	// Ours tells that /etc/resolv.conf has our header.
	Ours bool
	// KeptName and KeptResolv are the originals that are kept.
	KeptName, KeptResolv *Original
	// Reload tells that resolved is still to be told of a drop-in that changed.
	Reload bool
	// Broken is why the markers in /etc/hosts cannot be understood, or empty.
	Broken string
	// Foreign is what others say in /etc/hosts: addresses by name.
	Foreign map[string][]string
}

// header begins every file of ours.
const header = "# Written by nodeagent, which overwrites changes.\n"

// Want returns the names of the spec.
func Want(spec *hosts.Spec) State {
	n := spec.Names
	want := State{Static: n.Hostname, Running: n.Hostname}
	if len(n.Servers) > 0 {
		resolv, dropIn := resolvConf(n), resolvedConf(n)
		want.Resolv, want.DropIn = &resolv, &dropIn
	}
	if n.Hosts != nil {
		block := hostsLines(n.Hosts)
		want.Block = &block
	}
	return want
}

// resolvConf is the content of resolv.conf(5).
func resolvConf(n hosts.Names) string {
	var b strings.Builder
	b.WriteString(header)
	if len(n.Search) > 0 {
		b.WriteString("search " + strings.Join(n.Search, " ") + "\n")
	}
	for _, s := range n.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(n.Options) > 0 {
		b.WriteString("options " + strings.Join(n.Options, " ") + "\n")
	}
	return b.String()
}

// resolvedConf is a drop-in of resolved.conf(5). An empty assignment forgets
// what files before it said; the domain "~." sends every name to these servers
// and none to those of a link. Options are the stub resolver's in resolv.conf,
// resolved has none.
func resolvedConf(n hosts.Names) string {
	var b strings.Builder
	b.WriteString(header + "[Resolve]\nDNS=\nDNS=")
	for i, s := range n.Servers {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(s.String())
	}
	b.WriteString("\nDomains=\nDomains=" + strings.Join(append([]string{"~."}, n.Search...), " ") + "\n")
	return b.String()
}

// hostsLines are lines of hosts(5).
func hostsLines(entries []hosts.HostsEntry) string {
	var b strings.Builder
	for _, e := range entries {
		b.WriteString(e.Address.String() + "\t" + strings.Join(e.Names, " ") + "\n")
	}
	return b.String()
}
