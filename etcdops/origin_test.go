package etcdops

import (
	"strings"
	"testing"
)

func TestNotesAndWarnings(t *testing.T) {
	t.Parallel()
	all := Manifest{
		Host: "m1", MemberName: "m2", WithoutQuorum: true, Surroundings: Surroundings{CAs: map[string][]string{"k8s-server": {"sha256:1"}}},
		Compared: &Comparison{Differ: []string{"m3"}, Unreachable: map[string]string{"m4": "no route"}, Skipped: "compacted\nmore"},
	}
	for _, want := range []string{"had no quorum", "the data of m3 differed", "m4 could not be compared: no route", "not compared: compacted"} {
		if !strings.Contains(strings.Join(all.Notes(), "\n"), want) {
			t.Errorf("%q is not said in %q", want, all.Notes())
		}
	}
	well := Manifest{Host: "m1", MemberName: "m2", Compared: &Comparison{Agree: []string{"m3"}}}
	if notes := well.Notes(); len(notes) != 0 {
		t.Errorf("notes of one that is well: %q", notes)
	}
	for name, tc := range map[string]struct {
		m    *Manifest
		s    Signature
		want []string
	}{
		"well":       {&well, Signature{State: SignatureTrusted}, nil},
		"not signed": {&well, Signature{State: SignatureNone, Text: "not signed"}, []string{"the snapshot is not signed"}},
		"foreign":    {nil, Signature{State: SignatureNone, Text: "without a manifest"}, []string{"without a manifest"}},
		"all":        {&all, Signature{State: SignatureTrusted}, []string{"no quorum", "differed", "could not", "were not", "the CA k8s-server"}},
	} {
		p := RestorePlan{Snapshot: Report{Manifest: tc.m, Signature: tc.s}}
		p.warnOfOrigin(Surroundings{CAs: map[string][]string{"k8s-server": {"sha256:2"}}})
		if len(p.Warnings) != len(tc.want) {
			t.Fatalf("%s: %q", name, p.Warnings)
		}
		for i, want := range tc.want {
			if !strings.Contains(p.Warnings[i], want) {
				t.Errorf("%s: %q, want %q", name, p.Warnings[i], want)
			}
		}
	}
}
