package netcfg

import "golang.org/x/sys/unix"

// chainShape is how nodeagent makes a chain (linux/netfilter.h, ip_tables'
// priorities in netfilter_ipv4.h).
type chainShape struct {
	kind           string
	hook, priority uint32
	drops          bool
}

var chainShapes = map[string]chainShape{
	inputChain:      {"filter", unix.NF_INET_LOCAL_IN, 0, true},
	forwardChain:    {"filter", unix.NF_INET_FORWARD, 0, true},
	masqueradeChain: {"nat", unix.NF_INET_POST_ROUTING, 100, false},
}

func (s chainShape) policy() uint32 {
	if s.drops {
		return nfDrop
	}
	return nfAccept
}

// describeChain returns the Base of a chain that nodeagent makes, and otherwise
// what is different.
func describeChain(b []byte, shape chainShape) string {
	hooked := false
	var hook, priority, flags uint32
	policy, kind := uint32(nfAccept), ""
	for number, value := range nftAttributes(b) {
		switch number {
		case unix.NFTA_CHAIN_HOOK:
			hooked = true
			hook, priority = attrNumber(value, unix.NFTA_HOOK_HOOKNUM), attrNumber(value, unix.NFTA_HOOK_PRIORITY)
		case unix.NFTA_CHAIN_POLICY:
			policy = be32(value)
		case unix.NFTA_CHAIN_TYPE:
			kind = text(value)
		case chainFlags:
			flags = be32(value)
		}
	}
	const baseChain = 1 // NFT_CHAIN_BASE
	switch {
	case !hooked || hook != shape.hook || kind != shape.kind || flags&^baseChain != 0:
		return "its chain is not on the hook"
	case priority != shape.priority:
		return "its chain has another priority"
	case policy != shape.policy() && shape.drops:
		return "accept what no rule drops"
	case policy != shape.policy():
		return "drop what no rule names"
	case shape.drops:
		return firewallBase
	}
	return masqueradeBase
}

// chainFlags is NFTA_CHAIN_FLAGS, which package unix does not name.
const chainFlags = 10
