package etcdops

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// killedSave is a save in a process of its own that dies by SIGKILL at a step.
type killedSave struct {
	Root      layout.Root
	Site      Site
	Dir       string
	Recipient string // of age; empty for a plain one
	At        int    // the number of the step
}

func (k killedSave) options() (SaveOptions, error) {
	opts := SaveOptions{Dir: k.Dir, Cluster: "mercury", Host: "m1", Site: k.Site, Version: "test", Scratch: k.Root.Scratch()}
	if k.Recipient != "" {
		recipients, err := ParseRecipients([]string{k.Recipient})
		if err != nil {
			return SaveOptions{}, err
		}
		opts.Sealing = Sealing{Compress: true, Recipients: recipients}
	}
	signer, _, err := HostSigner(k.Root)
	opts.Signer = signer
	return opts, err
}

func runSave(config []byte) error {
	var k killedSave
	if err := json.Unmarshal(config, &k); err != nil {
		return err
	}
	opts, err := k.options()
	if err != nil {
		return err
	}
	n := 0
	opts.step = func(name string) {
		mustPass(name)
		if n++; n == k.At {
			fmt.Println(name)
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	opts.Progress = func(done, total int64) { opts.step(fmt.Sprintf("%d of %d bytes", done, total)) }
	if _, err := Save(context.Background(), opts); err != nil {
		return err
	}
	fmt.Println(allEventsSeen)
	return nil
}

// TestSaveKilledAnywhere kills a save at each of its steps. Whenever that is,
// every snapshot that is listed as good is whole and signed, the one from before
// is among them, and after the next save nothing else is left.
func TestSaveKilledAnywhere(t *testing.T) {
	t.Parallel()
	for _, sealed := range []bool{false, true} {
		t.Run(fmt.Sprintf("sealed %v", sealed), func(t *testing.T) {
			t.Parallel()
			h := startHost(t)
			fill(t, h, 3, 20<<10)
			k := killedSave{Root: h.Root, Site: h.site()}
			open := VerifyOptions{OpenOptions: OpenOptions{Scratch: h.Root.Scratch()}}
			if sealed {
				key := identity(t)
				k.Recipient, open.Identities = key.Recipient().String(), []age.Identity{key}
			}
			steps := 0
			for k.At = 1; ; k.At++ {
				k.Dir = filepath.Join(t.TempDir(), "snapshots")
				opts, err := k.options()
				if err != nil {
					t.Fatal(err)
				}
				open.Trust = Trust{Signers: Signers{"m1": {opts.Signer.PublicKey()}}}
				opts.Now = time.Now().Add(-time.Hour)
				before, err := Save(t.Context(), opts)
				if err != nil {
					t.Fatal(err)
				}
				step := runKilled(t, envSave, k)
				good := goodOnes(t, k.Dir, step, open)
				if newest := len(good) - 1; newest < 0 || good[newest].Revision != before.Revision || !good[newest].Taken.Equal(before.Taken) {
					t.Fatalf("killed at %q: the snapshot from before is not among %d", step, len(good))
				}
				opts.Now = time.Now().Add(time.Hour)
				if _, err := Save(t.Context(), opts); err != nil {
					t.Fatalf("killed at %q: the next save: %v", step, err)
				}
				after := goodOnes(t, k.Dir, step, open)
				if len(after) != len(good)+1 {
					t.Fatalf("killed at %q: %d good snapshots, and after the next save %d", step, len(good), len(after))
				}
				if left := leftovers(t, k.Dir); len(left) != 2*len(after) {
					t.Fatalf("killed at %q: after the next save there are %v", step, left)
				}
				noTemporary(t, k.Root, step)
				if step == allEventsSeen {
					break
				}
				steps++
			}
			if steps < 12 {
				t.Errorf("killed at only %d steps", steps)
			}
			t.Logf("killed at %d steps", steps)
		})
	}
}

// goodOnes are the manifests of the snapshots that are listed as good, newest
// first; each of them is verified.
func goodOnes(t *testing.T, dir, step string, open VerifyOptions) (good []Manifest) {
	t.Helper()
	entries, err := List(dir)
	if err != nil {
		t.Fatalf("killed at %q: %v", step, err)
	}
	for _, e := range entries {
		if !e.Good() {
			continue
		}
		report, err := Verify(t.Context(), e.Path, open)
		if err != nil || report.Signature.State != SignatureTrusted {
			t.Fatalf("killed at %q: %s is listed as good, and is not: %v", step, e.Path, err)
		}
		good = append(good, *e.Manifest)
	}
	return good
}

// noTemporary looks for files that nobody would ever remove.
func noTemporary(t *testing.T, root layout.Root, step string) {
	t.Helper()
	err := filepath.WalkDir(root.State(), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(entry.Name(), atomicfile.TempPrefix) {
			t.Errorf("killed at %q: %s is left", step, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestSaveWhileMembersDie takes the leader away, and then the member that sends,
// in the middle of a stream: of the first a save knows nothing, of the second it
// says so and leaves nothing, and the next one takes another member.
func TestSaveWhileMembersDie(t *testing.T) {
	t.Parallel()
	r := startRing(t, 3)
	r.fill("/registry/pods/default/", 20000)
	v := r.settle()
	follower := func() string {
		if v.Leader == "m1" {
			return "m2"
		}
		return "m1"
	}
	self := follower()
	opts := r.saveOptions(self)
	during := func(do func()) {
		seen := false
		opts.Progress = func(int64, int64) {
			if !seen {
				seen = true
				do()
			}
		}
	}
	during(r.node(v.Leader).kill)
	m, err := Save(t.Context(), opts)
	if err != nil || m.MemberName != self || m.Keys != 20000 {
		t.Fatalf("the leader died: %d keys of %s, %v", m.Keys, m.MemberName, err)
	}
	r.node(v.Leader).start()
	v = r.settle()
	self = follower()
	opts = r.saveOptions(self)
	before := leftovers(t, opts.Dir)
	during(r.node(self).kill)
	if _, err := Save(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "stream from") {
		t.Errorf("the member died: %v", err)
	}
	if left := leftovers(t, opts.Dir); len(left) != len(before) {
		t.Errorf("left behind: %v", left)
	}
	opts.Progress = nil
	r.until("the others to be well", func(v View) bool { return v.Quorum && v.Serving == 2 })
	if m, err = Save(t.Context(), opts); err != nil || m.MemberName == self || m.Compared.Unreachable[self] == "" {
		t.Errorf("then %s was saved, %+v, %v", m.MemberName, m.Compared, err)
	}
}
