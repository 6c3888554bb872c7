package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/test/servers"
)

// measuredHost is a host of the fleet mercury in a folder, of which something is
// known: a converge, a drill that was good and one that failed after it, a
// scheduled snapshot. Its etcd does not answer.
func measuredHost(t *testing.T) *Host {
	t.Helper()
	fleet, err := hosts.Load("../hosts/fleets/mercury")
	if err != nil {
		t.Fatal(err)
	}
	spec := *fleet.Hosts[0]
	spec.Snapshots.Destination = t.TempDir()
	spec.Drift = map[string]hosts.Drift{DomainNetwork: hosts.DriftReport}
	h := &Host{root: layout.Root(t.TempDir()), log: slog.New(slog.DiscardHandler)}
	h.spec.Store(&spec)
	if err := etcdops.MarkInitialised(h.root, time.Now()); err != nil {
		t.Fatal(err)
	}
	began := time.Now().Add(-48 * time.Hour).UTC().Truncate(time.Second)
	for _, r := range []etcdops.DrillReport{
		{Began: began, Ended: began.Add(time.Minute), Taken: began.Add(-time.Hour), RPOSeconds: 3600, WorstRPOSeconds: 21600, Seconds: etcdops.DrillSeconds{Verify: 1, Stage: 2, Boot: 0.5, Compare: 4}},
		{Began: began.Add(time.Hour), Failed: etcdops.DrillBoot, Error: "it ended"},
	} {
		if err := etcdops.RecordDrill(h.root, r); err != nil {
			t.Fatal(err)
		}
	}
	h.figures.converged(Result{{Domain: DomainKernel, Applied: 3}, {Domain: DomainNetwork}, {Domain: DomainPKI, Remaining: []plan.Change{{}}}}, began)
	h.figures.drifted(DomainNetwork, 2)
	h.figures.saved(1500*time.Millisecond, nil)
	h.figures.saved(0, fmt.Errorf("etcd is away"))
	return h
}

