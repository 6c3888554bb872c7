package etcdops

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// Step is one thing that a restore does.
type Step struct {
	// Name is one of the Step… constants.
	Name string `json:"name"`
	// Text says it in a sentence.
	Text string `json:"text"`
}

// The steps of a restore, in order.
const (
	StepStage   = "stage"
	StepStop    = "stop"
	StepSwap    = "swap"
	StepStart   = "start"
	StepProve   = "prove"
	StepClients = "clients"
	// StepUndo is in no plan: it puts back what was, when a step fails or was
	// interrupted.
	StepUndo = "undo"
)

func (p RestorePlan) steps() []Step {
	steps := []Step{{StepStage, fmt.Sprintf("restore the snapshot into %s beside the live data, as member %s of a new cluster with token %s%s, and verify it there",
		p.StagedDir, p.Host, p.Token, p.bumpText())}}
	steps = append(steps, Step{StepStop, "stop " + strings.Join(append(append([]string{}, p.Stop...), layout.Etcd), ", then ")})
	swap := fmt.Sprintf("put it in the place of %s by one rename; the old data is kept as %s", p.DataDir, p.AsideDir)
	if !p.HadData {
		swap = fmt.Sprintf("put it in the place of %s, which holds no data now", p.DataDir)
	}
	steps = append(steps, Step{StepSwap, swap},
		Step{StepStart, "start " + layout.Etcd},
		Step{StepProve, fmt.Sprintf("ask it over mTLS until it is healthy, at most %s, and prove revision %d and %d keys; on any failure until here the old data goes back",
			p.HealthTimeout, p.wantRevision(), p.Snapshot.Keys)})
	var clients []string
	if len(p.Stop) > 0 {
		clients = append(clients, "start "+strings.Join(reversed(p.Stop), ", "))
	}
	if len(p.Restart) > 0 {
		clients = append(clients, "restart "+strings.Join(p.Restart, ", ")+", so that they list and watch again")
	}
	if len(clients) > 0 {
		steps = append(steps, Step{StepClients, strings.Join(clients, "; ")})
	}
	return steps
}

func (p RestorePlan) bumpText() string {
	if p.RevisionBump == 0 {
		return ""
	}
	return fmt.Sprintf(", its revision raised by %d and all before that compacted", p.RevisionBump)
}

// wantRevision is the lowest revision that the restored etcd may answer with.
func (p RestorePlan) wantRevision() int64 { return p.Snapshot.Revision + int64(p.RevisionBump) }

// WriteText prints the plan for people.
func (p RestorePlan) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Snapshot  %s\n", p.Snapshot.Path)
	if m := p.Snapshot.Manifest; m != nil {
		fmt.Fprintf(&b, "          taken %s, %s ago, from %s of cluster %s\n", m.Taken.Format(time.RFC3339), p.Planned.Sub(m.Taken).Round(time.Second), m.Host, m.Cluster)
	}
	hash := "its SHA-256 is right"
	if !p.Snapshot.Trailer {
		hash = "it has no SHA-256"
	}
	fmt.Fprintf(&b, "          revision %d, %d keys, %s; %s, every page and key was read\n\n", p.Snapshot.Revision, p.Snapshot.Keys, bytesText(p.Snapshot.Size), hash)
	for i, step := range p.Steps {
		fmt.Fprintf(&b, "%2d. %-8s %s\n", i+1, step.Name, step.Text)
	}
	for i, warning := range p.Warnings {
		if i == 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "!   %s\n", warning)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func reversed(names []string) []string {
	out := make([]string, 0, len(names))
	for i := len(names) - 1; i >= 0; i-- {
		out = append(out, names[i])
	}
	return out
}
