package netcfg

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// linkDiff is the changes of links by when they happen, and what they mean for
// the addresses and routes that depend on the links.
type linkDiff struct {
	remake []plan.Change // deletions of links that are made anew
	make   []plan.Change // creations and updates
	drop   []plan.Change // deletions of links that are no longer wanted

	gone   map[string]bool // removed by remake: nothing of them is left when the rest begins
	doomed map[string]bool // removed by drop, after everything else
	absent map[string]bool // wanted and not to be had
	cycled map[string]bool // lose all routes over them to make
}

// linkDiffer carries what all the steps of one comparison look at.
type linkDiffer struct {
	linkDiff
	have   map[string]Link
	wanted map[string]Link
	names  []string
	made   map[string]bool // created so far
	moved  map[string]bool // bonds that give their ports another MTU
}

func diffLinks(have, want State) linkDiff {
	d := &linkDiffer{
		linkDiff: linkDiff{gone: map[string]bool{}, doomed: map[string]bool{}, absent: map[string]bool{}, cycled: map[string]bool{}},
		have:     byName(have.Links), wanted: byName(want.Links), names: have.Names,
		made: map[string]bool{}, moved: map[string]bool{},
	}
	for _, h := range childrenFirst(have.Links) {
		d.makeRoom(h, want.Links)
	}
	for _, w := range want.Links {
		d.remakeMisfit(w)
	}
	d.have = byName(have.without(d.gone).Links)
	for _, w := range want.Links {
		d.makeOrSet(w)
	}
	d.release(have.Links)
	for _, h := range childrenFirst(have.Links) {
		d.dropUnwanted(h)
	}
	return d.linkDiff
}

// childrenFirst orders links so that each comes before its parent and, where
// that leaves a choice, as they come.
func childrenFirst(links []Link) []Link {
	var ordered []Link
	seen := map[string]bool{}
	var visit func(l Link)
	visit = func(l Link) {
		if seen[l.Name] {
			return
		}
		seen[l.Name] = true
		for _, child := range links {
			if child.Parent == l.Name {
				visit(child)
			}
		}
		ordered = append(ordered, l)
	}
	for _, l := range links {
		visit(l)
	}
	return ordered
}

// makeRoom deletes a link that no spec names any more before others are made, if
// the kernel would refuse those while it is there. All others go last.
func (d *linkDiffer) makeRoom(h Link, want []Link) {
	if _, wanted := d.wanted[h.Name]; wanted || !h.Owned || !creatable(h.Kind) || d.gone[h.Name] {
		return
	}
	for _, w := range want {
		if reason := inTheWay(h, w); reason != "" {
			d.disappears(h.Name)
			d.remake = append(d.remake, change(linkKey(h.Name), plan.ActionDelete, plan.Disconnect,
				reasonUnwanted+", and "+reason, h.String(), "", deleteLink{name: h.Name, bridges: d.keep(h.Master)}))
			return
		}
	}
}

// inTheWay says why the wanted link cannot be had beside the one that is there.
func inTheWay(h, w Link) string {
	same := func(names ...string) bool {
		for _, name := range names {
			if h.setting(name) != w.setting(name) {
				return false
			}
		}
		return h.Kind == w.Kind
	}
	switch {
	case h.Kind == hosts.LinkVLAN && same("id") && h.Parent == w.Parent:
		return fmt.Sprintf("%s is to be the same VLAN", w.Name)
	case h.Kind == hosts.LinkVXLAN && same("id", "port"):
		return fmt.Sprintf("%s is to be the same VXLAN", w.Name)
	case h.Kind == hosts.LinkMacvlan && h.Parent == w.Name && w.Master != "":
		return fmt.Sprintf("the link %s that it lies upon is to be a port", w.Name)
	case h.Kind == hosts.LinkMacvlan && same() && h.Parent == w.Parent && (h.setting("mode") == "passthru" || w.setting("mode") == "passthru"):
		return fmt.Sprintf("passthru allows no other beside %s", w.Name)
	case slices.Contains(w.AltNames, h.Name), slices.ContainsFunc(h.AltNames, func(n string) bool { return n == w.Name || slices.Contains(w.AltNames, n) }):
		return fmt.Sprintf("%s is to have its name", w.Name)
	}
	return ""
}

// fits tells whether the link that is there is of the wanted sort. Anything
// serves as a physical link: the spec says with that word that it makes none.
func fits(h, w Link) bool {
	if w.Kind == hosts.LinkPhysical {
		return true
	}
	return h.Kind == w.Kind && (w.Kind != hosts.LinkVeth || h.Peer == w.Peer)
}

