package etcdops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/test/servers"
)

// ring is a cluster of real etcd servers, each a process with a host's folders.
type ring struct {
	t     testing.TB
	Files TLS
	Nodes []*node
}

// node is one host of a ring. What its agent and the test both change lies behind
// a lock; the rest changes only while no agent runs.
type node struct {
	t       testing.TB
	Root    layout.Root
	Member  Member
	Server  server // how it is started if nothing else is said
	program string // of etcd, empty for the test binary itself

	agents     atomic.Int32 // that converge it
	converging sync.Mutex   // one converge of a host at a time, as its lock has it

	mu      sync.Mutex // what follows: tests end what agents start
	starter *Starter
	cmd     *exec.Cmd
	ended   chan struct{}
}

// process is the last one that was started, nil if none was, and what is closed
// when it has ended.
func (n *node) process() (*exec.Cmd, chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd, n.ended
}

// newRing makes n hosts, m1 and so on, without starting their members.
func newRing(t testing.TB, n int) *ring {
	t.Helper()
	r := &ring{t: t, Files: makeCerts(t, filepath.Join(t.TempDir(), "certs"))}
	for i := range n {
		client, peer := servers.ReservePort(t), servers.ReservePort(t)
		root := layout.Root(t.TempDir())
		name := fmt.Sprintf("m%d", i+1)
		r.Nodes = append(r.Nodes, &node{
			t: t, Root: root,
			Member: localMember(name, client, peer),
			Server: server{
				Name: name, Data: root.EtcdData(), ClientPort: client, PeerPort: peer,
				Cert: r.Files.Cert, Key: r.Files.Key, CA: r.Files.CA, Token: "ring", Socket: socketPath(t),
				Election: 600, // a busy machine must not lose its leader all the time
			},
		})
	}
	for _, node := range r.Nodes {
		node.Server.InitialCluster = initialCluster(r.members())
		t.Cleanup(func() {
			node.kill()
			if t.Failed() {
				t.Logf("%s said:\n%s", node.Member.Name, node.log())
			}
		})
	}
	return r
}

// localMember is a member that listens on this machine.
func localMember(name string, client, peer int) Member {
	return Member{Name: name, PeerURL: fmt.Sprintf("https://127.0.0.1:%d", peer), ClientURL: fmt.Sprintf("https://127.0.0.1:%d", client)}
}

// startRing starts all members and waits until they are in step.
func startRing(t testing.TB, n int) *ring { return startRingOf(t, n, "") }

// startRingOf does so with another etcd.
func startRingOf(t testing.TB, n int, program string) *ring {
	t.Helper()
	r := newRing(t, n)
	for _, node := range r.Nodes {
		node.program = program
	}
	for _, node := range r.Nodes {
		node.start()
	}
	r.settle()
	return r
}

func (r *ring) members() []Member {
	var members []Member
	for _, n := range r.Nodes {
		members = append(members, n.Member)
	}
	return members
}

// site is the ring as m1 sees it.
func (r *ring) site() Site {
	own := r.Nodes[0]
	return Site{TLS: r.Files, Members: r.members(), Self: "m1", Local: own.Member.ClientURL, Socket: own.Server.Socket}
}

func (r *ring) look() View { return Look(r.t.Context(), r.site(), false) }

func (r *ring) node(name string) *node {
	r.t.Helper()
	for _, n := range r.Nodes {
		if n.Member.Name == name {
			return n
		}
	}
	r.t.Fatalf("no member %q", name)
	return nil
}

// settle waits until nothing is wrong with the cluster.
func (r *ring) settle() View {
	r.t.Helper()
	return r.until("the cluster to be well", func(v View) bool { return v.Voters == len(r.Nodes) && Healthy(v.Findings()) })
}

// until looks at the cluster until it is as it should be.
func (r *ring) until(what string, good func(View) bool) View {
	r.t.Helper()
	var v View
	eventually(r.t, what, func() error {
		if v = r.look(); good(v) {
			return nil
		}
		return fmt.Errorf("%+v", v.Findings())
	})
	return v
}

// eventually waits until the condition is met.
func eventually(t testing.TB, what string, met func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := met()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited for %s: %v", what, err)
		case <-tick.C:
		}
	}
}

