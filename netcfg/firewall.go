package netcfg

import "github.com/nodeagent/nodeagent/hosts"

// Firewall is the content of nodeagent's nftables table.
type Firewall struct {
	// Allow are the new inbound connections that are accepted, in order.
	Allow []hosts.Allow
}
