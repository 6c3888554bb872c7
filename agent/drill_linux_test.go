package agent

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/etcdmain"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// envRoot is the host's root folder for the test binary that runs itself as
// `nodeagent snapshot drill`.
const envRoot = "NODEAGENT_TEST_DRILL_ROOT"

// TestMain lets the test binary be etcd's program, and nodeagent's for a drill.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "--name="):
		etcdmain.Main(os.Args)
	case os.Getenv(envRoot) != "":
		if err := drillProcess(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		os.Exit(m.Run())
	}
}

// drillProcess is what the command line of a drill does.
func drillProcess(args []string) error {
	if len(args) < 2 || args[0] != "snapshot" || args[1] != "drill" {
		return fmt.Errorf("called as %q", args)
	}
	flags := flag.NewFlagSet("drill", flag.ContinueOnError)
	dir, name := flags.String("fleet", "", ""), flags.String("host", "", "")
	if err := errors.Join(flags.Parse(args[2:]), etcdops.LowerProcess()); err != nil {
		return err
	}
	fleet, err := hosts.Load(*dir)
	if err != nil {
		return err
	}
	spec, err := fleet.Host(*name)
	if err != nil {
		return err
	}
	h := &Host{root: layout.Root(os.Getenv(envRoot)), log: slog.New(slog.DiscardHandler)}
	h.spec.Store(spec)
	_, err = h.DrillSnapshot(context.Background(), DrillChoices{Low: true, Reserve: 1})
	return err
}

// drilledHost is a host with a snapshot of a real etcd, and the path of that.
func drilledHost(t *testing.T, settings ...string) (*Host, string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binaries, snapshots, files := t.TempDir(), t.TempDir(), t.TempDir()
	if err := os.Symlink(self, filepath.Join(binaries, layout.Etcd)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"cluster.toml": fmt.Sprintf("[cluster]\nname = \"t\"\n[kubernetes]\nbinaries = %q\n[snapshots]\ndestination = %q\n%s", binaries, snapshots, strings.Join(settings, "")),
		"a.toml":       "[host]\nroles = [\"etcd\"]\naddress = \"192.0.2.1\"\n",
	} {
		if err := os.WriteFile(filepath.Join(files, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fleet, err := hosts.Load(files)
	if err != nil {
		t.Fatal(err)
	}
	h := &Host{root: layout.Root(t.TempDir()), log: slog.New(slog.DiscardHandler)}
	h.spec.Store(fleet.Hosts[0])
	if err := keepFleet(h.root, hosts.Source{Dir: files}, fleet.Hosts[0].Digest); err != nil {
		t.Fatal(err)
	}
	cluster := startEtcdCluster(t)
	site := etcdops.Site{TLS: cluster.files, Members: []etcdops.Member{{Name: "m0", ClientURL: cluster.endpoint(0), PeerURL: "http://127.0.0.1:1"}}, Self: "m0"}
	m, err := etcdops.Save(t.Context(), etcdops.SaveOptions{Dir: snapshots, Cluster: "t", Host: "a", Site: site, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return h, m.Path(snapshots)
}

// TestScheduledDrill makes drills as the daemon does: of a snapshot that restores,
// and of the same one after a bit of it has changed.
func TestScheduledDrill(t *testing.T) {
	h, path := drilledHost(t)
	t.Setenv(envRoot, string(h.root))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := makeDrill(t.Context(), h, Settings{Program: self}); err != nil {
		t.Fatal(err)
	}
	record, ok, err := etcdops.ReadDrills(h.root)
	if !ok || err != nil || !record.Last.Good() || record.Last.Snapshot != path || record.Last.WorstRPOSeconds != 21600 {
		t.Fatalf("%+v, %t, %v", record, ok, err)
	}
	status := h.drillStatus(time.Now())
	if status.Problem != "" || status.Running || status.Good == nil || status.Next.IsZero() {
		t.Errorf("%+v", status)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	err = makeDrill(t.Context(), h, Settings{Program: self})
	if err == nil || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("a damaged snapshot: %v", err)
	}
	status = h.drillStatus(time.Now())
	if status.Last.Good() || status.Good == nil || !strings.Contains(status.Problem, "failed (verify)") {
		t.Errorf("after a damaged snapshot: %+v", status)
	}
}

// TestDrillOfACopy drills the newest snapshot of all places, which lies elsewhere.
func TestDrillOfACopy(t *testing.T) {
	t.Parallel()
	away := t.TempDir()
	h, path := drilledHost(t, fmt.Sprintf("[snapshots.copies.away]\nfolder = %q\n", away))
	there := filepath.Join(away, "t", "a")
	if err := os.MkdirAll(filepath.Dir(there), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(h.Spec().Snapshots.Destination, there); err != nil {
		t.Fatal(err)
	}
	var steps []string
	report, err := h.DrillSnapshot(t.Context(), DrillChoices{Reserve: 1, Step: func(step string) { steps = append(steps, step) }})
	if err != nil {
		t.Fatal(err)
	}
	if want := "away:t/a/" + filepath.Base(path); report.Snapshot != want || report.Seconds.Fetch <= 0 || !strings.Contains(fmt.Sprint(steps), "prepare fetch verify") {
		t.Errorf("%+v in steps %v, want %s", report, steps, want)
	}
	if left, err := filepath.Glob(filepath.Join(h.root.Scratch(), "fetched", "*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestSecondDrillIsRefused and leaves the record of the first one alone, which
// tells of a drill that was killed until it has ended.
func TestSecondDrillIsRefused(t *testing.T) {
	t.Parallel()
	h, path := drilledHost(t)
	_, err := h.DrillSnapshot(t.Context(), DrillChoices{Reserve: 1, Step: func(step string) {
		if step != etcdops.DrillCompare {
			return
		}
		if _, err := h.DrillSnapshot(t.Context(), DrillChoices{Reserve: 1}); !errors.Is(err, etcdops.ErrBusy) {
			t.Errorf("a second one: %v", err)
		}
		status := h.drillStatus(time.Now())
		if !status.Running || status.Problem != "" || status.Last.Good() || status.Last.Snapshot != path {
			t.Errorf("while it runs: %+v", status)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	empty, _ := drilledHost(t)
	if err := os.RemoveAll(empty.Spec().Snapshots.Destination); err != nil {
		t.Fatal(err)
	}
	if _, err := empty.DrillSnapshot(t.Context(), DrillChoices{}); !errors.Is(err, errNoSnapshot) {
		t.Errorf("without a snapshot: %v", err)
	}
}
