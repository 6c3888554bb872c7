package hosts

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/nodeagent/nodeagent/internal/calendar"
)

// What Snapshots.By may be.
const (
	// ByEach has every host with an etcd member take one of its own.
	ByEach = "each"
	// ByOne has one of them do it for all; another takes over if it does not
	// deliver.
	ByOne = "one"
)

const (
	defaultDrill       = "Sun 03:00"
	defaultDrillSpread = 3 * time.Hour
)

// off switches off what cluster.toml switches on.
const off = "off"

func (d *draft) readSchedule() {
	s := &d.spec.Snapshots
	s.By = value[string](d, "snapshots.by")
	s.Spread = value[time.Duration](d, "snapshots.spread")
	s.Drill = value[string](d, "snapshots.drill")
	s.DrillSpread = value[time.Duration](d, "snapshots.drill_spread")
}

func (d *draft) defaultSchedule() {
	s := &d.spec.Snapshots
	if len(s.Copies) > 0 {
		set(&s.By, ByOne) // elsewhere it lies for all of them
	}
	set(&s.By, ByEach)
	if !s.opensHere() {
		set(&s.Drill, never)
	}
	set(&s.Drill, defaultDrill)
	if !d.has("snapshots.drill_spread") {
		s.DrillSpread = defaultDrillSpread
	}
	if s.Drill == never || !d.spec.Has(RoleEtcd) {
		s.Drill = ""
	}
}

// opensHere tells whether the host has what opens its snapshots. Those that are
// encrypted for people alone nobody can try on a host.
func (s Snapshots) opensHere() bool {
	return len(s.Recipients) == 0 || s.IdentityFile != "" || s.VaultKey != ""
}

// parseListen reads where a server listens. The address is one of the host's
// own, written out: a name may come to mean another.
func parseListen(s string) (netip.AddrPort, error) {
	if s == off {
		return netip.AddrPort{}, nil
	}
	at, err := netip.ParseAddrPort(s)
	if err != nil || at.Port() == 0 || at.Addr().Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("%s is not an address and a port, such as \"127.0.0.1:9470\" or \"[::1]:9470\"; %q is nowhere", quote(s), off)
	}
	return at, nil
}

// checkSchedule refuses a spread that reaches from one moment to the next: the
// order in which things happen would no longer be that of their moments.
func (d *draft) checkSchedule() {
	s := d.spec.Snapshots
	if s.Drill != "" && !s.opensHere() && d.ok("snapshots.drill", "snapshots.recipients", "snapshots.identity_file") {
		d.at(d.nearest("snapshots.drill", "snapshots.recipients"), "the host cannot open its snapshots, which are encrypted for others (%s): name snapshots.identity_file or snapshots.vault_key, or write %q and run `nodeagent snapshot drill --identity FILE` there yourself",
			d.origin("snapshots.recipients"), never)
	}
	for _, c := range []struct {
		schedule, spread string
		expression       string
		span             time.Duration
	}{
		{"snapshots.schedule", "snapshots.spread", s.Schedule, s.Spread},
		{"snapshots.drill", "snapshots.drill_spread", s.Drill, s.DrillSpread},
	} {
		if !d.ok(c.schedule, c.spread) || !d.has(c.schedule) && !d.has(c.spread) || c.span == 0 {
			continue
		}
		schedule, err := calendar.Parse(c.expression)
		if err != nil {
			continue // never
		}
		if shortest, _ := schedule.Gaps(time.Unix(0, 0).UTC()); shortest > 0 && c.span >= shortest {
			d.at(d.nearest(c.spread, c.schedule), "up to %s after a moment of %s (%s), and the next one comes %s after it (%s): the spread must be shorter",
				hours(c.span), c.schedule, d.origin(c.spread), hours(shortest), quote(c.expression))
		}
	}
}

// checkMetrics keeps the port away from those that others listen on.
func (d *draft) checkMetrics() {
	const path = "metrics.listen"
	port := int(d.spec.Metrics.Listen.Port())
	if port == 0 || !d.ok(path) {
		return
	}
	if fixedPorts[port] != "" {
		d.at(d.tree.get(path), "port %d is that of %s", port, fixedPorts[port])
	}
	for other, taken := range map[string]int{
		"etcd.client_port": d.spec.Etcd.ClientPort, "etcd.peer_port": d.spec.Etcd.PeerPort, "kubernetes.api_port": d.spec.Kubernetes.APIPort,
	} {
		if port == taken && d.ok(other) {
			d.at(d.nearest(path, other), "%s and %s are both port %d", other, path, port)
		}
	}
}
