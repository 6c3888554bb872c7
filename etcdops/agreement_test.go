package etcdops

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// A plan's file that was changed is not followed.
func TestAgreementNoticesChanges(t *testing.T) {
	t.Parallel()
	members := []Member{{Name: "a", PeerURL: "https://10.0.0.1:2380"}, {Name: "b", PeerURL: "https://10.0.0.2:2380"}}
	plan := RestorePlan{Cluster: "mercury", Members: members, Token: "t", RevisionBump: 5, Snapshot: Report{SHA256: "aa"}}
	good := plan.Agreement()
	if good.Digest != plan.Agreement().Digest || len(good.Digest) != len("0000-0000-0000") {
		t.Errorf("digest %q", good.Digest)
	}
	path := filepath.Join(t.TempDir(), "plan.json")
	for name, change := range map[string]func(*Agreement){
		"snapshot": func(a *Agreement) { a.Snapshot.SHA256 = "ab" },
		"token":    func(a *Agreement) { a.Token = "u" },
		"cluster":  func(a *Agreement) { a.Cluster = "venus" },
		"bump":     func(a *Agreement) { a.RevisionBump = 6 },
		"member":   func(a *Agreement) { a.Members[1].Name = "c" },
		"address":  func(a *Agreement) { a.Members[1].PeerURL = "https://10.0.0.3:2380" },
		"fewer":    func(a *Agreement) { a.Members = a.Members[:1] },
		"format":   func(a *Agreement) { a.Format = 2 },
	} {
		bad := good
		bad.Members = slices.Clone(good.Members)
		change(&bad)
		if err := WriteAgreement(path, bad); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadAgreement(path); err == nil {
			t.Errorf("a changed %s was not noticed", name)
		}
	}
	if err := WriteAgreement(path, good); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadAgreement(path); err != nil {
		t.Error(err)
	}
	content, err := os.ReadFile(path)
	if err != nil || !json.Valid(content) {
		t.Errorf("%s, %v", content, err)
	}
	for attempt := range 3 {
		if deriveToken("aa", "mercury", members, 5, attempt) == deriveToken("aa", "mercury", members, 5, attempt+1) {
			t.Error("two attempts share a token")
		}
	}
}
