package netcfg

import "net/netip"

// WireGuard is the host's WireGuard device.
type WireGuard struct {
	Interface string
	Address   netip.Prefix
}
