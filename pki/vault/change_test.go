package vault

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

// TestChangeCA: two authorities beside each other, exchanged and dropped; hosts
// see which one signs by their bundle, and get certificates of it; what leads
// to it and what hosts say is kept.
func TestChangeCA(t *testing.T) {
	eachVault(t, trio(""), func(t *testing.T, w *world) {
		const ca, host = layout.CAEtcdPeer, "n2"
		ctx := t.Context()
		n := w.enrolled(host)
		c, err := NewChanger(w.client, w.fleet)
		if err != nil {
			t.Fatal(err)
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		ids := func() (list []string) {
			t.Helper()
			have, err := c.Authorities(ctx, ca)
			must(err)
			for _, a := range have {
				list = append(list, pki.KeyID(a))
			}
			return list
		}
		trusted := func() (list []string) {
			t.Helper()
			content, err := n.Bundle(ctx, ca)
			must(err)
			chain, err := parseChain(string(content))
			must(err)
			for _, a := range chain {
				list = append(list, pki.KeyID(a))
			}
			return list
		}
		signer := func() string {
			t.Helper()
			content, err := n.trySign(n.request(layout.CertEtcdPeer))
			must(err)
			leaf, err := parseChain(string(content))
			must(err)
			have, err := c.Authorities(ctx, ca)
			must(err)
			for _, a := range have {
				if leaf[0].CheckSignatureFrom(a) == nil {
					return pki.KeyID(a)
				}
			}
			return ""
		}

		old := ids()[0]
		must(c.Add(ctx, ca))
		must(c.Add(ctx, ca))
		both := ids()
		if len(both) != 2 || both[0] != old || !slices.Equal(trusted(), both) || signer() != old {
			t.Fatalf("after adding: %v, hosts trust %v, %s signs; the old one is %s", both, trusted(), signer(), old)
		}
		fresh := both[1]
		if again := differs(t, w.client, wantOf(t, w.fleet)); len(again) > 0 {
			t.Errorf("bootstrap would change what a change of a CA has made:\n%s", printed(again))
		}
		if err := c.Drop(ctx, ca, old); err == nil {
			t.Error("the one that signs was dropped")
		}
		must(c.Switch(ctx, ca, fresh))
		must(c.Switch(ctx, ca, fresh))
		if got := trusted(); !slices.Equal(got, []string{fresh, old}) || signer() != fresh {
			t.Fatalf("after the switch hosts trust %v, %s signs; want %s", got, signer(), fresh)
		}
		must(c.Drop(ctx, ca, old))
		must(c.Drop(ctx, ca, old))
		if got := trusted(); !slices.Equal(got, []string{fresh}) || !slices.Equal(ids(), got) {
			t.Fatalf("in the end hosts trust %v", got)
		}
		if again := differs(t, w.client, wantOf(t, w.fleet)); len(again) > 0 {
			t.Errorf("bootstrap would change what a change of a CA has left:\n%s", printed(again))
		}
		if err := c.Switch(ctx, ca, old); err == nil {
			t.Error("switched to an authority that is gone")
		}
	})
}

// TestChangeStore: what changes lead to, and reports, which only their own host
// may write.
func TestChangeStore(t *testing.T) {
	eachVault(t, trio(""), func(t *testing.T, w *world) {
		ctx := t.Context()
		c, err := NewChanger(w.client, w.fleet)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Load(ctx, layout.CAK8sClient); got != nil || err != nil {
			t.Fatalf("of no change: %+v, %v", got, err)
		}
		want := pki.Change{CA: layout.CAK8sClient, Old: "a", New: "b", Back: true}
		for range 2 {
			if err := c.Save(ctx, want); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := c.Load(ctx, want.CA); err != nil || *got != want {
			t.Fatalf("saved %+v, loaded %+v, %v", want, got, err)
		}
		for range 2 {
			if err := c.Remove(ctx, want.CA); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := c.Load(ctx, want.CA); got != nil || err != nil {
			t.Fatalf("of a change that is done: %+v, %v", got, err)
		}

		if got, err := c.Reports(ctx); len(got) != 0 || err != nil {
			t.Fatalf("of no reports: %v, %v", got, err)
		}
		a, b := w.enrolled("n1"), w.enrolled("n3")
		report := pki.Report{Host: "n1", At: time.Now().UTC().Round(time.Second), Proven: true, Trust: map[string][]string{"k8s-client": {"x", "y"}}}
		for _, n := range []*node{a, a, b} {
			report.Host = n.name
			if err := n.Report(ctx, report); err != nil {
				t.Fatal(err)
			}
		}
		got, err := c.Reports(ctx)
		if err != nil || !slices.Equal(slices.Sorted(maps.Keys(got)), []string{"n1", "n3"}) {
			t.Fatalf("reports %v, %v", got, err)
		}
		if diff := cmp.Diff(report, got["n3"]); diff != "" {
			t.Errorf("-said +read:\n%s", diff)
		}
		// Another host's report is not this host's to write.
		forger := w.nodeOf(b.spec, b.root)
		forger.host = "n1"
		if err := forger.Report(ctx, report); err == nil {
			t.Error("a host wrote another one's report")
		}
	})
}
