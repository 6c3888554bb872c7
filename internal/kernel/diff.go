package kernel

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// The payloads of this package's changes.
type (
	loadModule   struct{ module Module }
	setParameter struct {
		module, parameter, value string
		// refusal says why it cannot be set now; empty when it can.
		refusal string
	}
	setSysctl    struct{ name, value string }
	revertSysctl struct{ name, value string }
	// putBack sets a value that was there before, whoever set it.
	putBack struct{ name, value string }
)

const keepsParameters = "a loaded module keeps its parameters: this needs a reload of the module or a reboot"

// Diff returns what leads from have to want: modules first, since they bring
// sysctls, then sysctls, those first that write over others.
func Diff(have, want State) []plan.Change {
	var changes []plan.Change
	loaded := map[string]Module{}
	for _, m := range have.Modules {
		loaded[m.Name] = m
	}
	for _, m := range want.Modules {
		changes = append(changes, diffModule(loaded[m.Name], m)...)
	}
	return append(changes, diffSysctls(have.Sysctls, want.Sysctls)...)
}

func diffModule(have, want Module) []plan.Change {
	if have.Presence == Absent {
		return []plan.Change{{
			Domain: Domain, Key: "module " + want.Name, Action: plan.ActionLoad, Effect: plan.Quiet,
			Reason: "the spec names it and it is not in the kernel",
			Before: "not loaded", After: strings.TrimSpace("loaded " + parameterLine(want.Parameters)),
			Payload: loadModule{want},
		}}
	}
	var changes []plan.Change
	for _, name := range slices.Sorted(maps.Keys(want.Parameters)) {
		value, is := want.Parameters[name].Value, have.Parameters[name]
		if is.Hidden || (!is.Unknown && sameParameter(value, is.Value)) {
			continue
		}
		reason, refusal := "the spec gives it another value", ""
		switch {
		case is.Unknown:
			refusal = fmt.Sprintf("module %s has no parameter %q", want.Name, name)
		case !is.Writable && have.Presence == BuiltIn:
			refusal = fmt.Sprintf("the module is built into the kernel and reads its parameters at boot: put %s.%s=%s on the kernel's command line and reboot", want.Name, name, value)
		case !is.Writable:
			refusal = keepsParameters
		}
		if refusal != "" {
			reason = refusal
		}
		changes = append(changes, plan.Change{
			Domain: Domain, Key: "module " + want.Name + " parameter " + name, Action: plan.ActionUpdate, Effect: plan.Quiet,
			Reason: reason, Before: is.Value, After: value,
			Payload: setParameter{want.Name, name, value, refusal},
		})
	}
	return changes
}

func diffSysctls(have, want []Sysctl) []plan.Change {
	observed := map[string]Sysctl{}
	for _, s := range have {
		observed[s.Name] = s
	}
	ordered := slices.SortedStableFunc(slices.Values(want), func(a, b Sysctl) int {
		return cmp.Or(cmp.Compare(sysctlRank(a.Name), sysctlRank(b.Name)), strings.Compare(a.Name, b.Name))
	})
	var changes []plan.Change
	var written []string // names whose value changes, so far
	for _, s := range ordered {
		is := observed[s.Name]
		change := plan.Change{
			Domain: Domain, Key: "sysctl " + s.Name, Effect: sysctlEffect(s.Name, is.Value, s.Value),
			Before: normalise(is.Value), After: normalise(s.Value),
		}
		same := is.Exists && sameValue(is.Value, s.Value)
		by := slices.IndexFunc(written, func(name string) bool { return writesOver(name, s.Name) })
		switch {
		case s.Revert:
			// Also where the value is back already, or the key is gone: the kept
			// original is still to be forgotten, or it would one day undo what
			// somebody else has set.
			change.Action, change.Reason = plan.ActionRevert, "the spec no longer names it"
			change.Payload = revertSysctl{s.Name, s.Value}
		case same && by < 0:
			continue
		case same:
			change.Action, change.Reason = plan.ActionUpdate, "setting "+written[by]+" writes over it"
			change.Payload = setSysctl{s.Name, s.Value}
		case !is.Exists:
			change.Action, change.Reason = plan.ActionUpdate, "the kernel does not have the key yet"
			change.Payload = setSysctl{s.Name, s.Value}
		default:
			change.Action, change.Reason = plan.ActionUpdate, "the spec gives it another value"
			change.Payload = setSysctl{s.Name, s.Value}
		}
		if s.Back {
			change.Reason, change.Payload = "the last confirmed network has another value", putBack{s.Name, s.Value}
		}
		if !same {
			written = append(written, s.Name)
		}
		changes = append(changes, change)
	}
	return changes
}

// writesOver tells whether setting one sysctl sets another as well:
// net.ipv4.ip_forward and net.ipv4.conf.all.forwarding set the forwarding of
// every link and accept_redirects (inet_forward_change in net/ipv4/devinet.c),
// net.ipv6.conf.all.forwarding and .disable_ipv6 those of every link
// (net/ipv6/addrconf.c).
func writesOver(name, other string) bool {
	switch name {
	case "net.ipv4.ip_forward":
		return other == "net.ipv4.conf.all.forwarding" || writesOver("net.ipv4.conf.all.forwarding", other)
	case "net.ipv4.conf.all.forwarding":
		return name != other && strings.HasPrefix(other, "net.ipv4.conf.") &&
			(strings.HasSuffix(other, ".forwarding") || strings.HasSuffix(other, ".accept_redirects"))
	case "net.ipv6.conf.all.forwarding", "net.ipv6.conf.all.disable_ipv6":
		return name != other && strings.HasPrefix(other, "net.ipv6.conf.") &&
			strings.HasSuffix(other, name[strings.LastIndex(name, "."):])
	}
	return false
}

// sysctlRank orders writes: those that write over others come before them.
func sysctlRank(name string) int {
	switch {
	case name == "net.ipv4.ip_forward":
		return 0
	case name == "net.ipv4.conf.all.forwarding", name == "net.ipv6.conf.all.forwarding":
		return 1
	case strings.Contains(name, ".conf.all."):
		return 2
	case strings.Contains(name, ".conf.default."):
		return 3
	}
	return 4
}

// sysctlEffect tells whether a sysctl cuts traffic when it takes this value.
func sysctlEffect(name, before, after string) plan.Effect {
	forwarding := name == "net.ipv4.ip_forward" || strings.HasSuffix(name, ".forwarding")
	if forwarding && normalise(after) == "0" && normalise(before) != "0" {
		return plan.Disconnect
	}
	if strings.HasSuffix(name, ".disable_ipv6") && normalise(after) == "1" && normalise(before) != "1" {
		return plan.Disconnect
	}
	return plan.Quiet
}

// parameterLine prints parameters as finit_module(2) takes them: sorted
// name=value, a value with a space in quotes.
func parameterLine(parameters map[string]Parameter) string {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		value := parameters[name].Value
		if strings.ContainsAny(value, " \t") {
			value = `"` + value + `"`
		}
		words = append(words, name+"="+value)
	}
	return strings.Join(words, " ")
}
