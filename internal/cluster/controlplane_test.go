package cluster_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/kube"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/units"
	"github.com/nodeagent/nodeagent/test/certs"
	"github.com/nodeagent/nodeagent/test/servers"
)

// controlPlane is a real etcd, kube-apiserver, kube-controller-manager and
// kube-scheduler on loopback, run with the command lines and files that package
// kube renders.
type controlPlane struct {
	spec *hosts.Spec
	root layout.Root
	// clients is the CA of client certificates.
	clients certs.Pair
}

// programs is the folder with the real components, which test/servers builds.
func programs(t *testing.T) string {
	t.Helper()
	cache := os.Getenv("NODEAGENT_CACHE")
	if cache == "" {
		cache = filepath.Join("..", "..", ".cache")
	}
	files, err := filepath.Glob(filepath.Join(cache, "programs", "*[0-9a-f]", layout.APIServer))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		why := "the real components are not in " + cache + "; run: go run ./test/servers/build"
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	dir, err := filepath.Abs(filepath.Dir(files[0]))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// startControlPlane starts the components one after another, each when those
// before it are ready by their own probe.
func startControlPlane(t *testing.T) controlPlane {
	t.Helper()
	if testing.Short() {
		t.Skip("runs a whole control plane; left out by -short")
	}
	dir := programs(t)
	root := layout.Root(t.TempDir())
	spec := loopbackSpec(t, dir)
	plane := controlPlane{spec: spec, root: root, clients: putPKI(t, root)}
	state := kube.Render(spec, root, kube.Facts{})
	for _, file := range state.Files {
		certs.Put(t, file.Path, file.Content)
	}
	for _, folder := range []string{filepath.Dir(root.EtcdData()), root.EtcdRuntime(), filepath.Join(string(root), "var/log/kubernetes"), filepath.Join(root.State(), layout.ControllerManager)} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, unit := range state.Units {
		start := time.Now()
		run(t, unit)
		waitHealthy(t, unit)
		t.Logf("%s was ready after %s", unit.Name, time.Since(start).Round(10*time.Millisecond))
	}
	return plane
}

// loopbackSpec is a control plane on loopback, on ports that nobody uses.
func loopbackSpec(t *testing.T, binaries string) *hosts.Spec {
	t.Helper()
	ports := freePorts(t, 6)
	return &hosts.Spec{
		Name: "a", Cluster: "test", Domain: "cluster.local",
		Roles:   []hosts.Role{hosts.RoleControlPlane, hosts.RoleEtcd},
		Address: netip.MustParseAddr("127.0.0.1"),
		Kubernetes: hosts.Kubernetes{
			Version:      "1.36.3",
			PodRange:     netip.MustParsePrefix("10.244.0.0/16"),
			ServiceRange: netip.MustParsePrefix("10.96.0.0/12"),
			APIPort:      ports[0],
			Endpoint:     "127.0.0.1:" + strconv.Itoa(ports[0]),
			CNI:          "none",
			Binaries:     binaries,
			ExtraArgs: map[string]map[string]string{
				layout.Etcd:              {"listen-metrics-urls": "http://127.0.0.1:" + strconv.Itoa(ports[3]), "unsafe-no-fsync": "true"},
				layout.APIServer:         {"bind-address": "127.0.0.1"},
				layout.ControllerManager: {"secure-port": strconv.Itoa(ports[4])},
				layout.Scheduler:         {"secure-port": strconv.Itoa(ports[5])},
			},
		},
		Etcd: hosts.Etcd{
			QuotaBytes: 1 << 30, ClientPort: ports[1], PeerPort: ports[2],
			HeartbeatInterval: 100 * time.Millisecond, ElectionTimeout: time.Second,
		},
	}
}

func freePorts(t *testing.T, n int) []int {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		ports[i] = servers.ReservePort(t)
	}
	return ports
}

// run starts what a unit's ExecStart says and stops it at the end of the test.
func run(t *testing.T, unit units.Unit) {
	t.Helper()
	_, rest, _ := strings.Cut(unit.Content, "\nExecStart=")
	var words []string
	for line := range strings.Lines(rest) {
		word, more := strings.CutSuffix(strings.TrimSpace(line), `\`)
		words = append(words, strings.TrimSpace(word))
		if !more {
			break
		}
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	// The components must not outlive a test that is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
		if t.Failed() {
			content, _ := os.ReadFile(log.Name())
			t.Logf("%s, its last output:\n%s", unit.Name, content[max(0, len(content)-3000):])
		}
	})
}

// waitHealthy asks the unit's probe.
func waitHealthy(t *testing.T, unit units.Unit) {
	t.Helper()
	probe := unit.Ready
	client := probeClient(t, *probe)
	deadline := time.Now().Add(2 * time.Minute)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for last := ""; ; <-tick.C {
		response, err := client.Get(probe.URL)
		if err == nil {
			last = response.Status
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return
			}
		} else {
			last = err.Error()
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not ready at %s: %s", unit.Name, probe.URL, last)
		}
	}
}

func probeClient(t *testing.T, probe units.Probe) *http.Client {
	t.Helper()
	config := &tls.Config{RootCAs: bundle(t, probe.CA), ServerName: probe.ServerName}
	if probe.Cert != "" {
		pair, err := tls.LoadX509KeyPair(probe.Cert, probe.Key)
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	transport := &http.Transport{TLSClientConfig: config}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

func bundle(t *testing.T, file string) *x509.CertPool {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		t.Fatalf("no certificate in %s", file)
	}
	return pool
}

// superuser gives a new certificate of group system:masters.
func (p controlPlane) superuser(t *testing.T) func(context.Context) (tls.Certificate, error) {
	return func(context.Context) (tls.Certificate, error) {
		return p.clients.Issue(t, "kubernetes-super-admin", inGroups("system:masters")).TLS(), nil
	}
}

// anonymous asks for a path without a client certificate.
func (p controlPlane) anonymous(t *testing.T, path string) int {
	t.Helper()
	client := probeClient(t, units.Probe{CA: p.root.Trust(layout.CAK8sServer)})
	response, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d%s", p.spec.Kubernetes.APIPort, path))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}
