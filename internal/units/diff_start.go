package units

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// startUnits starts the wanted units that do not run and restarts those that
// run with other inputs than the wanted ones.
func (d *diff) startUnits() {
	for _, want := range d.want.Units {
		if _, foreign := d.have.Host.foreign(want.Name); foreign || !want.Active {
			continue
		}
		have, _ := d.have.find(want.Name)
		c := plan.Change{Key: unitKey(want.Name), Action: plan.ActionStart, Effect: plan.Quiet, After: "running"}
		switch outdated := d.outdated(have, want); {
		case !have.Active && !(outdated && have.Inputs != ""):
			c.Reason = idleReason(have.Detail)
		case outdated:
			c.Action, c.Effect = plan.ActionRestart, restartEffect(want)
			c.Reason, c.Before = d.restartReason(have, want), "running with its former inputs"
			c.After = "running with its present inputs"
		default:
			continue
		}
		if lacks := want.lacks(d.there); lacks != "" {
			c.Reason += "; it cannot start: " + lacks
		}
		d.add(c, startUnit{unit: want, units: d.want.Units, restart: c.Action == plan.ActionRestart})
	}
}

func (d *diff) there(path string) bool { return !slices.Contains(d.have.Host.MissingBinaries, path) }

// outdated tells whether a process that runs was started with other inputs. A
// changed unit file counts even where the digest does not cover it.
func (d *diff) outdated(have, want Unit) bool {
	if !hasService(want.Content) {
		return false
	}
	changed := have.Content != "" && have.Content != want.Content
	return changed || want.Inputs != "" && have.Inputs != want.Inputs
}

// idleReason says what a unit does instead of running.
func idleReason(detail Detail) string {
	switch {
	case detail.ActiveState == "failed":
		return "it failed (" + detail.Result + ")"
	case detail.SubState == "auto-restart":
		return "it failed (" + detail.Result + ") and waits to be restarted"
	case detail.ActiveState == "activating":
		return "it has not finished starting"
	}
	return "it is not running"
}

// restartReason names the inputs that changed, as far as this plan knows them.
func (d *diff) restartReason(have, want Unit) string {
	var changed []string
	if have.Content != "" && have.Content != want.Content {
		changed = append(changed, "its unit file")
	}
	for _, f := range d.want.Files {
		old, exists := findFile(d.have.Files, f.Path)
		if reads(want, f.Path) && !(exists && string(old.Content) == string(f.Content)) {
			changed = append(changed, filepath.Base(f.Path))
		}
	}
	switch {
	case len(changed) > 0:
		return strings.Join(changed, " and ") + " changed"
	case have.Written == carried(want):
		return "its inputs changed since it was started"
	default:
		return "a file that it reads only at its start changed, such as a CA bundle"
	}
}

// reads tells whether a configuration file belongs to a unit: it lies in the
// component's folder or the unit file names it.
func reads(u Unit, path string) bool {
	component := strings.TrimPrefix(strings.TrimSuffix(u.Name, filepath.Ext(u.Name)), layout.UnitPrefix)
	return strings.Contains(path, "/components/"+component+"/") || strings.Contains(u.Content, path)
}