// scrape asks the server for its metrics and reads them as Prometheus does.
func scrape(t *testing.T, url string) map[string]*dto.MetricFamily {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(answer.Body)
		t.Fatalf("%s: %s", answer.Status, body)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// figuresOf are a family's values by their labels: "kernel converged".
func figuresOf(f *dto.MetricFamily) map[string]float64 {
	found := map[string]float64{}
	for _, m := range f.GetMetric() {
		var labels []string
		for _, l := range m.GetLabel() {
			labels = append(labels, l.GetValue())
		}
		found[strings.Join(labels, " ")] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	return found
}

func freeAddress(t *testing.T) netip.AddrPort {
	t.Helper()
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(servers.ReservePort(t)))
}

func TestMetricsAreServed(t *testing.T) {
	h := measuredHost(t)
	at := freeAddress(t)
	spec := *h.Spec()
	spec.Metrics.Listen = at
	h.spec.Store(&spec)
	var server metricsServer
	server.follow(t.Context(), h, "1.2.3")
	defer server.stop()
	url := "http://" + at.String() + "/metrics"
	waitFor(t, url)
	families := scrape(t, url)
	for name, want := range map[string]map[string]float64{
		"nodeagent_spec_valid":                     {"": 1},
		"nodeagent_domain_converged":               {DomainKernel: 1, DomainNetwork: 1, DomainPKI: 0},
		"nodeagent_converges_total":                {"kernel converged": 1, "kernel failed": 0, "network converged": 1, "network failed": 0, "pki converged": 0, "pki failed": 1},
		"nodeagent_changes_total":                  {DomainKernel: 3, DomainNetwork: 0, DomainPKI: 0},
		"nodeagent_domain_drift_changes":           {DomainNetwork: 2},
		"nodeagent_etcd_answers":                   {"": 0},
		"nodeagent_etcd_healthy":                   {"": 0},
		"nodeagent_etcd_snapshots":                 {"": 0},
		"nodeagent_etcd_snapshots_taken_total":     {"good": 1, "failed": 1},
		"nodeagent_etcd_snapshot_duration_seconds": {"": 1.5},
		"nodeagent_etcd_drill_success":             {"": 0},
		"nodeagent_etcd_drill_rpo_seconds":         {"": 3600},
		"nodeagent_etcd_drill_worst_rpo_seconds":   {"": 21600},
		"nodeagent_etcd_drill_rto_seconds":         {"": 3.5},
		"nodeagent_etcd_drill_step_seconds":        {"fetch": 0, "verify": 1, "stage": 2, "boot": 0.5, "compare": 4},
	} {
		got := figuresOf(families[name])
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	for _, name := range []string{"nodeagent_build_info", "nodeagent_spec_info", "nodeagent_certificate_usable", "go_goroutines", "process_resident_memory_bytes"} {
		if families[name] == nil {
			t.Errorf("no %s", name)
		}
	}
	if other, err := http.Get("http://" + at.String() + "/"); err != nil || other.StatusCode != http.StatusNotFound {
		t.Errorf("another path: %v, %v", other, err)
	}
	off := spec
	off.Metrics.Listen = netip.AddrPort{}
	h.spec.Store(&off)
	server.follow(t.Context(), h, "1.2.3")
	if _, err := net.Dial("tcp", at.String()); err == nil {
		t.Error("served although the spec says no more")
	}
}

// waitFor waits until somebody listens.
func waitFor(t *testing.T, url string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		answer, err := http.Get(url)
		if err == nil {
			answer.Body.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// TestMetricsOfAnEtcd asks a host whose member is a real one.
func TestMetricsOfAnEtcd(t *testing.T) {
	h := measuredHost(t)
	cluster := startEtcdCluster(t)
	files := EtcdTLS(h.root)
	for to, from := range map[string]string{files.Cert: cluster.files.Cert, files.Key: cluster.files.Key, files.CA: cluster.files.CA} {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	spec := *h.Spec()
	at := netip.MustParseAddrPort(strings.TrimPrefix(cluster.endpoint(0), "https://"))
	spec.Etcd.ClientPort = int(at.Port())
	h.spec.Store(&spec)
	if err := os.MkdirAll(spec.Snapshots.Destination, 0o700); err != nil {
		t.Fatal(err)
	}
	site := etcdops.Site{TLS: cluster.files, Members: []etcdops.Member{{Name: "m0", ClientURL: cluster.endpoint(0), PeerURL: "http://127.0.0.1:1"}}, Self: "m0"}
	m, err := etcdops.Save(t.Context(), etcdops.SaveOptions{Dir: spec.Snapshots.Destination, Cluster: spec.Cluster, Host: spec.Name, Site: site, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newMetrics(h, "1.2.3"))
	list, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	families := map[string]*dto.MetricFamily{}
	for _, f := range list {
		families[f.GetName()] = f
	}
	for name, want := range map[string]map[string]float64{
		"nodeagent_etcd_answers":                    {"": 1},
		"nodeagent_etcd_healthy":                    {"": 1},
		"nodeagent_etcd_has_leader":                 {"": 1},
		"nodeagent_etcd_members":                    {"voter": 3, "learner": 0},
		"nodeagent_etcd_snapshots":                  {"": 1},
		"nodeagent_etcd_snapshot_revision":          {"": float64(m.Revision)},
		"nodeagent_etcd_snapshot_stored_bytes":      {"": float64(m.Stored.Size)},
		"nodeagent_etcd_snapshot_timestamp_seconds": {"host": float64(m.Taken.Unix())},
	} {
		if got := figuresOf(families[name]); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if bytes := figuresOf(families["nodeagent_etcd_database_bytes"])[""]; bytes < 4096 {
		t.Errorf("a database of %v bytes", bytes)
	}
}

// TestMetricsAreNamedWell holds names and helps against Prometheus' own rules.
func TestMetricsAreNamedWell(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newMetrics(measuredHost(t), "1.2.3"))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for _, f := range families {
		if help := f.GetHelp(); !strings.HasSuffix(help, ".") || len(help) < 20 {
			t.Errorf("%s: help %q", f.GetName(), help)
		}
	}
}

// TestEachMetricIsListed keeps the list for the registry complete: what is sent
// without being on it fails a scrape.
func TestEachMetricIsListed(t *testing.T) {
	all := newDescs().all()
	if slices.Contains(all, nil) {
		t.Error("a metric on the list is not described")
	}
	var names []string
	for _, d := range all {
		names = append(names, d.String())
	}
	slices.Sort(names)
	if n := len(slices.Compact(slices.Clone(names))); n != len(names) {
		t.Errorf("%d of %d metrics are there twice", len(names)-n, len(names))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	serveMetrics(ctx, slog.New(slog.DiscardHandler), freeAddress(t), newMetrics(measuredHost(t), "")) // ends at once
}

// TestMetricsAreDocumented: docs/metrics.md has each metric with its help, and its
// rules name only metrics that there are.
func TestMetricsAreDocumented(t *testing.T) {
	content, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(content)
	known := map[string]bool{}
	for _, d := range newDescs().all() {
		parts := regexp.MustCompile(`fqName: "([^"]+)", help: ("(?:[^"\\]|\\.)*")`).FindStringSubmatch(d.String())
		help, err := strconv.Unquote(parts[2])
		if err != nil {
			t.Fatal(err)
		}
		known[parts[1]] = true
		if row := regexp.MustCompile("(?m)^\\| `" + parts[1] + "` \\|.*\\| " + regexp.QuoteMeta(help) + " \\|$"); !row.MatchString(text) {
			t.Errorf("docs/metrics.md has no row of %s with the help %q", parts[1], help)
		}
	}
	for _, name := range regexp.MustCompile(`nodeagent_[a-z_]+`).FindAllString(text, -1) {
		if !known[name] {
			t.Errorf("docs/metrics.md names %s, which there is not", name)
		}
	}
}
