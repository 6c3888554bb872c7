package etcdops

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdmain"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/test/certs"
	"github.com/nodeagent/nodeagent/test/servers"
)

// The test binary runs itself again as an etcd server, so that etcd is a process
// of its own that outlives a restore which is killed, and as such a restore.
const (
	envEtcd    = "ETCDOPS_TEST_ETCD"
	envRestore = "ETCDOPS_TEST_RESTORE"
	envReplace = "ETCDOPS_TEST_REPLACE"
	envSave    = "ETCDOPS_TEST_SAVE"
	envBench   = "ETCDOPS_TEST_BENCH"
	envDrill   = "ETCDOPS_TEST_DRILL"
)

func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && (os.Args[1] == "--version" || strings.HasPrefix(os.Args[1], "--name=")):
		etcdmain.Main(os.Args) // as etcd's own program, in an environment that tells nothing
	case os.Getenv(envEtcd) != "":
		exit(runEtcd([]byte(os.Getenv(envEtcd))))
	case os.Getenv(envSave) != "":
		exit(runSave([]byte(os.Getenv(envSave))))
	case os.Getenv(envDrill) != "":
		exit(runDrill([]byte(os.Getenv(envDrill))))
	case os.Getenv(envReplace) != "":
		exit(runReplace([]byte(os.Getenv(envReplace))))
	case os.Getenv(envBench) != "":
		exit(runBench([]byte(os.Getenv(envBench))))
	case os.Getenv(envRestore) != "":
		exit(runRestore([]byte(os.Getenv(envRestore))))
	default:
		os.Exit(m.Run())
	}
}

// selfAs is the test binary as what the variable of the environment stands for.
func selfAs(variable string, config any) (*exec.Cmd, error) {
	text, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), variable+"="+string(text))
	return cmd, nil
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// server says how an etcd server is started.
type server struct {
	Name, Data            string
	ClientPort, PeerPort  int
	Cert, Key, CA         string
	InitialCluster, Token string
	// State is "new" or "existing", "new" unless set; Quota is in bytes, 0 for
	// etcd's own.
	State string
	Quota int64
	// Election is etcd's election timeout in ms, 100 unless set; a heartbeat is a
	// tenth of it.
	Election uint
	// Socket is the path of the unix socket on which it listens besides.
	Socket string
	// Durable has etcd sync what it writes, as it does on a host.
	Durable bool
}

func runEtcd(config []byte) error {
	var s server
	if err := json.Unmarshal(config, &s); err != nil {
		return err
	}
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = s.Name, s.Data
	tlsInfo := transport.TLSInfo{CertFile: s.Cert, KeyFile: s.Key, TrustedCAFile: s.CA, ClientCertAuth: true}
	cfg.ClientTLSInfo, cfg.PeerTLSInfo = tlsInfo, tlsInfo
	urls := func(port int) []url.URL {
		return []url.URL{{Scheme: "https", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}}
	}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = urls(s.ClientPort), urls(s.ClientPort)
	if s.Socket != "" {
		cfg.ListenClientUrls = append(cfg.ListenClientUrls, url.URL{Scheme: "unix", Path: s.Socket})
	}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = urls(s.PeerPort), urls(s.PeerPort)
	cfg.InitialCluster, cfg.InitialClusterToken = s.InitialCluster, s.Token
	if s.State != "" {
		cfg.ClusterState = s.State
	}
	cfg.QuotaBackendBytes = s.Quota
	election := cmp.Or(s.Election, 100)
	cfg.TickMs, cfg.ElectionMs = election/10, election
	cfg.LogLevel, cfg.LogOutputs = "error", []string{"stderr"}
	cfg.UnsafeNoFsync = !s.Durable // the machine's power stays on
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	select {
	case <-stop:
		e.Close()
		return nil
	case err := <-e.Err():
		return err
	}
}

// host is a host with one real etcd member and, for the other components, real
// processes that do nothing.
type host struct {
	Root    layout.Root
	Files   TLS
	Server  server
	Members []Member
	// RefuseRestored makes etcd fail to start with restored data, RefuseUndone
	// with data that an undo has brought back.
	RefuseRestored, RefuseUndone string
}

func (h host) endpoint() string { return h.Members[0].ClientURL }

func newHost(t testing.TB) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{Root: layout.Root(dir), Files: makeCerts(t, filepath.Join(dir, "certs"))}
	client, peer := servers.ReservePort(t), servers.ReservePort(t)
	h.Members = []Member{localMember("m1", client, peer)}
	h.Server = server{
		Name: "m1", Data: h.Root.EtcdData(), ClientPort: client, PeerPort: peer,
		Cert: h.Files.Cert, Key: h.Files.Key, CA: h.Files.CA, InitialCluster: initialCluster(h.Members), Token: "first",
		Socket: socketPath(t),
	}
	t.Cleanup(func() {
		for _, component := range []string{layout.Etcd, layout.APIServer, layout.Kubelet} {
			if err := h.Stop(context.Background(), component); err != nil {
				t.Error(err)
			}
		}
	})
	return h
}