// client speaks to one member of the ring.
func (r *ring) client(n *node) *clientv3.Client {
	r.t.Helper()
	client, err := connect(context.Background(), r.Files, n.Member.ClientURL)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { client.Close() })
	return client
}

// fill writes n values of a KiB, each under a key of its own.
func (r *ring) fill(prefix string, n int) {
	r.t.Helper()
	client := r.client(r.Nodes[0])
	value := strings.Repeat("x", 1<<10)
	for i := 0; i < n; i += 100 {
		var ops []clientv3.Op
		for j := i; j < min(i+100, n); j++ {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("%s%06d", prefix, j), value))
		}
		eventually(r.t, "values to be written", func() error {
			_, err := client.Txn(r.t.Context()).Then(ops...).Commit()
			return err
		})
	}
}

// start starts the member; it need not be ready.
func (n *node) start() {
	n.t.Helper()
	if err := n.startAs(n.Server); err != nil {
		n.t.Fatal(err)
	}
}

// startAs starts it with settings of one start, unless it runs.
func (n *node) startAs(s server) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if alive(n.ended) {
		return nil
	}
	cmd, err := n.command(s)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(n.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	n.cmd, n.ended = cmd, ended
	return nil
}

// envProgram names an etcd of another version, which the rings of a run of the
// tests are then made of.
const envProgram = "NODEAGENT_TEST_ETCD"

func (n *node) command(s server) (*exec.Cmd, error) {
	if program := cmp.Or(n.program, os.Getenv(envProgram)); program != "" {
		return exec.Command(program, s.flags()...), nil
	}
	return selfAs(envEtcd, s)
}

// existing are the settings of one that has data, to which etcd listens alone.
func (n *node) existing() server {
	s := n.Server
	s.InitialCluster, s.State, s.Token = n.Member.Name+"="+n.Member.PeerURL, "existing", "none"
	return s
}

// flags are what runEtcd makes of the settings, for etcd's own program.
func (s server) flags() []string {
	client, peer := fmt.Sprintf("https://127.0.0.1:%d", s.ClientPort), fmt.Sprintf("https://127.0.0.1:%d", s.PeerPort)
	return []string{
		"--name=" + s.Name, "--data-dir=" + s.Data, "--log-level=error", "--unsafe-no-fsync",
		"--listen-client-urls=" + client + "," + socketURL(s.Socket), "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--cert-file=" + s.Cert, "--key-file=" + s.Key, "--trusted-ca-file=" + s.CA, "--client-cert-auth",
		"--peer-cert-file=" + s.Cert, "--peer-key-file=" + s.Key, "--peer-trusted-ca-file=" + s.CA, "--peer-client-cert-auth",
		"--initial-cluster=" + s.InitialCluster, "--initial-cluster-token=" + s.Token, "--initial-cluster-state=" + cmp.Or(s.State, "new"),
		fmt.Sprintf("--quota-backend-bytes=%d", s.Quota),
		fmt.Sprintf("--heartbeat-interval=%d", s.Election/10), fmt.Sprintf("--election-timeout=%d", s.Election),
	}
}

func (n *node) logFile() string { return filepath.Join(string(n.Root), "etcd.log") }

// log is what the member has said, for messages of tests that fail.
func (n *node) log() string {
	text, err := os.ReadFile(n.logFile())
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func (n *node) running() bool {
	_, ended := n.process()
	return alive(ended)
}

// alive tells whether a process runs, by what is closed at its end; nil is none.
func alive(ended chan struct{}) bool {
	select {
	case <-ended:
		return false
	default:
		return ended != nil
	}
}

// kill ends the member at once, as a host that dies.
func (n *node) kill() { n.signal(syscall.SIGKILL) }

func (n *node) signal(s syscall.Signal) {
	cmd, ended := n.process()
	if !alive(ended) {
		return
	}
	if err := cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		n.t.Error(err)
	}
	<-ended
}

// wipe takes everything from a host's disk.
func (n *node) wipe() {
	n.t.Helper()
	if err := os.RemoveAll(n.Root.State()); err != nil {
		n.t.Fatal(err)
	}
}
