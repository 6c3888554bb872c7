package netcfg

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/nodeagent/nodeagent/internal/plan"
)

const (
	// lookupTimeout is how long the name of an endpoint may take to resolve.
	lookupTimeout = 5 * time.Second
	// applyPatience is how long all the names of one Apply together may hold it
	// up: a dead resolver must not keep routes and firewall waiting.
	applyPatience = 2 * time.Second
	// lookupFresh is how long an answer serves; names of silent peers are asked
	// for again after it.
	lookupFresh = 30 * time.Second
	// lookupKept is how long an answer tells whether a peer has moved.
	lookupKept = 5 * time.Minute
	// silentAfter is how old a peer's last handshake may be before it counts as
	// silent: a session is refused after 180 seconds (the protocol's
	// REJECT_AFTER_TIME), and one that carries traffic is renewed after 120.
	silentAfter = 3 * time.Minute
)

// endpointNames resolves the names in endpoints, each lookup in a goroutine of
// its own that ends within lookupTimeout, and remembers the answers. The zero
// value is ready.
type endpointNames struct {
	// lookup is net.DefaultResolver's where it is nil.
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)

	mu      sync.Mutex
	answers map[string]*answer // by host
	until   time.Time          // how long the Apply that runs waits for names
	silent  map[string]bool    // hosts of silent peers, to be asked for
	wake    chan struct{}      // filled when there is a new one; nil where nobody follows
	sent    map[wgtypes.Key]int64
}

// answer is one lookup; done is closed once the rest is set.
type answer struct {
	done      chan struct{}
	addresses []netip.Addr
	err       error
	at        time.Time
}

func (a *answer) over() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// ask begins to resolve the host unless there is a fresh answer or one is on its
// way.
func (n *endpointNames) ask(host string) *answer {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.answers[host]
	if old != nil && (!old.over() || old.err == nil && time.Since(old.at) < lookupFresh) {
		return old
	}
	if n.answers == nil {
		n.answers = map[string]*answer{}
	}
	a := &answer{done: make(chan struct{})}
	n.answers[host] = a
	lookup := n.lookup
	if lookup == nil {
		lookup = net.DefaultResolver.LookupNetIP
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
		defer cancel()
		addresses, err := lookup(ctx, "ip", host)
		for i := range addresses {
			addresses[i] = addresses[i].Unmap()
		}
		a.addresses, a.err, a.at = addresses, err, time.Now()
		if err != nil && old != nil && old.over() {
			a.addresses, a.at = old.addresses, old.at // what was true, for as long as it serves
		}
		close(a.done)
	}()
	return a
}

// endpointsOf lists the endpoints that the changes set.
func endpointsOf(changes []plan.Change) []string {
	var list []string
	for _, c := range changes {
		if o, ok := c.Payload.(setWireGuardPeer); ok && o.endpoint {
			list = append(list, o.peer.Endpoint)
		}
	}
	return list
}

// begin asks for the names of an Apply's endpoints all at once and sets how long
// it waits for them.
func (n *endpointNames) begin(endpoints []string) {
	for _, e := range endpoints {
		if host, _, ok := nameOf(e); ok {
			n.ask(host)
		}
	}
	n.mu.Lock()
	n.until = time.Now().Add(applyPatience)
	n.mu.Unlock()
}

// resolve returns the address of host:port.
func (n *endpointNames) resolve(ctx context.Context, endpoint string) (*net.UDPAddr, error) {
	if a, err := netip.ParseAddrPort(endpoint); err == nil {
		return net.UDPAddrFromAddrPort(a), nil
	}
	host, port, ok := nameOf(endpoint)
	if !ok {
		return nil, fmt.Errorf("resolve wireguard endpoint %q: it is not host:port", endpoint)
	}
	a := n.ask(host)
	n.mu.Lock()
	until := n.until
	n.mu.Unlock()
	patience := time.NewTimer(time.Until(until))
	defer patience.Stop()
	select {
	case <-a.done:
	default:
		select {
		case <-a.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("resolve wireguard endpoint %q: %w", endpoint, ctx.Err())
		case <-patience.C:
			return nil, fmt.Errorf("resolve wireguard endpoint %q: no answer within %s; the peer is configured without it", endpoint, applyPatience)
		}
	}
	if a.err != nil {
		return nil, fmt.Errorf("resolve wireguard endpoint %q: %w; the peer is configured without it", endpoint, a.err)
	}
	if len(a.addresses) == 0 {
		return nil, fmt.Errorf("resolve wireguard endpoint %q: the name has no address; the peer is configured without it", endpoint)
	}
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(a.addresses[0], port)), nil
}

// nameOf splits an endpoint whose host is a name.
func nameOf(endpoint string) (host string, port uint16, ok bool) {
	host, service, err := net.SplitHostPort(endpoint)
	if err != nil {
		return "", 0, false
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return "", 0, false
	}
	number, err := strconv.ParseUint(service, 10, 16)
	return host, uint16(number), err == nil
}

// moved looks at a peer whose endpoint the spec names: where it is silent though
// there is something to say to it, its name is to be asked for again, and once
// the answer is another address than the device's, that is returned.
func (n *endpointNames) moved(p *peerReading, record recordedEndpoint, now time.Time) string {
	host, port := record.host, record.port
	if host == "" || !p.endpoint.IsValid() {
		return ""
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	before, seen := n.sent[p.publicKey]
	if n.sent == nil {
		n.sent = map[wgtypes.Key]int64{}
	}
	n.sent[p.publicKey] = p.sent
	talks := p.keepalive > 0 || seen && p.sent > before
	if !silentPeer(p.handshake, now) || !talks {
		return ""
	}
	n.noteSilent(host)
	a := n.answers[host]
	if a == nil || !a.over() || len(a.addresses) == 0 || now.Sub(a.at) > lookupKept {
		return ""
	}
	if slices.Contains(a.addresses, p.endpoint.Addr().WithZone("")) && p.endpoint.Port() == port {
		return "" // one of several is as good as another
	}
	return netip.AddrPortFrom(a.addresses[0], port).String()
}

func silentPeer(handshake, now time.Time) bool { return now.Sub(handshake) > silentAfter }

// noteSilent passes a name on to Follow; where nobody follows nobody asks.
func (n *endpointNames) noteSilent(host string) {
	if n.wake == nil {
		return
	}
	n.silent[host] = true
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// FollowNames resolves the names in the endpoints of WireGuard peers that have
// fallen silent, as Observe meets them, and calls found when an answer may be
// news: Diff then says what follows from it. It returns when ctx is done.
// Without it, as in a command that looks once, no name is looked up until a peer
// is configured.
func (sys *System) FollowNames(ctx context.Context, found func()) {
	n := &sys.names
	n.mu.Lock()
	n.wake, n.silent = make(chan struct{}, 1), map[string]bool{}
	wake := n.wake
	n.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
		}
		n.mu.Lock()
		hosts := make([]string, 0, len(n.silent))
		for host := range n.silent {
			hosts = append(hosts, host)
		}
		clear(n.silent)
		slices.Sort(hosts)
		before := make([]*answer, len(hosts))
		for i, host := range hosts {
			before[i] = n.answers[host]
		}
		n.mu.Unlock()
		for i, host := range hosts {
			if a := n.ask(host); a != before[i] {
				go func() {
					<-a.done // within lookupTimeout
					if ctx.Err() == nil && a.err == nil && !sameAnswer(before[i], a) {
						found()
					}
				}()
			}
		}
	}
}

func sameAnswer(before, a *answer) bool {
	return before != nil && before.over() && slices.Equal(before.addresses, a.addresses)
}