// socketPath is where a server may make a socket. Its path has at most 107 bytes,
// and that of t.TempDir is as long as the test's name.
func socketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "etcd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "client.sock")
}

func startHost(t testing.TB) *host {
	t.Helper()
	h := newHost(t)
	if err := h.Start(t.Context(), layout.Etcd); err != nil {
		t.Fatal(err)
	}
	h.waitHealthy(t)
	return h
}

func (h *host) waitHealthy(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	client := h.client(t)
	defer client.Close()
	if _, err := waitHealthy(ctx, client, RestorePlan{Endpoint: h.endpoint(), HealthTimeout: 30 * time.Second}); err != nil {
		log, _ := os.ReadFile(h.file("etcd.log"))
		t.Fatalf("%v\n%s", err, log)
	}
}

func (h *host) client(t testing.TB) *clientv3.Client {
	t.Helper()
	client, err := connect(context.Background(), h.Files, h.endpoint())
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func (h *host) file(name string) string { return filepath.Join(string(h.Root), name) }

// Start, Stop and Restart make host the Units of a restore. They work from any
// process: what runs is kept in files.
func (h *host) Start(_ context.Context, component string) error {
	if err := h.note("start " + component); err != nil {
		return err
	}
	if pid, err := h.pid(component); err != nil || pid != 0 {
		return err
	}
	cmd := exec.Command("sleep", "infinity")
	if component == layout.Etcd {
		if h.RefuseRestored != "" && exists(markPath(h.Root.EtcdData())) {
			return errors.New(h.RefuseRestored)
		}
		if h.RefuseUndone != "" && exists(undoMarkPath(h.Root.EtcdData())) {
			return errors.New(h.RefuseUndone)
		}
		var err error
		if cmd, err = selfAs(envEtcd, h.Server); err != nil {
			return err
		}
	}
	log, err := os.OpenFile(h.file(component+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go cmd.Wait() // reaps it while this process lives
	return os.WriteFile(h.file(component+".pid"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600)
}

func (h *host) Stop(ctx context.Context, component string) error {
	if err := h.note("stop " + component); err != nil {
		return err
	}
	pid, err := h.pid(component)
	if err != nil || pid == 0 {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for running(pid) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not stop: %w", component, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
	return os.Remove(h.file(component + ".pid"))
}

func (h *host) Restart(ctx context.Context, component string) error {
	return errors.Join(h.Stop(ctx, component), h.Start(ctx, component))
}

// permit is whether the host's nodeagent would start its etcd.
func (h *host) permit(t testing.TB) error {
	s := &Starter{Root: h.Root, Self: h.Members[0], Members: h.Members, Token: "first", Peer: h.Files, Client: h.Files}
	return errors.Join(s.Permit(t.Context(), 0), s.Close())
}

// note appends to the record of what was asked of the units.
func (h *host) note(line string) error {
	f, err := os.OpenFile(h.file("calls"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, line)
	return errors.Join(err, f.Close())
}

// pid is the running process of a component, 0 if there is none.
func (h *host) pid(component string) (int, error) {
	text, err := os.ReadFile(h.file(component + ".pid"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil || !running(pid) {
		return 0, err
	}
	return pid, nil
}

// running tells whether the process exists and is no zombie.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// makeCerts makes a CA and one certificate for everybody.
func makeCerts(t testing.TB, dir string) TLS {
	t.Helper()
	files := TLS{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "ca.crt")}
	ca := certs.CA(t, "test CA", nil)
	ca.Write(t, files.CA, "")
	ca.Issue(t, "m1", nil).Write(t, files.Cert, files.Key)
	return files
}

// put writes keys with their own names as values.
func put(t testing.TB, h *host, keys ...string) {
	t.Helper()
	client := h.client(t)
	defer client.Close()
	for _, key := range keys {
		if _, err := client.Put(t.Context(), key, key); err != nil {
			t.Fatal(err)
		}
	}
}

// keysOf reads all keys of the live etcd.
func keysOf(t testing.TB, h *host) []string {
	t.Helper()
	client := h.client(t)
	defer client.Close()
	response, err := client.Get(t.Context(), "\x00", clientv3.WithFromKey(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	keys := []string{}
	for _, kv := range response.Kvs {
		if !strings.HasPrefix(string(kv.Key), "/nodeagent/") { // our own
			keys = append(keys, string(kv.Key))
		}
	}
	return keys
}

func save(t testing.TB, h *host) (Manifest, string) {
	t.Helper()
	m, err := Save(t.Context(), h.saveOptions())
	if err != nil {
		t.Fatal(err)
	}
	return m, m.Path(h.Root.Snapshots())
}

// site is the one-member cluster as its host sees it.
func (h *host) site() Site {
	return Site{TLS: h.Files, Members: h.Members, Self: "m1", Local: h.endpoint(), Socket: h.Server.Socket}
}

func (h *host) saveOptions() SaveOptions {
	return SaveOptions{Dir: h.Root.Snapshots(), Cluster: "mercury", Host: "m1", Site: h.site(), Version: "test"}
}
