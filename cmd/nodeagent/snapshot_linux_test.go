package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/test/apart"
)

// TestSnapshotCommands takes snapshots of a real cluster of three as a person
// does, and has them believed or not by who signed them.
func TestSnapshotCommands(t *testing.T) {
	if !apart.Run(t, unix.CLONE_NEWNS|unix.CLONE_NEWNET) {
		return
	}
	l := newEtcdLab(t)
	for _, spec := range l.specs {
		l.start(spec, "ETCD_INITIAL_CLUSTER="+l.initial(), "ETCD_INITIAL_CLUSTER_STATE=new", "ETCD_INITIAL_CLUSTER_TOKEN="+spec.Cluster)
	}
	l.healthy()
	self, fleet := l.specs[0].Name, etcdFleet
	snapshot := func(want int, args ...string) (stdout, stderr string) {
		t.Helper()
		var out, errs strings.Builder
		if got := run(t.Context(), append([]string{"--fleet", fleet, "--host", self, "snapshot"}, args...), &out, &errs); got != want {
			t.Errorf("snapshot %v: exit %d, want %d\n%s%s", args, got, want, out.String(), errs.String())
		}
		return out.String(), errs.String()
	}
	expect := func(text string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%q is not said:\n%s", want, text)
			}
		}
	}

	// The key is made once, and the fleet does not know it yet.
	public, said := snapshot(exitOK, "key")
	public = strings.TrimSpace(public)
	expect(said, "made a private key, which stays in "+layout.Root("").SnapshotKey(), "public_keys = [\""+public+"\"]")
	var key snapshotKey
	again, _ := snapshot(exitOK, "key", "-o", "json")
	if err := json.Unmarshal([]byte(again), &key); err != nil || key.PublicKey != public || key.Made || key.Declared {
		t.Errorf("again: %+v, %v", key, err)
	}
	fleet = fleetNaming(t, self, public)
	again, _ = snapshot(exitOK, "key", "-o", "json")
	if err := json.Unmarshal([]byte(again), &key); err != nil || !key.Declared {
		t.Errorf("with a fleet that names it: %+v, %v", key, err)
	}

	var saved struct {
		Path, MemberName, SignedBy, FleetDigest string
		Compared                                struct{ Agree []string }
	}
	out, _ := snapshot(exitOK, "save", "-o", "json")
	if err := json.Unmarshal([]byte(out), &saved); err != nil || saved.SignedBy != public || len(saved.Compared.Agree) != 2 || saved.FleetDigest == "" {
		t.Fatalf("saved %+v, %v", saved, err)
	}
	out, _ = snapshot(exitOK, "verify", saved.Path)
	expect(out, "Signature: signed by "+self+" (sha256:", "Taken by "+self, "its data had the hash of ", "in Vault at https://")

	// Without a fleet it is good in itself; with one that names another key it is
	// refused, until a person accepts it.
	named := fleet
	fleet = layout.Root("").Fleet()
	_, said = snapshot(exitFailed, "verify", saved.Path)
	expect(said, "--unsigned") // a fleet that was named and is not there is no lack of one
	fleet = fleetNaming(t, self, "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=")
	_, said = snapshot(exitFailed, "verify", saved.Path)
	expect(said, "no host of the fleet has signed it", "none of that host's keys", "--unsigned")
	out, _ = snapshot(exitOK, "verify", saved.Path, "--unsigned")
	expect(out, "NOT SIGNED BY THE FLEET")
	_, said = snapshot(exitFailed, "restore", saved.Path, "--dry-run")
	expect(said, "no host of the fleet has signed it")

	// A manifest that was edited, and one that was taken away.
	fleet = named
	manifest := strings.TrimSuffix(saved.Path, ".db.zst") + ".json"
	content, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	edited := strings.Replace(string(content), `"host": "`+self+`"`, `"host": "`+l.specs[1].Name+`"`, 1)
	if err := os.WriteFile(manifest, []byte(edited), 0o600); err != nil {
		t.Fatal(err)
	}
	_, said = snapshot(exitFailed, "verify", saved.Path, "--unsigned")
	expect(said, "signature does not match")
	out, _ = snapshot(exitOK, "list")
	expect(out, "signature does not match")
	if err := os.Remove(manifest); err != nil {
		t.Fatal(err)
	}
	_, said = snapshot(exitFailed, "verify", saved.Path)
	expect(said, "it has no manifest")
}

// fleetNaming is a copy of the fleet that names a host's snapshot key.
func fleetNaming(t *testing.T, host, key string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(etcdFleet)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, host+".toml")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content = append(content, "\n[snapshots]\npublic_keys = [\""+key+"\"]\n"...)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := hosts.Load(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}
