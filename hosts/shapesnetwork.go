package hosts

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"time"
)

// The families of policy rules, and the action of those that look up a table.
const (
	familyIPv4   = "ipv4"
	familyIPv6   = "ipv6"
	actionLookup = "lookup"
)

// The probes that can be named.
const (
	probeGateway   = "gateway"
	probeWireGuard = "wireguard"
	probeVault     = "vault"
	probeEtcd      = "etcd"
	probeAPI       = "api"
)

var probeNames = []string{probeGateway, probeWireGuard, probeVault, probeEtcd, probeAPI}

// bondModes are the modes of bonds in the kernel's words.
var bondModes = []string{"802.3ad", "active-backup", "balance-rr", "balance-xor", "broadcast", "balance-tlb", "balance-alb"}

// parseMAC reads the hardware address of one Ethernet link and writes it as the
// kernel does.
func parseMAC(s string) (string, error) {
	mac, err := net.ParseMAC(s)
	switch {
	case err != nil || len(mac) != 6 || strings.Contains(s, "."):
		return "", fmt.Errorf("%s is not a hardware address such as \"02:00:00:00:00:01\"", quote(s))
	case mac[0]&1 != 0:
		return "", fmt.Errorf("%s is a multicast address: the lowest bit of a link's first byte is 0", quote(s))
	case [6]byte(mac) == [6]byte{}:
		return "", fmt.Errorf("%s is no link's address", quote(s))
	}
	return mac.String(), nil
}

// busPattern is the name of a device below /sys/bus: "0000:03:00.0", "virtio0",
// "1-1.2:1.0".
var busPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]*$`)

func parseBusPath(s string) (string, error) {
	if !busPattern.MatchString(s) {
		return "", fmt.Errorf("%s is not a place on a bus such as \"0000:03:00.0\": write the last part of what /sys/class/net/NAME/device leads to", quote(s))
	}
	return s, nil
}

// parseAltName reads an alternative name of a link, which may have 127 bytes
// where the name itself has 15 (ALTIFNAMSIZ of linux/if.h).
func parseAltName(s string) (string, error) {
	if len(s) > 127 {
		return "", fmt.Errorf("%s must have at most 127 bytes", quote(s))
	}
	for _, part := range []string{s[:min(len(s), 15)], s[max(0, len(s)-15):]} {
		if checkLinkName(part) != nil {
			return "", fmt.Errorf("%s has a character that names of links cannot have", quote(s))
		}
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/:\"'%\\*", r) }) {
		return "", fmt.Errorf("%s has a character that names of links cannot have", quote(s))
	}
	return s, nil
}

// parseAddressLifetime reads what the kernel keeps of an address: whole seconds
// in 32 bits, the highest number being "for ever".
func parseAddressLifetime(s string) (time.Duration, error) {
	d, err := parseDuration(s)
	if err == nil && (d%time.Second != 0 || d < time.Second || d >= math.MaxUint32*time.Second) {
		err = fmt.Errorf("%s must be whole seconds, from 1 to %d; leave it out for an address that stays", quote(s), uint32(math.MaxUint32-1))
	}
	return d, err
}

// hundredths is a leaf for a bridge's times, which the kernel reads and prints
// in hundredths of a second.
func hundredths(lowest, highest time.Duration) leaf {
	return text("duration", func(s string) (time.Duration, error) {
		d, err := parseDuration(s)
		switch {
		case err != nil:
		case d < lowest || d > highest:
			err = fmt.Errorf("%s is not in %s to %s", quote(s), hours(lowest), hours(highest))
		case d%(10*time.Millisecond) != 0:
			err = fmt.Errorf("%s must be whole hundredths of a second", quote(s))
		}
		return d, err
	})
}

// milliseconds is a leaf for a bond's times, which the kernel counts in 31 bits.
func milliseconds() leaf {
	return text("duration", func(s string) (time.Duration, error) {
		d, err := parseDuration(s)
		if err == nil && (d%time.Millisecond != 0 || d > math.MaxInt32*time.Millisecond) {
			err = fmt.Errorf("%s must be whole milliseconds, at most %d", quote(s), math.MaxInt32)
		}
		return d, err
	})
}

// parseAddrOrGroup reads the other end of a VXLAN: a host, or a multicast group.
func parseAddrOrGroup(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err == nil && a.IsMulticast() && a.Zone() == "" && !a.Is4In6() {
		return a, nil
	}
	return parseAddr(s)
}

// parsePrefixOrAddress reads a range, or one address as the range of it.
func parsePrefixOrAddress(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" || a.Is4In6() {
			return netip.Prefix{}, errors.New("must be a plain address or range")
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return parseRange(s)
}

// parseClientAddress reads what a WireGuard client has, or what lies behind it.
func parseClientAddress(s string) (netip.Prefix, error) {
	p, err := parsePrefixOrAddress(s)
	if err != nil {
		return p, err
	}
	return p, checkOrdinary(s, p)
}

// optionPattern is an option of resolv.conf(5): "rotate", "ndots:2".
var optionPattern = regexp.MustCompile(`^[a-z0-9-]+(:[0-9]+)?$`)

func parseResolverOption(s string) (string, error) {
	if !optionPattern.MatchString(s) {
		return "", fmt.Errorf("%s is not an option of resolv.conf(5) such as \"rotate\" or \"ndots:2\"", quote(s))
	}
	return s, nil
}

// checkHostsAddress wants one spelling of each address, so that none is there
// twice.
func checkHostsAddress(s string) error {
	a, err := parseAddr(s)
	if err == nil && a.String() != s {
		err = fmt.Errorf("%s is not in its shortest form: write %q", quote(s), a)
	}
	return err
}

// parseFloatingAddress reads an address that hosts take turns to hold.
func parseFloatingAddress(s string) (netip.Prefix, error) {
	p, err := parseLinkAddress(s)
	if err == nil && (p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast()) {
		err = fmt.Errorf("%s is not reachable from other hosts", quote(s))
	}
	if err == nil && isNetworkOrBroadcast(p.Addr(), p) {
		err = fmt.Errorf("%s is the first or last address of its network, which no host can have", p)
	}
	return p, err
}

// parseLeaseTTL reads the time of a lease in etcd, which counts whole seconds.
// The shortest is several elections, or etcd's own could cost the holder its
// address.
func parseLeaseTTL(s string) (time.Duration, error) { return wholeSeconds(s, 5*time.Second, time.Hour) }

func parseProbeTime(s string) (time.Duration, error) { return wholeSeconds(s, time.Second, time.Hour) }

func wholeSeconds(s string, lowest, highest time.Duration) (time.Duration, error) {
	d, err := parseDuration(s)
	if err == nil && (d%time.Second != 0 || d < lowest || d > highest) {
		err = fmt.Errorf("%s must be whole seconds, from %s to %s", quote(s), hours(lowest), hours(highest))
	}
	return d, err
}
