package plan

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/internal/golden"
)

var sample = Plan{Changes: []Change{
	{Domain: "kernel", Key: "module overlay", Action: ActionLoad, Reason: "the spec names it", After: "loaded"},
	{Domain: "kernel", Key: "sysctl net.ipv4.ip_forward", Action: ActionUpdate, Reason: "the spec sets it", Before: "0", After: "1"},
	{
		Domain: "units", Key: "file kubelet/config.yaml", Action: ActionUpdate, Effect: Restart, Reason: "its content differs",
		Before: "a: 1\n", After: "a: 2\nb: 3\nc: 4\n",
	},
	{Domain: "units", Key: "nodeagent-etcd.service", Action: ActionStop, Effect: Quorum, Reason: "the spec has no etcd role", Before: "active"},
}, Warnings: []string{"cluster.toml:3: the SSH session from 192.0.2.7 would be cut: no rule accepts it"}}

func TestWrite(t *testing.T) {
	for _, tc := range []struct {
		name  string
		style Style
		plan  Plan
	}{
		{"plain.txt", Style{}, sample},
		{"short.txt", Style{MaxLines: 2}, sample},
		{"color.txt", Style{Color: true}, sample},
		{"empty.txt", Style{}, Plan{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var b strings.Builder
			if err := tc.style.Write(&b, tc.plan); err != nil {
				t.Fatal(err)
			}
			golden.Check(t, "testdata/"+tc.name, b.String())
		})
	}
}

func TestWriteJSON(t *testing.T) {
	var b strings.Builder
	if err := WriteJSON(&b, sample); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "testdata/"+"plan.json", b.String())

	var back Plan
	if err := json.Unmarshal([]byte(b.String()), &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample, back); diff != "" {
		t.Errorf("the plan does not survive JSON (-want +got):\n%s", diff)
	}

	b.Reset()
	if err := WriteJSON(&b, Plan{}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(strings.Fields(b.String()), ""); got != `{"changes":[],"warnings":[]}` {
		t.Errorf("empty plan: %s", got)
	}
}

func TestEffect(t *testing.T) {
	if got := sample.Effect(); got != Quorum {
		t.Errorf("strongest effect %v, want quorum", got)
	}
	if got := (Plan{}).Effect(); got != Quiet {
		t.Errorf("effect of an empty plan %v, want quiet", got)
	}
	var e Effect
	if err := e.UnmarshalText([]byte("loud")); err == nil {
		t.Error("an unknown effect was accepted")
	}
}

type recorder struct{ lines []string }

func (r *recorder) Begin(c Change) { r.lines = append(r.lines, "begin "+c.Key) }
func (r *recorder) End(c Change, err error) {
	if err != nil {
		r.lines = append(r.lines, "failed "+c.Key)
		return
	}
	r.lines = append(r.lines, "done "+c.Key)
}

func TestEachGoesOnPastFailuresAndStopsWithTheContext(t *testing.T) {
	boom := errors.New("boom")
	changes := []Change{{Key: "a", Action: ActionCreate}, {Key: "b", Action: ActionDelete}, {Key: "c", Action: ActionUpdate}}
	var rec recorder
	err := Each(t.Context(), changes, &rec, func(_ context.Context, c Change) error {
		if c.Key == "b" {
			return boom
		}
		return nil
	})
	if !errors.Is(err, boom) || err.Error() != "delete b: boom" {
		t.Errorf("error %q", err)
	}
	want := []string{"begin a", "done a", "begin b", "failed b", "begin c", "done c"}
	if diff := cmp.Diff(want, rec.lines); diff != "" {
		t.Errorf("reports (-want +got):\n%s", diff)
	}

	ctx, cancel := context.WithCancel(t.Context())
	attempted := 0
	err = Each(ctx, changes, Silent{}, func(context.Context, Change) error {
		attempted++
		cancel()
		return nil
	})
	if attempted != 1 || !errors.Is(err, context.Canceled) {
		t.Errorf("attempted %d changes, error %v; want 1 and context.Canceled", attempted, err)
	}
}
