package etcdops

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nodeagent/nodeagent/internal/layout"
)

func (h *host) restoreOptions(snapshot string) RestoreOptions {
	return RestoreOptions{
		Root: h.Root, Snapshot: snapshot, Cluster: "mercury", Host: "m1", Members: h.Members,
		TLS: h.Files, Endpoint: h.endpoint(),
		Stop: []string{layout.APIServer}, Restart: []string{layout.Kubelet}, HealthTimeout: 20 * time.Second,
	}
}

func planOf(t testing.TB, h *host, snapshot string) RestorePlan {
	t.Helper()
	plan, err := PlanRestore(t.Context(), h.restoreOptions(snapshot))
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// calls are what was asked of the units since the last time.
func (h *host) calls(t testing.TB) []string {
	t.Helper()
	content, err := os.ReadFile(h.file("calls"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.file("calls"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(content)), "\n")
}

// files are the names in the folder around etcd's data.
func (h *host) files(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir(etcdDir(h.Root))
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestRestoreBringsTheSnapshotBack(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	put(t, h, "a", "b", "gone")
	client := h.client(t)
	defer client.Close()
	if _, err := client.Delete(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	m, path := save(t, h)
	put(t, h, "later", "a")
	plan := planOf(t, h, path)
	if plan.LostFrom != m.Revision+1 || plan.LostTo != m.Revision+2 || !plan.HadData {
		t.Errorf("plan loses %d to %d, had data %v", plan.LostFrom, plan.LostTo, plan.HadData)
	}
	h.calls(t)
	var steps []string
	result, err := Restore(t.Context(), h.Root, plan, h, func(e Event) {
		if e.Text != "" && !slices.Contains(steps, e.Step) {
			steps = append(steps, e.Step)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	wantCalls := []string{"stop kube-apiserver", "stop etcd", "start etcd", "start kube-apiserver", "stop kubelet", "start kubelet"}
	if diff := cmp.Diff(wantCalls, h.calls(t)); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{StepStage, StepStop, StepSwap, StepStart, StepProve, StepClients}, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"a", "b"}, keysOf(t, h)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if want := m.Revision + DefaultRevisionBump; result.Revision != want || result.Keys != 2 {
		t.Errorf("revision %d and %d keys, want %d and 2", result.Revision, result.Keys, want)
	}

	// An old revision is compacted, for a read and for a watch.
	if _, err := client.Get(t.Context(), "a", clientv3.WithRev(m.Revision)); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("read at an old revision: %v, want %v", err, rpctypes.ErrCompacted)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if response := <-client.Watch(ctx, "a", clientv3.WithRev(m.Revision+1)); !errors.Is(response.Err(), rpctypes.ErrCompacted) || response.CompactRevision < m.Revision {
		t.Errorf("watch from an old revision: %v", response.Err())
	}
	// A new watch and new writes work.
	watch := client.Watch(ctx, "fresh")
	put(t, h, "fresh")
	if response := <-watch; response.Err() != nil || len(response.Events) != 1 {
		t.Errorf("new watch: %+v", response)
	}

	// The old data is kept whole, nothing else is left.
	if result.KeptOld != plan.AsideDir {
		t.Errorf("kept %q, want %q", result.KeptOld, plan.AsideDir)
	}
	old, err := Verify(t.Context(), filepath.Join(result.KeptOld, "member", "snap", "db"), VerifyOptions{SkipHash: true})
	if err != nil || old.Keys != 3 {
		t.Errorf("old data has %d keys, %v; want 3", old.Keys, err)
	}
	want := []string{"data", filepath.Base(plan.AsideDir), "initialised", "restore-tokens", "restore.lock"}
	if diff := cmp.Diff(want, h.files(t)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	err = filepath.WalkDir(plan.DataDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}

	// A snapshot of the restored cluster counts right, and restores as well.
	m2, path2 := save(t, h)
	if m2.Keys != 3 || m2.ClusterID == m.ClusterID {
		t.Errorf("second snapshot: %d keys, cluster %s after %s", m2.Keys, m2.ClusterID, m.ClusterID)
	}
	put(t, h, "later still")
	result, err = Restore(t.Context(), h.Root, planOf(t, h, path2), h, nil)
	if err != nil || result.Keys != 3 || result.Revision <= 2*DefaultRevisionBump {
		t.Errorf("second restore: %+v, %v", result, err)
	}
}

func TestRestoreOfWipedData(t *testing.T) {
	t.Parallel()
	for _, folder := range []bool{false, true} {
		t.Run(fmt.Sprintf("empty folder there %v", folder), func(t *testing.T) {
			t.Parallel()
			h := startHost(t)
			if err := MarkInitialised(h.Root, time.Now()); err != nil {
				t.Fatal(err)
			}
			put(t, h, "a")
			_, path := save(t, h)
			put(t, h, "b")
			h.wipe(t, folder)
			if err := h.permit(t); !errors.Is(err, ErrDataLost) || !strings.Contains(err.Error(), "snapshot restore") {
				t.Errorf("guard: %v, want %v with a remedy", err, ErrDataLost)
			}
			plan := planOf(t, h, path)
			if plan.HadData {
				t.Error("the plan sees data")
			}
			result, err := Restore(t.Context(), h.Root, plan, h, nil)
			if err != nil || result.KeptOld != "" {
				t.Fatalf("kept %q, %v", result.KeptOld, err)
			}
			if diff := cmp.Diff([]string{"a"}, keysOf(t, h)); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{"data", "initialised", "restore-tokens", "restore.lock"}, h.files(t)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if err := h.permit(t); err != nil {
				t.Error(err)
			}
		})
	}
}

func (h *host) wipe(t testing.TB, keepFolder bool) {
	t.Helper()
	if err := h.Stop(t.Context(), layout.Etcd); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(h.Root.EtcdData()); err != nil {
		t.Fatal(err)
	}
	if keepFolder {
		if err := os.Mkdir(h.Root.EtcdData(), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRestoreKeepsRevisionsWhereAsked(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	put(t, h, "a", "b")
	m, path := save(t, h)
	put(t, h, "c")
	opts := h.restoreOptions(path)
	opts.KeepRevision = true
	plan, err := PlanRestore(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	result, err := Restore(t.Context(), h.Root, plan, h, nil)
	if err != nil || result.Revision != m.Revision || result.Keys != 2 {
		t.Errorf("revision %d with %d keys, %v; want %d with 2", result.Revision, result.Keys, err, m.Revision)
	}
}

// TestRestoreAfterCompaction restores where the last change is a deletion that
// was compacted away, and where nothing was ever written.
func TestRestoreAfterCompaction(t *testing.T) {
	t.Parallel()
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprintf("keep revision %v", keep), func(t *testing.T) {
			t.Parallel()
			h := startHost(t)
			client := h.client(t)
			defer client.Close()
			restore := func(want int64) {
				_, path := save(t, h)
				opts := h.restoreOptions(path)
				opts.KeepRevision = keep
				plan, err := PlanRestore(t.Context(), opts)
				if err != nil {
					t.Fatal(err)
				}
				if result, err := Restore(t.Context(), h.Root, plan, h, nil); err != nil || result.Keys != want {
					t.Fatalf("%d keys, %v; want %d", result.Keys, err, want)
				}
			}
			restore(0)
			put(t, h, "a", "b", "c")
			gone, err := client.Delete(t.Context(), "c")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := client.Compact(t.Context(), gone.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
				t.Fatal(err)
			}
			restore(2)
		})
	}
}

func TestRestoreGivesTheOldDataBack(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	put(t, h, "a")
	_, path := save(t, h)
	put(t, h, "b")
	before := h.files(t)
	plan := planOf(t, h, path)
	h.RefuseRestored = "unit failed"
	_, err := Restore(t.Context(), h.Root, plan, h, nil)
	if err == nil || !strings.Contains(err.Error(), "unit failed") || !errors.Is(err, errReverted) {
		t.Fatalf("error %v", err)
	}
	h.waitHealthy(t)
	if diff := cmp.Diff([]string{"a", "b"}, keysOf(t, h)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(append(before, "restore-tokens", "restore.lock"), h.files(t)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// TestRestoreEndsWithItsContext cancels at each event: before the proof all is as
// it was, after it the restore stands.
func TestRestoreEndsWithItsContext(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	put(t, h, "a")
	_, path := save(t, h)
	put(t, h, "b")
	for n := 1; ; n++ {
		plan := planOf(t, h, path)
		ctx, cancel := context.WithCancel(t.Context())
		seen, last := 0, ""
		_, err := Restore(ctx, h.Root, plan, h, func(e Event) {
			if e.Text == "" {
				return
			}
			if seen++; seen == n {
				last = e.Step + ": " + e.Text
				cancel()
			}
		})
		cancel()
		h.waitHealthy(t)
		want := []string{"a", "b"}
		if err == nil {
			want = []string{"a"}
		}
		if diff := cmp.Diff(want, keysOf(t, h)); diff != "" {
			t.Fatalf("cancelled at %q (%v): keys (-want +got):\n%s", last, err, diff)
		}
		if busy, err := RestoreInProgress(h.Root); busy || err != nil {
			t.Fatalf("cancelled at %q: journal is there, %v", last, err)
		}
		if err == nil {
			if n < 7 {
				t.Errorf("a restore cancelled at %q succeeded", last)
			}
			return
		}
	}
}

func TestPlanRestoreRefuses(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	put(t, h, "a")
	_, path := save(t, h)
	fake := filepath.Join(t.TempDir(), "etcd")
	if err := os.WriteFile(fake, []byte("#!/bin/sh\necho 'etcd Version: 3.5.9'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	two := append(slices.Clone(h.Members), Member{Name: "m2", PeerURL: "https://127.0.0.1:2", ClientURL: h.endpoint()})
	aside := h.Root.EtcdData() + ".before-restore-20260101T000000Z"
	if err := os.MkdirAll(filepath.Join(aside, "member"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writeMark(aside, RestorePlan{ID: "1", Token: "spent"}); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change func(*RestoreOptions)
		want   string
	}{
		"no such file":         {func(o *RestoreOptions) { o.Snapshot += "x" }, "no such file"},
		"not a member":         {func(o *RestoreOptions) { o.Host = "m9" }, "no etcd member"},
		"other cluster":        {func(o *RestoreOptions) { o.Cluster = "venus" }, `of cluster "mercury"`},
		"another member lives": {func(o *RestoreOptions) { o.Members, o.Token = two, "t" }, "still answers"},
		"older etcd": {func(o *RestoreOptions) {
			o.Snapshot, o.EtcdBinary = writeFile(t, withTrailer(makeDB(t, 1, false))), fake
		}, "data format of etcd 3.7"},
		"the first token":  {func(o *RestoreOptions) { o.Token = "mercury" }, "is not new"},
		"an earlier token": {func(o *RestoreOptions) { o.Token = "spent" }, "is not new"},
		"no etcd":          {func(o *RestoreOptions) { o.EtcdBinary = "/nonexistent/etcd" }, "ask \"/nonexistent/etcd\""},
	} {
		t.Run(name, func(t *testing.T) {
			opts := h.restoreOptions(path)
			tc.change(&opts)
			before := h.files(t)
			if _, err := PlanRestore(t.Context(), opts); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			if diff := cmp.Diff(before, h.files(t)); diff != "" {
				t.Errorf("planning changed files:\n%s", diff)
			}
		})
	}
}

func TestRestoreRefusesAStalePlan(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	put(t, h, "a")
	_, path := save(t, h)
	plan := planOf(t, h, path)
	h.calls(t)

	if err := os.Chtimes(path, time.Now(), time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), h.Root, plan, h, nil); err == nil || !strings.Contains(err.Error(), "was changed") {
		t.Errorf("changed snapshot: %v", err)
	}
	plan = planOf(t, h, path)
	held, err := Lock(restoreLock(h.Root))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), h.Root, plan, h, nil); !errors.Is(err, ErrBusy) {
		t.Errorf("second restore: %v, want %v", err, ErrBusy)
	}
	if err := held(); err != nil {
		t.Fatal(err)
	}
	if err := writeJournal(h.Root, journal{Phase: phaseStaging, Plan: plan}); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), h.Root, plan, h, nil); !errors.Is(err, ErrRestoreInterrupted) {
		t.Errorf("with a journal: %v, want %v", err, ErrRestoreInterrupted)
	}
	if _, err := PlanRestore(t.Context(), h.restoreOptions(path)); !errors.Is(err, ErrRestoreInterrupted) {
		t.Errorf("plan with a journal: %v, want %v", err, ErrRestoreInterrupted)
	}
	if err := os.Remove(journalPath(h.Root)); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{plan.AsideDir, plan.StagedDir} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := Restore(t.Context(), h.Root, plan, h, nil); err == nil || !strings.Contains(err.Error(), "appeared since") {
			t.Errorf("with %q: %v", dir, err)
		}
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	}
	if calls := h.calls(t); !cmp.Equal(calls, []string{""}) {
		t.Errorf("units were touched: %v", calls)
	}
}

// TestRestoreNoticesAnEtcdOfSomebodyElse: the unit is stopped, yet a process
// holds the data.
func TestRestoreNoticesAnEtcdOfSomebodyElse(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	put(t, h, "a")
	_, path := save(t, h)
	plan := planOf(t, h, path)
	if err := os.Rename(h.file("etcd.pid"), h.file("hidden.pid")); err != nil {
		t.Fatal(err)
	}
	_, err := Restore(t.Context(), h.Root, plan, noStart{h}, nil)
	if err == nil || !strings.Contains(err.Error(), "still has") {
		t.Errorf("error %v", err)
	}
	if exists(plan.StagedDir) {
		t.Error("staged data is left")
	}
	if err := os.Rename(h.file("hidden.pid"), h.file("etcd.pid")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a"}, keysOf(t, h)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
}

// noStart is a host whose etcd runs outside of its units.
type noStart struct{ *host }

func (noStart) Start(context.Context, string) error { return nil }

func TestPlanText(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	put(t, h, "a")
	_, path := save(t, h)
	plan := planOf(t, h, path)
	var text bytes.Buffer
	if err := plan.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{path, plan.StagedDir, plan.AsideDir, plan.Token, "stop kube-apiserver, then etcd", "restart kubelet", "revision 1000000002 and 1 keys", "etcd runs on this host at revision 2"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
	again := planOf(t, h, path)
	if again.Token == plan.Token || again.ID == plan.ID {
		t.Error("two plans share a token")
	}
	encoded, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	var decoded RestorePlan
	if err := json.Unmarshal(encoded, &decoded); err != nil {
		t.Fatal(err)
	}
	// How the snapshot is opened holds keys, and stays in the process that planned.
	if diff := cmp.Diff(plan, decoded, cmpopts.IgnoreUnexported(RestorePlan{})); diff != "" {
		t.Errorf("plan through JSON:\n%s", diff)
	}
}

// The encryption key is not in a snapshot: where the Secrets that a
// restore brings back could not be read it is refused, unless somebody says so.
func TestPlanRefusesWithoutTheEncryptionKey(t *testing.T) {
	t.Parallel()
	h := startHost(t)
	client := h.client(t)
	defer client.Close()
	put(t, h, "a")
	_, plain := save(t, h)
	if _, err := client.Put(t.Context(), "/registry/secrets/ns/s", "k8s:enc:secretbox:v1:key1:\x01\x02"); err != nil {
		t.Fatal(err)
	}
	_, unnamed := save(t, h)
	opts := h.saveOptions()
	opts.Surroundings.EncryptionKeys = []EncryptionKey{{Provider: "secretbox", Name: "key1", ID: "sha256:aa"}}
	m, err := Save(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	bare := filepath.Join(t.TempDir(), "old.db") // as etcdctl leaves one, without a manifest
	content, err := os.ReadFile(unnamed)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bare, content, 0o600); err != nil {
		t.Fatal(err)
	}
	named := func(name string) Surroundings {
		return Surroundings{EncryptionKeys: []EncryptionKey{{Provider: "secretbox", Name: name, ID: "sha256:bb"}}}
	}
	for name, tc := range map[string]struct {
		snapshot string
		own      []string
		want     string
	}{
		"nothing is encrypted":       {plain, nil, ""},
		"no manifest, another name":  {bare, []string{"sha256:bb"}, "with secretbox key1, it has secretbox key2"},
		"no manifest, the same name": {bare, []string{"sha256:bb"}, "encrypted with secretbox key1: if that is not"},
		"the same key":               {m.Path(opts.Dir), []string{"sha256:bb", "sha256:aa"}, ""},
		"another key":                {m.Path(opts.Dir), []string{"sha256:bb"}, "with sha256:aa, it has sha256:bb"},
		"no key":                     {m.Path(opts.Dir), nil, "it has none"},
		"a dropped key":              {m.Path(opts.Dir), []string{"sha256:cc"}, "put it from /retired"},
		"a key that is not named":    {unnamed, []string{"sha256:bb"}, "encrypted with secretbox key1: if that is not"},
	} {
		opts := h.restoreOptions(tc.snapshot)
		opts.EncryptionKeys = tc.own
		switch name {
		case "no manifest, another name":
			opts.Surroundings = named("key2")
		case "no manifest, the same name":
			opts.Surroundings = named("key1")
		case "a dropped key":
			opts.RetiredKeys, opts.RetiredFile = []string{"sha256:aa"}, "/retired"
		}
		plan, err := PlanRestore(t.Context(), opts)
		if refused := tc.want != "" && tc.want != "encrypted with secretbox key1: if that is not"; refused {
			if !errors.Is(err, ErrKeyMissing) || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "--unreadable-secrets") {
				t.Errorf("%s: error %v, want %q", name, err, tc.want)
			}
			opts.UnreadableSecrets = true
			plan, err = PlanRestore(t.Context(), opts)
		}
		if err != nil {
			t.Fatal(err)
		}
		warned := strings.Join(plan.Warnings, "\n")
		if tc.want == "" && strings.Contains(warned, "encrypted") || !strings.Contains(warned, tc.want) {
			t.Errorf("%s: warnings %q, want %q", name, warned, tc.want)
		}
	}
}
