package netcfg

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// ipState is what ip(8) says of routes in every table, rules and nexthop objects
// of the namespace, one object a line. Left out are the kernel's own IPv6 routes,
// which come and go some time after a link came up.
func ipState(t testing.TB) string {
	t.Helper()
	assertApart(t)
	var lines []string
	for _, args := range []string{"-4 -N -d route show table all", "-6 -N -d route show table all", "-4 -N -d rule show", "-6 -N -d rule show", "-N -d nexthop show"} {
		out, err := exec.CommandContext(t.Context(), "ip", strings.Fields("-j "+args)...).Output()
		must(t, err)
		var list []map[string]any
		if len(out) > 0 {
			must(t, json.Unmarshal(out, &list))
		}
		for _, object := range list {
			if strings.HasPrefix(args, "-6") && object["protocol"] == "2" && strings.Contains(args, "route") {
				continue
			}
			line, err := json.Marshal(withoutWeather(object))
			must(t, err)
			lines = append(lines, strings.Join(strings.Fields(args)[:1], "")+" "+string(line))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

// withoutWeather leaves out what changes by itself: whether a link has its
// carrier.
func withoutWeather(object any) any {
	switch o := object.(type) {
	case map[string]any:
		for key, value := range o {
			o[key] = withoutWeather(value)
		}
	case []any:
		o = slices.DeleteFunc(o, func(v any) bool { return v == "linkdown" })
		for i, v := range o {
			o[i] = withoutWeather(v)
		}
		return o
	}
	return object
}

// linesMissing are the lines of before that after lacks.
func linesMissing(before, after string) string {
	there := asSet(strings.Split(after, "\n"))
	var missing []string
	for line := range strings.Lines(before) {
		if !there[strings.TrimSuffix(line, "\n")] {
			missing = append(missing, line)
		}
	}
	return strings.Join(missing, "")
}

// thereAndBack applies the wanted state, which must change something, and leads
// back by the stored way: nothing may differ, and nothing be left to do.
func thereAndBack(t testing.TB, sys *System, want State) {
	t.Helper()
	before := ipState(t)
	have, err := sys.Before(t.Context(), "", want)
	must(t, err)
	back, err := Back(have, want)
	must(t, err)
	changes := Diff(have, want)
	must(t, sys.Apply(t.Context(), changes, plan.Silent{}))
	if left := diffNow(t, sys, want); len(left) > 0 {
		t.Fatalf("after one apply there is still\n%s\nplan was\n%s", printed(left), printed(changes))
	}
	if len(changes) > 0 && ipState(t) == before {
		t.Fatalf("applying changed nothing:\n%s", printed(changes))
	}
	undo := diffNow(t, sys, stored(t, back))
	if err := sys.Apply(t.Context(), undo, plan.Silent{}); err != nil {
		t.Fatalf("on the way back: %v\nplan:\n%s", err, printed(undo))
	}
	if d := cmp.Diff(before, ipState(t)); d != "" {
		t.Fatalf("not exactly back (-before +after):\n%s\nplan was\n%s\nundone by\n%s", d, printed(changes), printed(undo))
	}
	if left := diffNow(t, sys, stored(t, back)); len(left) > 0 {
		t.Fatalf("one apply back, and there is still\n%s\nundone by\n%s", printed(left), printed(undo))
	}
}
