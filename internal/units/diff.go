package units

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// Domain is the name of this domain in plans.
const Domain = "units"

// Diff returns what turns have into want, in the order in which it is to be
// done: units that are not wanted go, those that come after others first; then
// files, then unit files, then links for the boot; then units are started and
// restarted in the wanted order; files that nobody reads any more go last.
//
// A unit is restarted when the digest that its process carries is not the
// wanted one, whether or not this plan also writes its files: so a restart that
// a crash prevented is seen again.
func Diff(have, want State) []plan.Change {
	var d diff
	d.have, d.want = have, want
	d.removeUnits()
	d.stopUnits()
	d.writeFiles()
	d.writeUnits()
	d.reload()
	d.enableUnits()
	d.startUnits()
	d.deleteFiles()
	return d.changes
}

type diff struct {
	have, want State
	changes    []plan.Change
}

func (d *diff) add(c plan.Change, s step) {
	c.Domain = Domain
	c.Payload = s
	d.changes = append(d.changes, c)
}

func unitKey(name string) string { return "unit " + name }

// find returns the observed unit of this name.
func (s State) find(name string) (Unit, bool) {
	i := slices.IndexFunc(s.Units, func(u Unit) bool { return u.Name == name })
	if i < 0 {
		return Unit{}, false
	}
	return s.Units[i], true
}

func (h Host) foreign(name string) (Foreign, bool) {
	i := slices.IndexFunc(h.Foreign, func(f Foreign) bool { return f.Unit == name })
	if i < 0 {
		return Foreign{}, false
	}
	return h.Foreign[i], true
}

// startOrder is the order in which the components of a host start.
var startOrder = []string{
	layout.Etcd, layout.Containerd, layout.APIServer, layout.ControllerManager,
	layout.Scheduler, layout.Kubelet, layout.KubeProxy,
}

// removeUnits stops and removes the units that are no longer wanted, in the
// reverse of the order in which they start.
func (d *diff) removeUnits() {
	var gone []Unit
	for _, u := range d.have.Units {
		if _, wanted := d.want.find(u.Name); !wanted {
			gone = append(gone, u)
		}
	}
	rank := func(u Unit) int {
		return slices.IndexFunc(startOrder, func(c string) bool { return layout.Unit(c) == u.Name })
	}
	slices.SortStableFunc(gone, func(a, b Unit) int {
		if ra, rb := rank(a), rank(b); ra != rb {
			return rb - ra
		}
		return strings.Compare(b.Name, a.Name)
	})
	for _, u := range gone {
		effect := plan.Quiet
		if u.Active {
			effect = restartEffect(u)
		}
		d.add(plan.Change{
			Key: unitKey(u.Name), Action: plan.ActionDelete, Effect: effect,
			Reason: "the spec no longer asks for it", Before: describe(u),
		}, removeUnit{unit: u, folder: d.have.Host.UnitFolder})
	}
}

// describe names the state of a unit in a few words.
func describe(u Unit) string {
	words := "stopped"
	if u.Active {
		words = "running"
	}
	if u.Enabled {
		words += ", started at boot"
	}
	return words
}

// restartEffect is what stopping or restarting a running unit disturbs.
func restartEffect(u Unit) plan.Effect { return max(plan.Restart, u.Effect) }

func (d *diff) stopUnits() {
	for _, want := range slices.Backward(d.want.Units) {
		have, known := d.have.find(want.Name)
		if !known || !have.Active || want.Active {
			continue
		}
		d.add(plan.Change{
			Key: unitKey(want.Name), Action: plan.ActionStop, Effect: restartEffect(want),
			Reason: "the spec wants it stopped", Before: "running", After: "stopped",
		}, stopUnit{name: want.Name})
	}
}

func (d *diff) writeFiles() {
	for _, want := range d.want.Files {
		have, exists := findFile(d.have.Files, want.Path)
		if exists && have.Mode == want.Mode && string(have.Content) == string(want.Content) {
			continue
		}
		c := plan.Change{Key: "file " + want.Path, Action: plan.ActionCreate, Effect: plan.Quiet, Reason: "it is missing"}
		if exists {
			c.Action = plan.ActionUpdate
			c.Reason = "its content differs from what the spec gives"
			if string(have.Content) == string(want.Content) {
				c.Reason = "its mode differs from what the spec gives"
			}
		}
		c.Before, c.After = fileExcerpt(have, want, exists)
		d.add(c, writeFile{file: want})
	}
}

func findFile(files []File, path string) (File, bool) {
	i := slices.IndexFunc(files, func(f File) bool { return f.Path == path })
	if i < 0 {
		return File{}, false
	}
	return files[i], true
}

