package netcfg

import "github.com/vishvananda/netlink"

// System is the kernel's network of the namespace in which it was opened.
type System struct {
	nl *netlink.Handle
}