// remakeMisfit deletes a link of ours, or one that is taken over, that cannot
// become the wanted one; it is then created like one that is missing. With it
// go those that lie upon it.
func (d *linkDiffer) remakeMisfit(w Link) {
	h, there := d.have[w.Name]
	if !there || w.Lost != "" || d.gone[h.Name] {
		return
	}
	reason := ""
	switch {
	case !fits(h, w):
		reason = fmt.Sprintf("it is a %s and the spec wants a %s", h.kindWord(), w.kindWord())
		if !h.Owned {
			return // somebody's link of another kind is never taken over
		}
	case h.Owned || w.Adopt:
		reason = misfit(h, w)
	}
	if reason == "" {
		return
	}
	d.disappears(h.Name)
	d.remake = append(d.remake, change(linkKey(h.Name), plan.ActionDelete, plan.Disconnect, reason, h.managedAs(w).full(), "",
		deleteLink{name: h.Name, adopt: w.Adopt, bridges: d.keep(h.Master)}))
}

// disappears notes a link that is deleted, with what the kernel deletes too.
func (d *linkDiffer) disappears(name string) {
	if d.gone[name] {
		return
	}
	d.gone[name] = true
	if peer := d.have[name].Peer; peer != "" {
		d.gone[peer] = true
	}
	for _, child := range d.have {
		if child.Parent == name {
			d.disappears(child.Name)
		}
	}
}

// misfit says which setting that a link has from its birth is another than
// wanted, "" for none.
func misfit(h, w Link) string {
	if parented(w.Kind) && h.Parent != w.Parent {
		return fmt.Sprintf("it is made anew: the spec wants it upon %s, and it lies upon %s", orNothing(w.Parent), orNothing(h.Parent))
	}
	for _, c := range changedSettings(h, w) {
		if c.fixed() {
			return fmt.Sprintf("it is made anew: the spec wants %s, and that %s is set only when a link is made", c.text(c.after), c.name)
		}
	}
	return ""
}

// parented tells whether links of the kind lie upon another.
func parented(kind hosts.LinkKind) bool {
	return kind == hosts.LinkVLAN || kind == hosts.LinkMacvlan || kind == hosts.LinkVXLAN
}

func orNothing(name string) string {
	if name == "" {
		return "no link"
	}
	return name
}

func (d *linkDiffer) makeOrSet(w Link) {
	h, there := d.have[w.Name]
	switch {
	case w.Lost != "":
		d.refuse(w, "", w.Lost)
	case !there && !creatable(w.Kind):
		d.refuse(w, "", fmt.Sprintf("link %q is not on this host; %s", w.Name, foundLinks(d.names)))
	case parented(w.Kind) && d.absent[w.Parent]:
		d.refuse(w, "", fmt.Sprintf("the link %q that it lies upon cannot be had", w.Parent))
	case !there:
		d.create(w)
	case !fits(h, w):
		d.refuse(w, h.String(), fmt.Sprintf("link %q is a %s that nodeagent did not make; remove or rename it, or change the spec", w.Name, h.kindWord()))
	case creatable(w.Kind) && !h.Owned && !w.Adopt:
		d.refuse(w, h.String(), fmt.Sprintf("link %q is a %s that %s made; write adopt = true to take it over, or remove or rename it", w.Name, h.kindWord(), makerOf(h)))
	default:
		d.set(h, w)
	}
}

// refuse plans what cannot be done: the plan shows it, applying it fails.
func (d *linkDiffer) refuse(w Link, before, reason string) {
	d.absent[w.Name] = true
	d.make = append(d.make, change(linkKey(w.Name), plan.ActionCreate, plan.Quiet, reason, before, w.String(), blocked{reason}))
}

func (d *linkDiffer) create(w Link) {
	if w.Kind == hosts.LinkVeth {
		if d.absent[w.Peer] {
			d.refuse(w, "", fmt.Sprintf("its other end %q cannot be made", w.Peer))
			return
		}
		if peer, there := d.have[w.Peer]; there {
			d.refuse(w, "", fmt.Sprintf("its other end %q is there already, a %s that nodeagent did not make; remove or rename it, or change the spec", w.Peer, peer.kindWord()))
			return
		}
	}
	rest := d.afterBirth(w)
	if w.Kind == hosts.LinkVeth && d.made[w.Peer] {
		// The pair was created as one; what is left are this end's settings.
		rest.mark, rest.mac = true, w.MAC
		d.make = append(d.make, change(linkKey(w.Name), plan.ActionCreate, plan.Quiet, "it is made with its other end "+w.Peer, "", w.full(), rest))
	} else {
		d.make = append(d.make, change(linkKey(w.Name), plan.ActionCreate, plan.Quiet, reasonMissing, "", w.full(), createLink{link: w, rest: rest}))
	}
	d.made[w.Name] = true
}

// afterBirth is what is set of a link that was just made. The settings of its
// kind it has from the start.
func (d *linkDiffer) afterBirth(w Link) setLink {
	o := setLink{name: w.Name, mtu: w.MTU, up: w.Up, bridges: d.keep(w.Master), port: w.Port, altNames: w.AltNames}
	if w.Master != "" {
		o.master, o.placed, o.vlans = &w.Master, &w.Placed, d.vlans(Link{}, w)
		o.primary = d.isPrimary(w)
	}
	return o
}

