package netcfg

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Surroundings observes what decides where packets of the ways go. It writes
// nothing. With an error it is incomplete, and nothing may be concluded from it.
func (sys *System) Surroundings(ctx context.Context, ways []Way) (Surroundings, error) {
	kernel, err := sys.listLinks()
	if err != nil {
		return Surroundings{}, fmt.Errorf("list links: %w", explain(err))
	}
	s := Surroundings{links: kernel.pathLinks()}
	addresses, err := dump(sys.listAddresses)
	if err != nil {
		return s, fmt.Errorf("list addresses: %w", explain(err))
	}
	s.addresses = kernel.pathAddresses(addresses)
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		if err := ctx.Err(); err != nil {
			return s, err
		}
		routes, err := dump(func() ([]pathRoute, error) { return sys.pathRoutes(kernel, family, ends(ways)) })
		if err != nil {
			return s, fmt.Errorf("list routes: %w", explain(err))
		}
		s.routes = append(s.routes, routes...)
		rules, err := dump(func() ([]pathRule, error) { return sys.pathRules(family) })
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return s, fmt.Errorf("list policy rules: %w", explain(err))
		}
		s.rules = append(s.rules, rules...)
	}
	s.sysctls, err = readConf(s.confNames(ends(ways)))
	return s, err
}

// confNames are the sysctls that matter to ways with these ends.
func (s Surroundings) confNames(ends []netip.Addr) []string {
	names := []string{confName(confIPv4, "all", "rp_filter"), confName(confIPv6, "all", "disable_ipv6"), confName(confIPv6, "all", "forwarding")}
	add := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, r := range s.routes {
		for _, hop := range r.hops {
			switch {
			case r.to.Addr().Is4():
				add(confName(confIPv4, hop, "rp_filter"))
			case r.advertised:
				add(confName(confIPv6, hop, "accept_ra"))
				add(confName(confIPv6, hop, "forwarding"))
			}
		}
	}
	for _, a := range s.addresses {
		if a.prefix.Addr().Is4() && slices.Contains(ends, a.prefix.Addr()) {
			add(confName(confIPv4, a.link, "rp_filter"))
		}
	}
	return names
}