// fileExcerpt is how a file prints before and after. Whether content is secret
// is known of the wanted file, and what it replaces is then secret too.
func fileExcerpt(have, want File, exists bool) (before, after string) {
	switch {
	case want.Secret || !utf8.Valid(want.Content) || !utf8.Valid(have.Content):
		after = plan.Fingerprint(want.Content)
		if exists {
			before = plan.Fingerprint(have.Content)
		}
		if before == after {
			before, after = "", ""
		}
	case exists:
		before, after = excerpt(string(have.Content), string(want.Content))
	default:
		after = head(string(want.Content))
	}
	if exists && have.Mode != want.Mode {
		before = joinLines("mode "+modeText(have.Mode), before)
		after = joinLines("mode "+modeText(want.Mode), after)
	}
	return before, after
}

func modeText(m fs.FileMode) string {
	if m.Type() != 0 {
		return m.String()
	}
	return fmt.Sprintf("%#o", m.Perm())
}

func joinLines(a, b string) string {
	if b == "" {
		return a
	}
	return a + "\n" + b
}

func (d *diff) deleteFiles() {
	for _, have := range d.have.Files {
		if _, wanted := findFile(d.want.Files, have.Path); wanted {
			continue
		}
		d.add(plan.Change{
			Key: "file " + have.Path, Action: plan.ActionDelete, Effect: plan.Quiet,
			Reason: "no component reads it any more",
		}, deleteFile{path: have.Path})
	}
}

func (d *diff) writeUnits() {
	for _, want := range d.want.Units {
		have, _ := d.have.find(want.Name)
		if f, foreign := d.have.Host.foreign(want.Name); foreign {
			d.add(plan.Change{
				Key: unitKey(want.Name), Action: plan.ActionCreate, Effect: plan.Quiet,
				Reason: "it is missing, but it cannot be written: " + f.why(), After: head(want.Content),
			}, refuseUnit{foreign: f})
			continue
		}
		if have.Content != want.Content || have.Written != carried(want) {
			d.writeUnit(have, want)
		}
		if len(have.Copies) > 0 {
			d.add(plan.Change{
				Key: unitKey(want.Name), Action: plan.ActionDelete, Effect: plan.Quiet,
				Reason: "on this host unit files belong in " + d.have.Host.UnitFolder,
				Before: strings.Join(have.Copies, "\n"),
			}, removeCopies{paths: have.Copies})
		}
	}
}

func (d *diff) writeUnit(have, want Unit) {
	file := withInputs(want.Content, carried(want))
	c := plan.Change{Key: unitKey(want.Name), Action: plan.ActionCreate, Effect: plan.Quiet, Reason: "it is missing", After: head(file)}
	if have.Content != "" {
		c.Action = plan.ActionUpdate
		c.Reason = "it differs from what the spec gives"
		if have.Content == want.Content {
			c.Reason = "the inputs that it reads at its start changed"
		}
		c.Before, c.After = excerpt(withInputs(have.Content, have.Written), file)
	}
	d.add(c, writeUnit{name: want.Name, path: filepath.Join(d.have.Host.UnitFolder, want.Name), content: file})
}

// reload covers unit files that changed behind systemd's back or right before
// a crash. Those that this plan writes need no change of their own: writing a
// unit file includes making systemd read it.
func (d *diff) reload() {
	var stale []string
	for _, u := range d.have.Units {
		if u.Stale {
			stale = append(stale, u.Name)
		}
	}
	if len(stale) == 0 {
		return
	}
	d.add(plan.Change{
		Key: "systemd", Action: plan.ActionReload, Effect: plan.Quiet,
		Reason: "unit files changed since systemd read them: " + strings.Join(stale, ", "),
	}, reloadManager{})
}

func (d *diff) enableUnits() {
	for _, want := range d.want.Units {
		have, _ := d.have.find(want.Name)
		if _, foreign := d.have.Host.foreign(want.Name); foreign {
			continue
		}
		c := plan.Change{Key: unitKey(want.Name), Effect: plan.Quiet}
		switch moved := !slices.Equal(installLinks(have.Content), installLinks(want.Content)); {
		case want.Enabled && !have.Enabled:
			c.Action, c.Reason, c.After = plan.ActionEnable, "it is not started at boot", "started at boot"
		case want.Enabled && moved:
			c.Action, c.Reason = plan.ActionEnable, "its [Install] section changed"
			c.Before, c.After = strings.Join(installLinks(have.Content), " "), strings.Join(installLinks(want.Content), " ")
		case !want.Enabled && have.Enabled:
			c.Action, c.Reason, c.Before = plan.ActionDisable, "the spec does not want it started at boot", "started at boot"
		default:
			continue
		}
		d.add(c, enableUnit{name: want.Name, enable: want.Enabled, folder: d.have.Host.UnitFolder})
	}
}

func (f Foreign) why() string {
	if f.Masked {
		return fmt.Sprintf("%s masks it; if that is not meant, run: systemctl unmask %s", f.Path, f.Unit)
	}
	return fmt.Sprintf("%s was not written by nodeagent; move it away or rename that unit", f.Path)
}