// release takes links that no spec names any more out of the masters that
// nodeagent gave them, and forgets those that have lost it otherwise.
func (d *linkDiffer) release(have []Link) {
	for _, h := range have {
		h, there := d.have[h.Name]
		_, wanted := d.wanted[h.Name]
		if !there || wanted || !h.Placed || h.Owned {
			continue
		}
		none, unplaced := "", false
		o := setLink{name: h.Name, placed: &unplaced}
		if h.Master == "" {
			d.make = append(d.make, change(linkKey(h.Name), plan.ActionUpdate, plan.Quiet,
				"nodeagent made it a port, which it is no longer", h.String()+"\nport by nodeagent", h.String(), o))
			continue
		}
		after := h
		after.Master = ""
		d.cycled[h.Name] = d.flushes(h.Master)
		o.master, o.up, o.bridges = &none, h.Up, d.keep(h.Master)
		d.make = append(d.make, change(linkKey(h.Name), plan.ActionUpdate, plan.Disconnect,
			"nodeagent made it a port of "+h.Master+" and the spec no longer names it", h.String(), after.String(), o))
	}
}

// flushes tells whether the kernel takes a link down and up when it becomes a
// port of the master, or ceases to be one.
func (d *linkDiffer) flushes(master string) bool {
	for _, kind := range []hosts.LinkKind{d.have[master].Kind, d.wanted[master].Kind} {
		if kind == hosts.LinkBond || kind == hosts.LinkVRF {
			return true
		}
	}
	return false
}

func (d *linkDiffer) dropUnwanted(h Link) {
	if _, wanted := d.wanted[h.Name]; wanted || !h.Owned || !creatable(h.Kind) || d.gone[h.Name] || d.doomed[h.Name] {
		return
	}
	if h.Kind == hosts.LinkVeth && h.Peer != "" {
		if _, wanted := d.wanted[h.Peer]; wanted {
			return // it lives as long as its other end
		}
		d.doomed[h.Peer] = true
	}
	d.doomed[h.Name] = true
	d.drop = append(d.drop, change(linkKey(h.Name), plan.ActionDelete, plan.Disconnect, reasonUnwanted, h.String(), "",
		deleteLink{name: h.Name, bridges: d.keep(h.Master)}))
}

// keep returns what is wanted of the masters and moves when their ports do.
func (d *linkDiffer) keep(masters ...string) []keepMTU {
	var keep []keepMTU
	for _, master := range masters {
		w, ok := d.wanted[master]
		if !ok || d.absent[master] {
			continue
		}
		k := keepMTU{bridge: master}
		if w.Kind == hosts.LinkBridge {
			k.mtu = w.MTU
		}
		if w.Kind == hosts.LinkBond && keepsMAC(w) {
			k.mac = w.MAC
		}
		if k.mtu != 0 || k.mac != "" {
			keep = append(keep, k)
		}
	}
	return keep
}

// makerOf says whose a link is that nodeagent did not make, as far as its name
// and alias tell.
func makerOf(l Link) string {
	if l.Alias != "" {
		return fmt.Sprintf("somebody else (alias %q)", l.Alias)
	}
	for _, known := range []struct{ prefix, maker string }{
		{"docker", "Docker"},
		{"br-", "Docker"},
		{"cni", "a CNI plugin"},
		{"cali", "Calico"},
		{"flannel", "Flannel"},
		{"cilium", "Cilium"},
		{"lxc", "Cilium"},
		{"virbr", "libvirt"},
		{"vnet", "libvirt"},
		{"kube-", "kube-proxy"},
		{"podman", "Podman"},
	} {
		if strings.HasPrefix(l.Name, known.prefix) {
			return known.maker
		}
	}
	return "somebody else"
}

// managedAs leaves out what w says nothing of.
func (l Link) managedAs(w Link) Link {
	l.MAC, l.AltNames, l.Port, l.VLANs = "", nil, nil, nil
	l.Settings = slices.DeleteFunc(slices.Clone(l.Settings), func(s Setting) bool {
		_, managed := settingOf(w.Settings, s.Name)
		return l.Kind != w.Kind || !managed
	})
	return l
}

// full returns the link with its settings, one a line.
func (l Link) full() string {
	lines := []string{l.String()}
	if parented(l.Kind) && l.Parent != "" {
		lines[0] = strings.Replace(lines[0], l.kindWord(), l.kindWord()+" upon "+l.Parent, 1)
	}
	for _, s := range l.Settings {
		if s.Value != "" {
			lines = append(lines, s.Name+" "+s.Value)
		}
	}
	if l.MAC != "" {
		lines = append(lines, "mac "+l.MAC)
	}
	for _, s := range l.Port {
		lines = append(lines, "port "+s.Name+" "+s.Value)
	}
	if l.VLANs != nil {
		lines = append(lines, "vlans "+l.VLANs.String())
	}
	if len(l.AltNames) > 0 {
		lines = append(lines, "also named "+strings.Join(slices.Clone(l.AltNames), " "))
	}
	return strings.Join(lines, "\n")
}
