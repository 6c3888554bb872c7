package etcdops

import (
	"fmt"
	"io"
	"slices"
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
	StepTrial   = "trial"
	StepStop    = "stop"
	StepSwap    = "swap"
	StepStart   = "start"
	StepProve   = "prove"
	StepSpace   = "space"
	StepClients = "clients"
	// StepUndo is in no plan: it puts back what was, when a step fails or was
	// interrupted.
	StepUndo = "undo"
)

func (p RestorePlan) steps() []Step {
	first := Step{StepStage, fmt.Sprintf("restore the snapshot into %s beside the live data, as member %s of a new cluster with token %s%s, and verify it there",
		p.StagedDir, p.Host, p.Token, p.bumpText())}
	proof := fmt.Sprintf("revision %d and %d keys", p.wantRevision(), p.Snapshot.Keys)
	if p.Undo {
		first = Step{StepStage, fmt.Sprintf("read %s in full, the data of the cluster %s", p.StagedDir, p.ClusterID)}
		proof = fmt.Sprintf("revision %d or later", p.wantRevision())
	}
	swap := fmt.Sprintf("put it in the place of %s by one rename; the data that is there now is kept as %s", p.DataDir, p.AsideDir)
	if !p.HadData {
		swap = fmt.Sprintf("put it in the place of %s, which holds no data now", p.DataDir)
	}
	steps := []Step{first}
	if p.Trial != "" {
		steps = append(steps, Step{StepTrial, fmt.Sprintf("boot a copy of it once with %s, in a namespace without a network, and compare what it answers", p.Trial)})
	}
	prove := fmt.Sprintf("ask it over mTLS until it is healthy, at most %s, and prove that it is the cluster %s with %s; on any failure until here what was there before goes back", p.HealthTimeout, p.ClusterID, proof)
	if others := p.otherMembers(); len(others) > 0 {
		prove = fmt.Sprintf("wait for the same on %s: etcd is healthy when %d of %d members run; then ", strings.Join(others, ", "), quorum(len(p.Members)), len(p.Members)) + prove
	}
	steps = append(steps, []Step{
		{StepStop, "stop " + strings.Join(append(append([]string{}, p.Stop...), layout.Etcd), ", then ")},
		{StepSwap, swap},
		{StepStart, "start " + layout.Etcd},
		{StepProve, prove},
	}...)
	if p.RepairSpace {
		steps = append(steps, Step{StepSpace, "when all members are there, compact the history, defragment each and switch the alarm NOSPACE off"})
	}
	return append(steps, p.clientSteps()...)
}

// otherMembers are the names of those that have to be restored as well.
func (p RestorePlan) otherMembers() []string {
	return slices.DeleteFunc(memberNames(p.Members), func(name string) bool { return name == p.Host })
}

func (p RestorePlan) clientSteps() []Step {
	var clients []string
	if len(p.Stop) > 0 {
		clients = append(clients, "start "+strings.Join(reversed(p.Stop), ", "))
	}
	if len(p.Restart) > 0 {
		clients = append(clients, "restart "+strings.Join(p.Restart, ", ")+", so that they list and watch again")
	}
	if len(clients) == 0 {
		return nil
	}
	return []Step{{StepClients, strings.Join(clients, "; ")}}
}

func (p RestorePlan) bumpText() string {
	if p.RevisionBump == 0 {
		return ""
	}
	return fmt.Sprintf(", its revision raised by %d and all before that compacted", p.RevisionBump)
}

// wantRevision is the lowest revision that the etcd may answer with.
func (p RestorePlan) wantRevision() int64 { return p.Snapshot.Revision + int64(p.RevisionBump) }

// WriteText prints the plan for people.
func (p RestorePlan) WriteText(w io.Writer) error {
	var b strings.Builder
	if p.Undo {
		fmt.Fprintf(&b, "Data      %s\n          of the cluster %s, revision %d, %s\n\n", p.StagedDir, p.ClusterID, p.Snapshot.Revision, bytesText(p.Snapshot.Size))
	} else {
		p.writeSnapshot(&b)
	}
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

func (p RestorePlan) writeSnapshot(b *strings.Builder) {
	fmt.Fprintf(b, "Snapshot  %s\n", p.Snapshot.Path)
	if m := p.Snapshot.Manifest; m != nil {
		fmt.Fprintf(b, "          taken %s, %s ago, from %s of cluster %s\n", m.Taken.Format(time.RFC3339), p.Planned.Sub(m.Taken).Round(time.Second), m.Host, m.Cluster)
	}
	hash := "its SHA-256 is right"
	if !p.Snapshot.Trailer {
		hash = "it has no SHA-256"
	}
	fmt.Fprintf(b, "          revision %d, %d keys, %s; %s, every page and key was read\n", p.Snapshot.Revision, p.Snapshot.Keys, bytesText(p.Snapshot.Size), hash)
	fmt.Fprintf(b, "Plan      %s", p.Digest)
	if len(p.Members) > 1 {
		b.WriteString(", which has to be the same on every host")
	}
	b.WriteString("\n\n")
}

func reversed(names []string) []string {
	out := make([]string, 0, len(names))
	for i := len(names) - 1; i >= 0; i-- {
		out = append(out, names[i])
	}
	return out
}