// readConf reads sysctls. One that is not there is left out: a link may be
// gone, and a kernel without IPv6 has none of its.
func readConf(names []string) (map[string]string, error) {
	values := map[string]string{}
	for _, name := range names {
		content, err := os.ReadFile("/proc/sys/" + strings.NewReplacer(".", "/", "/", ".").Replace(name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return values, fmt.Errorf("read sysctl %q: %w", name, err)
		}
		if err == nil {
			values[name] = strings.TrimSpace(string(content))
		}
	}
	return values, nil
}

// ends are the addresses at both ends of the ways.
func ends(ways []Way) []netip.Addr {
	var list []netip.Addr
	for _, w := range ways {
		for _, end := range []netip.AddrPort{w.Local, w.Remote} {
			if end.Addr().IsValid() {
				list = append(list, end.Addr().Unmap())
			}
		}
	}
	return list
}

func (k kernelLinks) pathLinks() []pathLink {
	var list []pathLink
	for _, l := range k.list {
		a := l.Attrs()
		list = append(list, pathLink{
			name: a.Name, master: k.name(a.MasterIndex), kind: l.Type(), down: a.Flags&net.FlagUp == 0,
			own: k.owned(l) || l.Type() == "wireguard" && (marked(l) || a.Group == linkGroup),
		})
	}
	return list
}

func (k kernelLinks) pathAddresses(addresses []kernelAddress) []pathAddress {
	var list []pathAddress
	for _, a := range addresses {
		link, there := k.byIndex[a.index]
		if !there {
			continue
		}
		own := a.protocol == AddressProtocol || k.owned(link) && a.protocol == 0 && a.permanent && a.global
		list = append(list, pathAddress{link: link.Attrs().Name, prefix: a.prefix, own: own})
	}
	return list
}

// pathRoutes returns the routes of all tables that lead to one of the ends.
func (sys *System) pathRoutes(kernel kernelLinks, family int, ends []netip.Addr) ([]pathRoute, error) {
	var routes []pathRoute
	err := sys.nl.RouteListFilteredIter(family, &netlink.Route{}, netlink.RT_FILTER_TABLE, func(k netlink.Route) bool {
		to := pathDestination(k, family)
		if slices.ContainsFunc(ends, to.Contains) {
			routes = append(routes, kernel.pathRoute(k, to))
		}
		return true
	})
	return routes, err
}

// refusals are the types of routes that discard.
var refusals = map[int]string{unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit"}

// pathDestination is where a route leads; the library has nil for a default.
func pathDestination(r netlink.Route, family int) netip.Prefix {
	if r.Dst != nil {
		bits, _ := r.Dst.Mask.Size()
		return netip.PrefixFrom(addrFrom(r.Dst.IP), bits)
	}
	if family == netlink.FAMILY_V4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

func (k kernelLinks) pathRoute(r netlink.Route, to netip.Prefix) pathRoute {
	route := pathRoute{
		table: r.Table, to: to, metric: r.Priority,
		onLink: len(r.Gw) == 0 && r.Via == nil,
		kernel: r.Protocol == unix.RTPROT_KERNEL && r.Table != unix.RT_TABLE_LOCAL,
		own:    r.Protocol == RouteProtocol,
		maybe:  r.Tos != 0,

		advertised: r.Protocol == unix.RTPROT_RA && to.Bits() == 0,
	}
	switch r.Type {
	case unix.RTN_UNICAST:
		route.kind = routeUnicast
	case unix.RTN_LOCAL:
		route.kind = routeLocal
		route.own = r.Protocol == unix.RTPROT_KERNEL
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT:
		route.kind, route.word = routeRefuse, refusals[r.Type]
	case unix.RTN_THROW:
		route.kind = routeThrow
	default:
		route.kind = routeOther
	}
	switch {
	case len(r.MultiPath) > 0:
		for _, hop := range r.MultiPath {
			route.hops = append(route.hops, k.name(hop.LinkIndex))
		}
	case r.LinkIndex != 0:
		route.hops = []string{k.name(r.LinkIndex)}
	}
	return route
}

// pathRules returns the policy rules of a family. The library does not tell
// what a rule does, and its request is refused under strict checking.
func (sys *System) pathRules(family int) ([]pathRule, error) {
	req := sys.request(unix.RTM_GETRULE, unix.NLM_F_DUMP)
	req.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family)}})
	messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWRULE)
	if err != nil {
		return nil, err
	}
	var rules []pathRule
	for _, m := range messages {
		rule, err := parsePathRule(m)
		if err != nil {
			return nil, err
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

// parsePathRule reads one rule: a struct fib_rule_hdr (linux/fib_rules.h), which
// has the shape of a struct rtmsg with the action for a type, and attributes.
func parsePathRule(message []byte) (pathRule, error) {
	head := nl.DeserializeRtMsg(message)
	attributes, err := nl.ParseRouteAttr(message[head.Len():])
	if err != nil {
		return pathRule{}, fmt.Errorf("parse policy rule: %w", err)
	}
	rule := pathRule{
		six: head.Family == unix.AF_INET6, table: int(head.Table),
		unknown: head.Tos != 0 || head.Flags&unix.FIB_RULE_INVERT != 0,
	}
	switch head.Type {
	case unix.FR_ACT_TO_TBL:
		rule.action = ruleLookup
	case unix.FR_ACT_BLACKHOLE, unix.FR_ACT_UNREACHABLE, unix.FR_ACT_PROHIBIT:
		rule.action = ruleRefuse
	default:
		rule.action = ruleOther
	}
	for _, a := range attributes {
		rule.set(int(a.Attr.Type), a.Value, head)
	}
	return rule, nil
}

// set reads one attribute of a rule.
func (r *pathRule) set(attribute int, value []byte, head *nl.RtMsg) {
	number := func() int {
		if len(value) < 4 {
			return 0
		}
		return int(int32(binary.NativeEndian.Uint32(value)))
	}
	switch attribute {
	case unix.FRA_PRIORITY:
		r.priority = number()
	case unix.FRA_TABLE:
		r.table = number()
	case unix.FRA_SRC:
		r.from = netip.PrefixFrom(addrFrom(value), int(head.Src_len))
	case unix.FRA_DST:
		r.to = netip.PrefixFrom(addrFrom(value), int(head.Dst_len))
	case unix.FRA_IIFNAME:
		r.inbound = unix.ByteSliceToString(value)
	case unix.FRA_OIFNAME:
		r.outbound = unix.ByteSliceToString(value)
	case unix.FRA_FWMARK, unix.FRA_FWMASK:
		r.marked = r.marked || number() != 0
	case unix.FRA_SPORT_RANGE, unix.FRA_DPORT_RANGE:
		r.ports = true
	case unix.FRA_IP_PROTO:
		r.protocol = map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}[value[0]]
		if r.protocol == "" {
			r.protocol = "another"
		}
	case unix.FRA_SUPPRESS_PREFIXLEN:
		if n := number(); n >= 0 {
			r.suppress = &n
		}
	case unix.FRA_SUPPRESS_IFGROUP:
		r.unknown = r.unknown || number() >= 0
	case unix.FRA_PROTOCOL:
		r.own = value[0] == RouteProtocol
	case unix.FRA_L3MDEV:
		if value[0] != 0 { // the table of a VRF
			r.action, r.unknown = ruleOther, true
		}
	case unix.FRA_TUN_ID, unix.FRA_UID_RANGE:
		r.unknown = true
	}
}
