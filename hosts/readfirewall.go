package hosts

import "slices"

// readFirewall leaves sources empty: their words need the other hosts, see
// derivefirewall.go.
func (d *draft) readFirewall() {
	f := &d.spec.Firewall
	f.Enabled = d.has("firewall")
	rules := d.tree.get("firewall.allow")
	for _, name := range rules.names() {
		f.Allow = append(f.Allow, d.readAllow(name, rules.table[name]))
	}
	if forward := d.tree.get("firewall.forward"); forward != nil {
		f.Forward = &Forward{}
		for _, name := range forward.names() {
			n := forward.table[name]
			f.Forward.Allow = append(f.Forward.Allow, ForwardAllow{
				Name:     name,
				Protocol: parsed[string](n.get("protocol")),
				Ports:    readPorts(n.get("ports")),
				Inbound:  d.zoned(values[string](n.get("in"))),
				Outbound: d.zoned(values[string](n.get("out"))),
			})
		}
	}
	masquerade := d.tree.get("firewall.masquerade")
	for _, name := range masquerade.names() {
		f.Masquerade = append(f.Masquerade, Masquerade{
			Name:     name,
			Outbound: d.zoned(values[string](masquerade.table[name].get("out"))),
		})
	}
}

func (d *draft) readAllow(name string, n *node) Allow {
	rule := Allow{
		Name:       name,
		Protocol:   parsed[string](n.get("protocol")),
		Ports:      readPorts(n.get("ports")),
		Interfaces: unique(append(values[string](n.get("interfaces")), d.zoned(values[string](n.get("zones")))...)),
	}
	if limit := optional[Limit](n.get("limit")); limit != nil {
		limit.Burst = parsed[int](n.get("burst"))
		limit.BySource = parsed[string](n.get("limit_by")) == limitSource
		rule.Limit = limit
	}
	return rule
}

func readPorts(n *node) []uint16 {
	var ports []uint16
	for _, port := range values[int](n) {
		ports = append(ports, uint16(port))
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// zoned replaces the names of zones by their interfaces; other names are those
// of links.
func (d *draft) zoned(names []string) []string {
	zones := d.tree.get("firewall.zone")
	var links []string
	for _, name := range names {
		if zones != nil && zones.table[name] != nil {
			links = append(links, values[string](zones.table[name].get("interfaces"))...)
			continue
		}
		links = append(links, name)
	}
	return unique(links)
}
