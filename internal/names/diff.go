package names

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// The payloads of this package's changes.
type (
	writeName     struct{ name string }
	setRunning    struct{ name string }
	revertName    struct{ original Original }
	writeResolv   struct{ content string }
	revertResolv  struct{ original *Original } // nil: none is kept
	forgetResolv  struct{}
	writeDropIn   struct{ content string }
	removeDropIn  struct{}
	reloadResolve struct{}
	writeBlock    struct{ block string }
	removeBlock   struct{}
	blocked       struct{ reason string }
)

// The reasons that several changes share.
const (
	reasonOther   = "the spec gives it another value"
	reasonDropped = "the spec no longer names it"
)

// Diff returns what leads from have to want: the name, the entries of
// /etc/hosts, then the resolvers. It is pure.
func Diff(have, want State) []plan.Change {
	changes := diffName(have, want)
	changes = append(changes, diffBlock(have, want)...)
	return append(changes, diffResolvers(have, want)...)
}

func change(key string, action plan.Action, effect plan.Effect, reason, before, after string, payload any) plan.Change {
	return plan.Change{
		Domain: Domain, Key: key, Action: action, Effect: effect, Reason: reason,
		Before: strings.TrimRight(before, "\n"), After: strings.TrimRight(after, "\n"), Payload: payload,
	}
}

func diffName(have, want State) []plan.Change {
	if want.Static == "" {
		if have.KeptName == nil {
			return nil
		}
		return []plan.Change{change("static host name", plan.ActionRevert, plan.Quiet, reasonDropped, have.Static, have.KeptName.name(), revertName{*have.KeptName})}
	}
	var changes []plan.Change
	if have.Static != want.Static {
		changes = append(changes, change("static host name", plan.ActionUpdate, plan.Quiet, reasonOther, have.Static, want.Static, writeName{want.Static}))
	}
	if have.Running != want.Running {
		changes = append(changes, change("running host name", plan.ActionUpdate, plan.Quiet, reasonOther, have.Running, want.Running, setRunning{want.Running}))
	}
	return changes
}

const blockKey = "entries of /etc/hosts"

func diffBlock(have, want State) []plan.Change {
	switch {
	case have.Broken != "" && want.Block != nil:
		return []plan.Change{change(blockKey, plan.ActionUpdate, plan.Quiet, have.Broken, "", *want.Block, blocked{have.Broken})}
	case want.Block == nil && have.Block != nil:
		return []plan.Change{change(blockKey, plan.ActionDelete, plan.Quiet, reasonDropped, *have.Block, "", removeBlock{})}
	case want.Block == nil || have.Block != nil && *have.Block == *want.Block:
		return nil
	case have.Block == nil:
		return []plan.Change{change(blockKey, plan.ActionCreate, plan.Quiet, "the spec names them and the file lacks them", "", *want.Block, writeBlock{*want.Block})}
	}
	return []plan.Change{change(blockKey, plan.ActionUpdate, plan.Quiet, reasonOther, *have.Block, *want.Block, writeBlock{*want.Block})}
}

const (
	resolvKey = "resolvers in /etc/resolv.conf"
	dropInKey = "resolvers of systemd-resolved"
)

func diffResolvers(have, want State) []plan.Change {
	var changes []plan.Change
	add := func(c plan.Change) { changes = append(changes, c) }
	before := ""
	if have.Resolv != nil {
		before = *have.Resolv
	}
	switch {
	case want.Resolv != nil && !have.Resolved:
		if have.Resolv == nil || before != *want.Resolv {
			add(change(resolvKey, plan.ActionUpdate, plan.Quiet, reasonOther, before, *want.Resolv, writeResolv{*want.Resolv}))
		}
	case have.Ours:
		add(change(resolvKey, plan.ActionRevert, plan.Quiet, reasonDropped, before, have.KeptResolv.shown(before), revertResolv{have.KeptResolv}))
	case have.KeptResolv != nil:
		// Somebody else's file has taken the place of ours.
		add(change(resolvKey, plan.ActionRevert, plan.Quiet, "somebody replaced nodeagent's file; what was there before it is no longer kept", "", "", forgetResolv{}))
	}
	switch {
	case want.DropIn != nil && have.Resolved:
		if have.DropIn == nil {
			add(change(dropInKey, plan.ActionCreate, plan.Reload, "the spec names them and systemd-resolved lacks them", "", *want.DropIn, writeDropIn{*want.DropIn}))
		} else if *have.DropIn != *want.DropIn {
			add(change(dropInKey, plan.ActionUpdate, plan.Reload, reasonOther, *have.DropIn, *want.DropIn, writeDropIn{*want.DropIn}))
		} else if have.Reload {
			add(reloadChange())
		}
	case have.DropIn != nil:
		add(change(dropInKey, plan.ActionDelete, plan.Reload, reasonDropped, *have.DropIn, "", removeDropIn{}))
	case have.Reload:
		add(reloadChange())
	}
	return changes
}

func reloadChange() plan.Change {
	return change(dropInKey, plan.ActionReload, plan.Reload, "its configuration changed and it was not told", "", "", reloadResolve{})
}

// Warnings says what the spec's names cannot overrule, once the host is as
// wanted: other lines of /etc/hosts that give one of the names another address,
// and options that systemd-resolved does not have.
func Warnings(have, want State) []string {
	var list []string
	if want.Block != nil {
		for line := range strings.Lines(*want.Block) {
			words := strings.Fields(line)
			for _, name := range words[1:] {
				others := slices.DeleteFunc(slices.Clone(have.Foreign[strings.ToLower(name)]), func(a string) bool { return !sameFamilyDiffers(a, words[0]) })
				if len(others) > 0 {
					list = append(list, fmt.Sprintf("/etc/hosts: a line that is not nodeagent's gives %s the address %s, the spec %s; the first line counts", name, strings.Join(others, ", "), words[0]))
				}
			}
		}
	}
	if have.Resolved && want.Resolv != nil && strings.Contains(*want.Resolv, "\noptions ") {
		list = append(list, "names.options: systemd-resolved, which this host uses, has no such options; they are left out")
	}
	return list
}

// sameFamilyDiffers tells whether two addresses of one family differ: a name may
// have one of each family.
func sameFamilyDiffers(a, b string) bool {
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	return errX == nil && errY == nil && x.Is4() == y.Is4() && x != y
}
