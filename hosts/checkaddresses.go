package hosts

import (
	"net/netip"
	"slices"
)

// writtenAddress is an address of a link and where it is written.
type writtenAddress struct {
	prefix  netip.Prefix
	at      *node
	options *node // the table of [[address]], nil for a plain one
}

// linkAddresses are the good addresses of a link, both ways of writing them.
func linkAddresses(n *node) []writtenAddress {
	var written []writtenAddress
	if list := n.get("addresses"); list != nil && !list.bad {
		for _, at := range list.list {
			if p := parsed[netip.Prefix](at); p.IsValid() {
				written = append(written, writtenAddress{prefix: p, at: at})
			}
		}
	}
	if list := n.get("address"); list != nil && !list.bad {
		for _, item := range list.list {
			if p := parsed[netip.Prefix](item.get("address")); p.IsValid() && !item.bad {
				written = append(written, writtenAddress{prefix: p, at: item.get("address"), options: item})
			}
		}
	}
	return written
}

func (d *draft) checkLinkAddresses(n *node, l Link) {
	if list := n.get("address"); list != nil && !list.bad {
		for _, item := range list.list {
			if item.table != nil && item.get("address") == nil && !item.bad {
				d.missing(item.file, item, item.path+".address", "is missing: the address that the options are of")
			}
		}
	}
	mtu := n.get("mtu")
	for _, w := range linkAddresses(n) {
		if w.prefix.Addr().Is6() && l.MTU > 0 && l.MTU < minIPv6MTU && !mtu.bad {
			d.at(mtu, "%d is too small for the link's IPv6 address: at least %d", l.MTU, minIPv6MTU)
		}
		if isNetworkOrBroadcast(w.prefix.Addr(), w.prefix) {
			d.at(w.at, "%s is the first or last address of its network, which no host can have", w.prefix)
			continue
		}
		d.checkOutsideRanges(w.at, w.prefix)
		if w.options != nil {
			d.checkAddressOptions(w)
		}
	}
}

// checkOutsideRanges keeps a network out of the cluster's ranges.
func (d *draft) checkOutsideRanges(at *node, p netip.Prefix) {
	for _, r := range d.clusterRanges() {
		if r.prefix.Overlaps(p.Masked()) {
			d.at(at, "%s overlaps %s %s (%s)", p, r.path, r.prefix, r.node.place())
			return
		}
	}
}

func (d *draft) checkAddressOptions(w writtenAddress) {
	o, six := w.options, w.prefix.Addr().Is6()
	if o.broken() {
		return
	}
	preferred, valid := o.get("preferred_lifetime"), o.get("valid_lifetime")
	switch {
	case o.get("dad") != nil && !six:
		d.at(o.get("dad"), "duplicate address detection is of IPv6, and %s is an IPv4 address", w.prefix)
	case o.get("scope") != nil && six:
		d.at(o.get("scope"), "is for IPv4: the scope of %s follows from the address itself", w.prefix)
	case preferred != nil && parsed[bool](o.get("deprecated")):
		d.at(preferred, "contradicts deprecated = true (%s), which is a preferred lifetime of nothing", o.get("deprecated").place())
	case preferred != nil && valid != nil && durationOf(preferred) > durationOf(valid):
		d.at(preferred, "%s is longer than valid_lifetime %s (%s)", hours(durationOf(preferred)), hours(durationOf(valid)), valid.place())
	}
}

// ownAddresses are the host's addresses that the fleet knows of.
func (d *draft) ownAddresses() []netip.Addr {
	var own []netip.Addr
	for _, h := range d.held() {
		own = append(own, h.addr)
	}
	return own
}

// checkOwnAddress reports an address that the host does not have.
func (d *draft) checkOwnAddress(at *node, a netip.Addr) bool {
	if !a.IsValid() || slices.Contains(d.ownAddresses(), a) || !d.ok("network.link", "host.address", "wireguard.address") {
		return true
	}
	d.at(at, "%s is not an address of this host", a)
	return false
}
