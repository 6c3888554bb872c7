package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/nodeagent/nodeagent/hosts"
)

// freshHandshake is how old the last handshake of a WireGuard session that still
// carries traffic can be: REJECT_AFTER_TIME in section 6.1 of its paper.
const freshHandshake = 180 * time.Second

const gatewayPrefix = "gateway "

// gateway is where a default route leads.
type gateway struct {
	address netip.Addr
	link    int
}

// gateways are those of the default routes of the main table.
func gateways() ([]gateway, error) {
	var found []gateway
	add := func(address net.IP, link int) {
		if a, ok := netip.AddrFromSlice(address); ok {
			if g := (gateway{a.Unmap(), link}); !slices.Contains(found, g) {
				found = append(found, g)
			}
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
				continue
			}
			add(r.Gw, r.LinkIndex)
			if via, ok := r.Via.(*netlink.Via); ok {
				add(via.Addr, r.LinkIndex)
			}
			for _, hop := range r.MultiPath {
				add(hop.Gw, hop.LinkIndex)
				if via, ok := hop.Via.(*netlink.Via); ok {
					add(via.Addr, hop.LinkIndex)
				}
			}
		}
	}
	return found, nil
}

// gatewayQuestions are one for each gateway there is now, and one for each
// family: that at least one of its gateways answers, whichever they are by then.
func gatewayQuestions() []question {
	var list []question
	there, err := gateways()
	if err != nil {
		return []question{{"gateways", func(context.Context) error { return err }}}
	}
	for _, g := range there {
		list = withGateway(list, gatewayPrefix+g.address.String())
	}
	for _, v6 := range []bool{false, true} {
		name := "any IPv4 gateway"
		if v6 {
			name = "any IPv6 gateway"
		}
		list = append(list, question{name, func(ctx context.Context) error { return askFamily(ctx, v6) }})
	}
	return list
}

// withGateway adds the question about a gateway by its name, unless it is there.
func withGateway(list []question, name string) []question {
	text, ok := strings.CutPrefix(name, gatewayPrefix)
	address, err := netip.ParseAddr(text)
	if !ok || err != nil || slices.ContainsFunc(list, func(q question) bool { return q.name == name }) {
		return list
	}
	return append(list, question{name, func(ctx context.Context) error {
		now, err := gateways()
		if err != nil {
			return err
		}
		at := slices.IndexFunc(now, func(g gateway) bool { return g.address == address })
		if at < 0 {
			return fmt.Errorf("%w: it is no default gateway", errNotAsked)
		}
		return now[at].answers(ctx)
	}})
}

