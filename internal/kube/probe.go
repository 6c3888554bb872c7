package kube

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/nodeagent/nodeagent/internal/units"
)

// plainProbe asks a health endpoint on plain HTTP at the address that the
// component's merged configuration names, so that it follows the fleet's
// settings. It is nil where they switch the endpoint off.
func plainProbe(host, port any, path string, timeout time.Duration) *units.Probe {
	number := fmt.Sprint(port)
	if number == "0" || number == "" {
		return nil
	}
	return &units.Probe{
		URL:     "http://" + net.JoinHostPort(reachable(fmt.Sprint(host)), number) + path,
		Timeout: timeout,
	}
}

// reachable is an address at which a server that listens on host answers.
func reachable(host string) string {
	addr, err := netip.ParseAddr(host)
	switch {
	case err != nil || addr.IsUnspecified() && addr.Is4():
		return loopback.String()
	case addr.IsUnspecified():
		return netip.IPv6Loopback().String()
	}
	return host
}
