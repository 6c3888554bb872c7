package hosts

import "slices"

// checkFirewall checks what the rules need beyond their values.
func (d *draft) checkFirewall(f facts) {
	d.checkZones()
	rules := d.tree.get("firewall.allow")
	for _, name := range rules.names() {
		if n := rules.table[name]; !n.bad {
			d.checkAllow(n, f)
		}
	}
	rules = d.tree.get("firewall.forward")
	for _, name := range rules.names() {
		if n := rules.table[name]; !n.bad {
			d.checkSources(n.get("from"), f, true)
			d.checkSources(n.get("to"), f, true)
			d.checkEnds(n.get("in"))
			d.checkEnds(n.get("out"))
			if ports := n.get("ports"); ports != nil && ports.list != nil && len(ports.list) == 0 {
				d.at(ports, "is empty: leave it out for any port")
			}
		}
	}
	rules = d.tree.get("firewall.masquerade")
	for _, name := range rules.names() {
		n := rules.table[name]
		if n.bad {
			continue
		}
		if n.get("from") == nil {
			d.missing(n.file, n, n.path+".from", "is missing: whose packets leave with the address of the link")
		}
		d.checkSources(n.get("from"), f, false)
		d.checkSources(n.get("except"), f, false)
		d.checkEnds(n.get("out"))
	}
}

func (d *draft) checkAllow(n *node, f facts) {
	if ports := n.get("ports"); ports == nil || ports.list != nil && len(ports.list) == 0 {
		d.missing(n.file, n, n.path+".ports", "is missing: a rule names the ports that it opens")
	}
	d.checkSources(n.get("from"), f, true)
	for _, key := range []string{"burst", "limit_by"} {
		if at := n.get(key); at != nil && !at.bad && n.get("limit") == nil {
			d.at(at, "has no effect without limit")
		}
	}
	zones := n.get("zones")
	if zones == nil || zones.bad {
		return
	}
	if zones.list != nil && len(zones.list) == 0 {
		d.at(zones, "is empty: leave it out to accept from any link")
	}
	known := d.tree.get("firewall.zone").names()
	for _, item := range zones.list {
		if name := parsed[string](item); !item.bad && name != "" && !slices.Contains(known, name) {
			d.at(item, "%s is not a zone of this host: write [firewall.zone.%s] with its interfaces%s", quote(name), name, didYouMean(name, known))
		}
	}
}

func (d *draft) checkZones() {
	zones := d.tree.get("firewall.zone")
	for _, name := range zones.names() {
		n := zones.table[name]
		links := n.get("interfaces")
		switch {
		case n.bad:
		case links == nil || links.list != nil && len(links.list) == 0 && !links.bad:
			d.missing(n.file, n, n.path+".interfaces", "is missing: a zone is a name for links")
		case d.knowsLink(name):
			d.at(n, "is the name of a link too, so that nobody could tell which of them a rule means")
		}
	}
}

// checkEnds looks for names that are spelled like a zone or link and are none.
// Others may be links that somebody else makes, such as the CNI's.
func (d *draft) checkEnds(n *node) {
	if n == nil || n.bad {
		return
	}
	if n.list != nil && len(n.list) == 0 {
		d.at(n, "is empty: leave it out for any link")
		return
	}
	known := append(d.linkNames(), d.tree.get("firewall.zone").names()...)
	for _, item := range n.list {
		name := parsed[string](item)
		if near := didYouMean(name, known); !item.bad && name != "" && near != "" && name != "lo" && !slices.Contains(known, name) {
			d.warn(d.file, item, item.path, "%s is neither a zone nor a link of the host %s%s", quote(name), d.spec.Name, near)
		}
	}
}

// checkSources checks the words of sources; anybody tells whether "any" makes
// sense among them.
func (d *draft) checkSources(from *node, f facts, anybody bool) {
	if from == nil || from.bad {
		return
	}
	if from.list != nil && len(from.list) == 0 {
		d.at(from, "is empty: leave it out to accept from anywhere, or write \"any\"")
	}
	for _, item := range from.list {
		s := parsed[source](item)
		switch {
		case s.word == fromAny && !anybody:
			d.at(item, "\"any\" cannot stand here: name ranges")
		case s.word == fromAny && len(from.list) > 1:
			d.at(item, "\"any\" stands alone: beside it the other sources mean nothing")
		case s.word == fromPods && !d.has("kubernetes.pod_range"):
			d.at(item, "\"pods\" stands for kubernetes.pod_range, which the fleet does not have")
		case s.word == fromWireGuard && !d.has("network.wireguard"):
			d.at(item, "\"wireguard\" stands for network.wireguard.range, which the fleet does not have")
		case s.word == fromClients && !slices.ContainsFunc(f.all, func(o *draft) bool { return o.has("wireguard.client") }):
			d.at(item, "\"clients\" stands for the clients of WireGuard, of which no host of the fleet has any: write [wireguard.client.NAME] in a host's file")
		case s.word == fromHost && !slices.ContainsFunc(f.all, func(o *draft) bool { return o.spec.Name == s.host }):
			d.at(item, "%s is not a host of the fleet%s", quote(s.host), didYouMean(s.host, f.names()))
		}
	}
}

// names are those of the fleet's hosts.
func (f facts) names() []string {
	var names []string
	for _, d := range f.all {
		names = append(names, d.spec.Name)
	}
	return names
}