func askFamily(ctx context.Context, v6 bool) error {
	now, err := gateways()
	if err != nil {
		return err
	}
	failed := []error{errors.New("no default gateway answers")}
	for _, g := range now {
		if g.address.Is6() != v6 {
			continue
		}
		err := g.answers(ctx)
		if err == nil {
			return nil
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// answers asks the gateway who has its address (ARP, neighbour discovery) and
// waits for the answer. What the kernel remembers of it does not count: it is
// made to ask again.
func (g gateway) answers(ctx context.Context) error {
	known, err := g.neighbour()
	if err != nil {
		return err
	}
	if known != nil && known.State&(unix.NUD_PERMANENT|unix.NUD_NOARP) != 0 {
		return nil // a link without neighbours, or an entry that nobody asks about
	}
	if known != nil && len(known.HardwareAddr) > 0 {
		known.State, known.Flags = unix.NUD_PROBE, 0
		if err := netlink.NeighSet(known); err != nil {
			return fmt.Errorf("ask for gateway %s: %w", g.address, err)
		}
	} else {
		nudge(ctx, g)
	}
	for {
		known, err = g.neighbour()
		if err != nil {
			return err
		}
		if known != nil && known.State == unix.NUD_REACHABLE {
			return nil
		}
		if known != nil && known.State == unix.NUD_FAILED {
			return fmt.Errorf("gateway %s does not answer", g.address)
		}
		if !sleepUntil(ctx, time.Now().Add(20*time.Millisecond)) {
			return fmt.Errorf("gateway %s does not answer", g.address)
		}
	}
}

// neighbour is what the kernel knows of the gateway, nil for nothing.
func (g gateway) neighbour() (*netlink.Neigh, error) {
	family := netlink.FAMILY_V4
	if g.address.Is6() {
		family = netlink.FAMILY_V6
	}
	list, err := netlink.NeighList(g.link, family)
	if err != nil {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	for _, n := range list {
		if n.IP.Equal(g.address.AsSlice()) {
			return &n, nil
		}
	}
	return nil, nil
}

// nudge makes the kernel look for the gateway: a packet to the discard port.
func nudge(ctx context.Context, g gateway) {
	address := g.address
	if address.IsLinkLocalUnicast() {
		address = address.WithZone(fmt.Sprint(g.link))
	}
	knock(ctx, address)
}

// knock sends an address one packet that asks for no answer, and does not care
// whether it leaves: what it leads to is looked at.
func knock(ctx context.Context, address netip.Addr) {
	conn, err := new(net.Dialer).DialContext(ctx, "udp", netip.AddrPortFrom(address, 9).String())
	if err != nil {
		return
	}
	_, _ = conn.Write([]byte{0})
	_ = conn.Close()
}

// ping sends an ICMP echo request, whose reply nobody reads.
func ping(ctx context.Context, address netip.Addr) {
	network, packet := "ip4:icmp", []byte{8, 0, 0, 0, 0x6e, 0x61, 0, 1}
	if address.Is6() {
		network, packet = "ip6:ipv6-icmp", []byte{128, 0, 0, 0, 0x6e, 0x61, 0, 1}
	}
	// RFC 1071; for IPv6 the kernel puts its own in, over the pseudo header too.
	sum := uint32(0)
	for i := 0; i < len(packet); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(packet[i:]))
	}
	binary.BigEndian.PutUint16(packet[2:], ^uint16(sum+sum>>16))
	conn, err := new(net.Dialer).DialContext(ctx, network, address.String())
	if err != nil {
		return
	}
	_, _ = conn.Write(packet)
	_ = conn.Close()
}

// wireGuardQuestions are one for each other host of the mesh. Before a change it
// asks for a handshake that is young enough to carry traffic; afterwards a young
// one proves nothing, and it asks whether anything was heard from the peer since.
func wireGuardQuestions(spec *hosts.Spec, changed time.Time) []question {
	device := spec.Network.WireGuard
	if device == nil {
		return nil
	}
	var list []question
	for _, p := range spec.Peers {
		if p.WireGuard == nil {
			continue
		}
		heard := &hearing{device: device.Interface, address: p.WireGuard.Address, changed: changed}
		list = append(list, question{"wireguard peer " + p.Name, heard.ask})
	}
	return list
}

// hearing is what is heard from one peer: the one that has the address, whatever
// its key, since a wrong key is a way to lose it.
type hearing struct {
	device  string
	address netip.Addr
	changed time.Time

	mu sync.Mutex
	// received is the count of bytes at the first look after the change.
	received *int64
}

func (h *hearing) ask(ctx context.Context) error {
	peer, err := h.look()
	if err != nil {
		return err
	}
	if h.changed.IsZero() {
		if peer.LastHandshakeTime.IsZero() || time.Since(peer.LastHandshakeTime) > freshHandshake {
			return errors.New("no handshake within three minutes")
		}
		return nil
	}
	// The echo is answered where the peer's firewall lets it. Where not, its
	// WireGuard still sends a keepalive ten seconds after it got the packet.
	ping(ctx, h.address)
	for {
		if peer.LastHandshakeTime.After(h.changed) || h.news(peer.ReceiveBytes) {
			return nil
		}
		if !sleepUntil(ctx, time.Now().Add(50*time.Millisecond)) {
			return errors.New("nothing heard from it since the change")
		}
		if peer, err = h.look(); err != nil {
			return err
		}
	}
}

// news tells whether more was received than at the first look.
func (h *hearing) news(received int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.received == nil || received < *h.received { // the device is a new one
		h.received = &received
	}
	return received > *h.received
}

func (h *hearing) look() (wgtypes.Peer, error) {
	client, err := wgctrl.New()
	if err != nil {
		return wgtypes.Peer{}, fmt.Errorf("open WireGuard: %w", err)
	}
	defer client.Close()
	device, err := client.Device(h.device)
	if err != nil {
		return wgtypes.Peer{}, fmt.Errorf("look at WireGuard device %q: %w", h.device, err)
	}
	for _, p := range device.Peers {
		if slices.ContainsFunc(p.AllowedIPs, func(n net.IPNet) bool { return n.Contains(h.address.AsSlice()) }) {
			return p, nil
		}
	}
	return wgtypes.Peer{}, fmt.Errorf("no peer of the device has the address %s", h.address)
}
