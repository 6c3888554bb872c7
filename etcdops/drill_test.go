package etcdops

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// kubernetesObject is an object as kube-apiserver keeps it: of the fields of its
// kind it has the metadata, and one that stands for the rest.
func kubernetesObject(t testing.TB, kind, namespace, name string) string {
	t.Helper()
	metadata := metav1.ObjectMeta{Name: name, Namespace: namespace, UID: "0a1b", Labels: map[string]string{"app": name}}
	encoded, err := metadata.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	body := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), encoded)
	body = protowire.AppendBytes(protowire.AppendTag(body, 2, protowire.BytesType), []byte("\x0a\x03any"))
	object, err := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: kind}, Raw: body}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return "k8s\x00" + string(object)
}

// sealedWith stands for encryption at rest: the value is behind the prefix.
const sealedWith = "k8s:enc:test:v1:key1:"

func openSealed(_ string, value []byte) ([]byte, bool) {
	return bytes.CutPrefix(value, []byte(sealedWith))
}

// kubernetesHost has an etcd with objects of several kinds in it.
func kubernetesHost(t testing.TB) *host {
	t.Helper()
	h := startHost(t)
	client := h.client(t)
	defer client.Close()
	for i := range 20 {
		name := fmt.Sprintf("%c-%d", 'a'+i, i)
		for key, value := range map[string]string{
			"/registry/pods/default/" + name:               kubernetesObject(t, "Pod", "default", name),
			"/registry/minions/" + name:                    kubernetesObject(t, "Node", "", name),
			"/registry/services/specs/default/" + name:     kubernetesObject(t, "Service", "default", name),
			"/registry/secrets/default/" + name:            sealedWith + kubernetesObject(t, "Secret", "default", name),
			"/registry/example.com/widgets/shop/" + name:   fmt.Sprintf(`{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":%q,"namespace":"shop"}}`, name),
			"/registry/masterleases/10.0.0.1":              kubernetesObject(t, "Endpoints", "", ""),
			"/registry/configmaps/kube-system/" + name[1:]: "k8s:enc:kms:v2:" + name,
			"compact_rev_key":                              "7",
		} {
			if _, err := client.Put(t.Context(), key, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	return h
}

func (h *host) drillOptions(t testing.TB, snapshot string) DrillOptions {
	t.Helper()
	return DrillOptions{
		Snapshot: snapshot, Program: etcdProgram(t), Live: []string{h.Root.EtcdData()}, OpenValue: openSealed, Reserve: 1,
		VerifyOptions: VerifyOptions{OpenOptions: OpenOptions{Scratch: h.Root.Scratch()}},
	}
}

// checkNothingLeft fails the test where a drill left anything.
func checkNothingLeft(t testing.TB, scratch string) {
	t.Helper()
	entries, err := os.ReadDir(scratch)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(drillLock(scratch)) {
			t.Errorf("%s is left in the scratch folder", e.Name())
		}
	}
}

func TestDrillOfAGoodSnapshot(t *testing.T) {
	h := kubernetesHost(t)
	opts := h.saveOptions()
	opts.Sealing = Sealing{Compress: true}
	m, err := Save(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	before := keysOf(t, h)
	var steps []string
	drill := h.drillOptions(t, m.Path(opts.Dir))
	drill.Step = func(step string) { steps = append(steps, step) }
	report, err := Drill(t.Context(), drill)
	if err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, drill.Scratch)
	if got := strings.Join(steps, " "); got != "prepare verify stage boot compare" {
		t.Errorf("steps %s", got)
	}
	if !report.Good() || report.Revision != m.Revision || report.Keys != m.Keys || report.KVHash == nil || report.EtcdVersion == "" || report.SHA256 != m.SHA256 {
		t.Errorf("report %+v", report)
	}
	s := report.Objects
	if s.Resources != 7 || s.Decoded < 6 || s.Opened < 1 || s.Closed < 1 || s.Other != 0 {
		t.Errorf("samples %+v", s)
	}
	for name, seconds := range map[string]float64{"verify": report.Seconds.Verify, "stage": report.Seconds.Stage, "boot": report.Seconds.Boot, "compare": report.Seconds.Compare} {
		if seconds <= 0 {
			t.Errorf("%s took %v seconds", name, seconds)
		}
	}
	if age := time.Since(m.Taken).Seconds(); report.RPOSeconds < 0 || report.RPOSeconds > age {
		t.Errorf("RPO %v, the snapshot is %v seconds old", report.RPOSeconds, age)
	}
	if after := keysOf(t, h); len(after) != len(before) {
		t.Errorf("the live etcd has %d keys, %d before", len(after), len(before))
	}
	t.Logf("%+v", report)
}

// TestHashOfASnapshot has a real etcd agree with what is computed from the pages,
// in every state in which a compaction may leave them.
func TestHashOfASnapshot(t *testing.T) {
	h := startHost(t)
	drill := func(name string) {
		t.Helper()
		_, path := save(t, h)
		report, err := Drill(t.Context(), h.drillOptions(t, path))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		t.Logf("%s: %+v", name, *report.KVHash)
		if err := os.RemoveAll(h.Root.Snapshots()); err != nil { // names are by the second
			t.Fatal(err)
		}
	}
	drill("empty")
	put(t, h, "a", "b", "c", "a", "d")
	drill("no compaction")
	client := h.client(t)
	defer client.Close()
	deleted, err := client.Delete(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	put(t, h, "a", "b", "e")
	compact := func(revision int64) {
		t.Helper()
		if _, err := client.Compact(t.Context(), revision); err != nil {
			t.Fatal(err)
		}
	}
	compact(deleted.Header.Revision - 1)
	drill("compacted before a deletion")
	compact(deleted.Header.Revision)
	drill("compacted at a deletion")
	all, err := client.Delete(t.Context(), "", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	compact(all.Header.Revision)
	drill("compacted at the end")
	put(t, h, "a", "b")
	_, path := save(t, h)
	plan := planOf(t, h, path)
	if _, err := Restore(t.Context(), h.Root, plan, h, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(h.Root.Snapshots()); err != nil {
		t.Fatal(err)
	}
	drill("restored with raised revisions")
	put(t, h, "a", "f")
	drill("and written to")
}

func TestDrillNoticesWhatIsNoObject(t *testing.T) {
	for name, tc := range map[string]struct{ key, value, want string }{
		"cut off":      {"/registry/pods/default/a", kubernetesObject(t, "Pod", "default", "a")[:30], "decode"},
		"another name": {"/registry/pods/default/a", kubernetesObject(t, "Pod", "default", "b"), `it is Pod "b"`},
		"namespace":    {"/registry/pods/default/a", kubernetesObject(t, "Pod", "other", "a"), `of namespace "other"`},
		"no JSON":      {"/registry/example.com/widgets/a", `{"kind":`, "no JSON"},
		"opened":       {"/registry/secrets/default/a", sealedWith + kubernetesObject(t, "Secret", "default", "c"), `it is Secret "c"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startHost(t)
			client := h.client(t)
			defer client.Close()
			if _, err := client.Put(t.Context(), tc.key, tc.value); err != nil {
				t.Fatal(err)
			}
			_, path := save(t, h)
			report, err := Drill(t.Context(), h.drillOptions(t, path))
			if err == nil || !strings.Contains(err.Error(), tc.want) || report.Failed != DrillCompare || report.Good() {
				t.Errorf("error %v, report %+v", err, report)
			}
			checkNothingLeft(t, h.Root.Scratch())
		})
	}
}

func TestDrillRefuses(t *testing.T) {
	h := startHost(t)
	put(t, h, "a")
	_, path := save(t, h)
	inside := h.drillOptions(t, path)
	inside.Scratch = filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(h.Root.EtcdData(), "member"), inside.Scratch); err != nil {
		t.Fatal(err)
	}
	if _, err := Drill(t.Context(), inside); err == nil || !strings.Contains(err.Error(), "which is in use") {
		t.Errorf("inside of live data: %v", err)
	}
	full := h.drillOptions(t, path)
	full.Reserve = 100
	if report, err := Drill(t.Context(), full); err == nil || !strings.Contains(err.Error(), "free some space") || report.Failed != DrillVerify {
		t.Errorf("where all has to stay free: %v, %+v", err, report)
	}
	opts := h.drillOptions(t, path)
	opts.Step = func(step string) {
		if step != DrillCompare {
			return
		}
		if busy, err := Drilling(opts.Scratch); !busy || err != nil {
			t.Errorf("no drill is seen: %v", err)
		}
		if _, err := Drill(t.Context(), h.drillOptions(t, path)); !errors.Is(err, ErrBusy) {
			t.Errorf("a second one: %v", err)
		}
		if err := CleanDrills(opts.Scratch); err != nil {
			t.Error(err)
		}
	}
	if _, err := Drill(t.Context(), opts); err != nil {
		t.Error(err)
	}
	damaged := h.drillOptions(t, path)
	flip(t, path, 9000)
	if report, err := Drill(t.Context(), damaged); !errors.Is(err, ErrHashMismatch) || report.Failed != DrillVerify {
		t.Errorf("a damaged snapshot: %v, %+v", err, report)
	}
	checkNothingLeft(t, opts.Scratch)
}

func flip(t testing.TB, path string, at int64) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[at] ^= 1
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// killedDrill is a drill in a process of its own, which dies as a step begins.
type killedDrill struct {
	Snapshot, Scratch, Program, At string
}

func runDrill(config []byte) error {
	var k killedDrill
	if err := json.Unmarshal(config, &k); err != nil {
		return err
	}
	if err := LowerProcess(); err != nil {
		return err
	}
	_, err := Drill(context.Background(), DrillOptions{
		Snapshot: k.Snapshot, Program: k.Program, Reserve: 1, VerifyOptions: VerifyOptions{OpenOptions: OpenOptions{Scratch: k.Scratch}},
		Step: func(step string) {
			if step == k.At {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
		},
	})
	return err
}

// TestDrillKilledAnywhere kills a drill as each of its steps begins: the etcd that
// it booted goes with it, and the next drill removes what it left.
func TestDrillKilledAnywhere(t *testing.T) {
	h := startHost(t)
	put(t, h, "a")
	_, path := save(t, h)
	scratch := h.Root.Scratch()
	for _, step := range []string{DrillPrepare, DrillVerify, DrillStage, DrillBoot, DrillCompare} {
		cmd, err := selfAs(envDrill, killedDrill{path, scratch, etcdProgram(t), step})
		if err != nil {
			t.Fatal(err)
		}
		out, _ := cmd.CombinedOutput()
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			t.Fatalf("%s: the drill was not killed: %s", step, out)
		}
		eventually(t, "the throwaway to end with its starter", func() error { return nobodyIn(scratch) })
		if err := CleanDrills(scratch); err != nil {
			t.Errorf("%s: %v", step, err)
		}
		if step != DrillPrepare {
			checkNothingLeft(t, scratch)
		}
		if _, err := Drill(t.Context(), h.drillOptions(t, path)); err != nil {
			t.Errorf("after one that was killed at %s: %v", step, err)
		}
	}
	checkNothingLeft(t, scratch)
}

// nobodyIn is an error where a process works in a folder below the given one.
func nobodyIn(dir string) error {
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		return err
	}
	for _, link := range links {
		if cwd, err := os.Readlink(link); err == nil && strings.HasPrefix(cwd, dir+"/") {
			return fmt.Errorf("%s is %s", link, cwd)
		}
	}
	return nil
}

func TestRecordOfDrills(t *testing.T) {
	h := newHost(t)
	if _, ok, err := ReadDrills(h.Root); ok || err != nil {
		t.Fatalf("%t, %v", ok, err)
	}
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	good := DrillReport{Snapshot: "a", Began: began, Ended: began.Add(time.Minute), Seconds: DrillSeconds{Fetch: 1, Verify: 2, Stage: 3, Boot: 4, Compare: 5}}
	running := DrillReport{Snapshot: "b", Began: began.Add(time.Hour)}
	for _, report := range []DrillReport{good, running} {
		if err := RecordDrill(h.Root, report); err != nil {
			t.Fatal(err)
		}
	}
	record, ok, err := ReadDrills(h.Root)
	if !ok || err != nil || record.Last.Snapshot != "b" || record.Last.Good() || record.Good == nil || record.Good.Snapshot != "a" {
		t.Errorf("%+v, %t, %v", record, ok, err)
	}
	content, err := os.ReadFile(h.Root.Drills())
	if err != nil || !strings.Contains(string(content), `"rtoSeconds": 10`) {
		t.Errorf("%s, %v", content, err)
	}
	if info, err := os.Stat(h.Root.Drills()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestAvailableMemory(t *testing.T) {
	if got, err := availableMemory([]byte("MemTotal: 100 kB\nMemAvailable:   24 kB\n")); got != 24<<10 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
	if _, err := availableMemory([]byte("MemTotal: 100 kB\n")); err == nil {
		t.Error("no error")
	}
}
