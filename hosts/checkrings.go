package hosts

import (
	"slices"
	"strings"
)

// above are the links that cannot be made before this one, or that take it as a
// port.
func (d *draft) above(name string) []string {
	var above []string
	for _, l := range d.spec.Network.Links {
		if l.Name == name && l.Master != "" {
			above = append(above, l.Master)
		}
		if l.Parent == name {
			above = append(above, l.Name)
		}
	}
	return above
}

// checkRings refuses links each of which would have to be there before the
// other: the kernel refuses them too.
func (d *draft) checkRings() {
	if !d.ok("network.link") {
		return
	}
	reported := map[string]bool{}
	for _, l := range d.spec.Network.Links {
		ring := d.ring(l.Name, []string{l.Name})
		if ring == nil || slices.ContainsFunc(ring, func(name string) bool { return reported[name] }) {
			continue
		}
		for _, name := range ring {
			reported[name] = true
		}
		n := d.linkNode(l.Name)
		at := n.get("master")
		if at == nil {
			at = n.get("parent")
		}
		if at == nil {
			at = n
		}
		d.at(at, "the links lie upon one another in a ring: %s", strings.Join(append(ring, l.Name), ", "))
	}
}

// ring returns the way from the last link of the path back to the first, nil
// where there is none.
func (d *draft) ring(first string, path []string) []string {
	for _, next := range d.above(path[len(path)-1]) {
		if next == first {
			return path
		}
		if slices.Contains(path, next) {
			continue
		}
		if ring := d.ring(first, append(slices.Clone(path), next)); ring != nil {
			return ring
		}
	}
	return nil
}
