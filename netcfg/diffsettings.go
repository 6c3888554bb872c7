package netcfg

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// settingChange is one setting that is another than wanted.
type settingChange struct {
	attribute
	before, after string
}

func (c settingChange) text(value string) string {
	if value == "" {
		value = "none"
	}
	return c.name + " " + value
}

// changedSettings returns the settings of the link's kind that differ, in the
// order in which they are set.
func changedSettings(h, w Link) []settingChange {
	return changesAmong(kindAttributes[w.Kind], h.Settings, kernelSettings(h, w))
}

func changesAmong(attributes []attribute, have, want []Setting) []settingChange {
	var changed []settingChange
	for _, a := range attributes {
		after, managed := settingOf(want, a.name)
		if before, _ := settingOf(have, a.name); managed && !a.same(before, after) {
			changed = append(changed, settingChange{a, before, after})
		}
	}
	return changed
}

// same tells whether the kernel's value is the wanted one as the kernel keeps
// it. It counts many times in jiffies, of which not every number is a number of
// centiseconds: one that reads back a centisecond short is the same.
func (a attribute) same(have, want string) bool {
	if have == want || a.form != centiseconds {
		return have == want
	}
	h, herr := time.ParseDuration(have)
	w, werr := time.ParseDuration(want)
	short := w.Truncate(10*time.Millisecond) - h
	return herr == nil && werr == nil && short >= 0 && short <= 10*time.Millisecond
}

// kernelSettings are the wanted settings as the kernel would hold them. A bond's
// delays are whole multiples of its miimon. Its primary it tells only when that
// link is a port; before, the port itself brings it.
func kernelSettings(h, w Link) []Setting {
	if w.Kind != hosts.LinkBond {
		return w.Settings
	}
	settings := slices.Clone(w.Settings)
	miimon := w.setting("miimon")
	if miimon == "" {
		miimon = h.setting("miimon")
	}
	every, _ := time.ParseDuration(miimon)
	for i, s := range settings {
		if s.Name != "up_delay" && s.Name != "down_delay" || every <= 0 {
			continue
		}
		if delay, err := time.ParseDuration(s.Value); err == nil {
			settings[i].Value = delay.Truncate(every).String()
		}
	}
	return settings
}

// fixed tells whether the change needs a new link. Of those that the kernel
// makes live by themselves, macvlan's passthru and a VXLAN's other family, group
// or none cannot be changed to or from (macvlan_changelink, vxlan_config_validate).
func (c settingChange) fixed() bool {
	switch {
	case c.when == fixed:
		return true
	case c.form == address:
		b, errB := netip.ParseAddr(c.before)
		a, errA := netip.ParseAddr(c.after)
		return errA != nil || errB != nil || a.Is4() != b.Is4() || a.IsMulticast() || b.IsMulticast()
	case c.form == word32:
		return c.before == "passthru" || c.after == "passthru"
	}
	return false
}

// effect is what changing the setting of a link that stays disturbs.
func (c settingChange) effect() plan.Effect {
	if c.when == live {
		return plan.Quiet
	}
	return plan.Disconnect
}

// reason says what is wanted, and what the change does to the link.
func (c settingChange) reason(w Link) string {
	wanted := "the spec wants " + c.text(c.after)
	switch {
	case c.when == linkDown:
		return wanted + ", for which it goes down for about a second" + negotiation(w)
	case c.when == portless:
		return wanted + ", for which it goes down and its ports are taken out for about a second" + negotiation(w)
	case c.name == "stp" && c.after == "on":
		return fmt.Sprintf("%s: a port that comes up passes frames after 2 × forward_delay, %s", wanted, 2*forwardDelay(w))
	case c.name == "vlan_filtering", c.name == "default_pvid":
		return wanted + ": frames of VLANs that a port does not name are dropped"
	}
	return wanted
}

func negotiation(w Link) string {
	if w.setting("mode") == mode8023AD {
		return ", and LACP takes some seconds more to agree"
	}
	return ""
}

// forwardDelay is the bridge's, or the kernel's 15 seconds.
func forwardDelay(bridge Link) time.Duration {
	if delay, err := time.ParseDuration(bridge.setting("forward_delay")); err == nil {
		return delay
	}
	return 15 * time.Second
}
