package etcdops

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/test/etcds"
	"github.com/nodeagent/nodeagent/test/servers"
)

// nodeUnits are the components of one host of a ring, of which etcd is a real one.
type nodeUnits struct{ *node }

func (u nodeUnits) Start(_ context.Context, component string) error {
	if component == layout.Etcd {
		return u.startAs(u.existing())
	}
	return nil
}

func (u nodeUnits) Stop(_ context.Context, component string) error {
	if component == layout.Etcd && u.running() {
		// As systemd does: a member that has no leader takes its time.
		cmd, _ := u.process()
		kill := time.AfterFunc(3*time.Second, func() { cmd.Process.Kill() })
		defer kill.Stop()
		u.signal(syscall.SIGTERM)
	}
	return nil
}

func (u nodeUnits) Restart(ctx context.Context, component string) error {
	return errors.Join(u.Stop(ctx, component), u.Start(ctx, component))
}

// siteOf is the ring as one of its hosts sees it.
func (r *ring) siteOf(n *node) Site {
	return Site{TLS: r.Files, Members: r.members(), Self: n.Member.Name, Local: n.Member.ClientURL, Socket: n.Server.Socket}
}

func (r *ring) save(n *node) string { return r.saveTo(n, n.Root.Snapshots()) }

func (r *ring) saveTo(n *node, dir string) string {
	r.t.Helper()
	m, err := Save(r.t.Context(), SaveOptions{
		Dir: dir, Cluster: "ring", Host: n.Member.Name, Site: r.siteOf(n), Version: "test",
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return m.Path(dir)
}

func (r *ring) restoreOptions(n *node, snapshot string) RestoreOptions {
	return RestoreOptions{
		Root: n.Root, Snapshot: snapshot, Cluster: "ring", Host: n.Member.Name, Members: r.members(),
		TLS: r.Files, Peer: r.Files, Endpoint: n.Member.ClientURL, Stop: []string{layout.APIServer}, HealthTimeout: 2 * time.Minute,
	}
}

// move gives a host another address, as far as that can be had on one machine.
func (n *node) move() { n.moveTo(servers.ReservePort(n.t), servers.ReservePort(n.t)) }

func (n *node) moveTo(client, peer int) {
	n.t.Helper()
	if n.agents.Load() > 0 {
		n.t.Fatalf("%s moves while its agent runs", n.Member.Name)
	}
	n.Member = localMember(n.Member.Name, client, peer)
	n.Server.ClientPort, n.Server.PeerPort = client, peer
	n.forgetStarter()
}

// restoreAll restores the hosts at once, each by what it finds out by itself.
func (r *ring) restoreAll(options map[*node]RestoreOptions) map[*node]Result {
	r.t.Helper()
	results := map[*node]Result{}
	var mu sync.Mutex
	var wait sync.WaitGroup
	for n, opts := range options {
		wait.Go(func() {
			plan, err := PlanRestore(r.t.Context(), opts)
			var result Result
			if err == nil {
				result, err = Restore(r.t.Context(), n.Root, plan, nodeUnits{n}, nil)
			}
			mu.Lock()
			defer mu.Unlock()
			results[n] = result
			if err != nil {
				r.t.Errorf("%s: %v", n.Member.Name, err)
			}
		})
	}
	wait.Wait()
	if r.t.Failed() {
		r.t.FailNow()
	}
	return results
}

// keys counts the keys below a prefix as a member answers them.
func (r *ring) keys(n *node) []string {
	r.t.Helper()
	return keysOf(r.t, &host{Files: r.Files, Members: []Member{n.Member}})
}

// A fleet whose hosts have lost everything but one snapshot comes back, on other
// addresses, by one command on each host; hosts find the same plan by themselves.
func TestRestoreAFleet(t *testing.T) {
	t.Parallel()
	t.Run("today's", func(t *testing.T) { t.Parallel(); restoreAFleet(t, "") })
	t.Run("3.6", func(t *testing.T) { t.Parallel(); restoreAFleet(t, etcds.Program(t, "3.6")) })
}

func restoreAFleet(t *testing.T, program string) {
	r := startRingOf(t, 3, program)
	m1, m2, m3 := r.Nodes[0], r.Nodes[1], r.Nodes[2]
	r.fill("/registry/", 100)
	store := t.TempDir() // elsewhere than on the hosts
	snapshot := r.saveTo(m1, store)
	r.fill("/later/", 100)
	other := r.saveTo(m2, store)

	refused := func(opts RestoreOptions, want string, is error) {
		t.Helper()
		_, err := PlanRestore(t.Context(), opts)
		if err == nil || !strings.Contains(err.Error(), want) || is != nil && !errors.Is(err, is) {
			t.Fatalf("error %v, want %q", err, want)
		}
	}
	// While the others live nothing is restored, and one of three is replaced.
	refused(r.restoreOptions(m1, snapshot), "nodeagent etcd replace m1", ErrFenced)
	m3.kill()
	refused(r.restoreOptions(m3, snapshot), "the cluster lives without this host", ErrFenced)
	m1.freeze() // it says nothing, and may wake up
	m2.kill()
	refused(r.restoreOptions(m2, snapshot), "m1 still answers", ErrFenced)
	m1.thaw()
	m1.kill()
	m1.lose(true)
	m2.lose(false)
	m2.move()
	m3.move() // with its old data

	agreed, err := PlanAgreement(t.Context(), r.restoreOptions(m1, other))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "plan.json")
	if err := WriteAgreement(file, agreed); err != nil {
		t.Fatal(err)
	}
	read, err := ReadAgreement(file)
	if err != nil {
		t.Fatal(err)
	}
	opts := r.restoreOptions(m2, snapshot)
	opts.Agreed = &read
	refused(opts, "has the SHA-256", ErrDisagree)
	opts = r.restoreOptions(m2, other)
	opts.Agreed, opts.Members = &read, slices.Clone(r.members())
	opts.Members[2].PeerURL = "https://127.0.0.1:1"
	refused(opts, "put the same fleet on every host", ErrDisagree)
	opts = r.restoreOptions(m2, other)
	opts.Digest = "0000-0000-0000"
	refused(opts, "was expected", ErrDisagree)

	// m1 by its plan, m2 by the digest, and m3 comes when those two serve.
	first, second, third := r.restoreOptions(m1, other), r.restoreOptions(m2, other), r.restoreOptions(m3, other)
	first.Agreed, second.Digest = &read, strings.ToUpper(agreed.Digest)
	results := r.restoreAll(map[*node]RestoreOptions{m1: first, m2: second})
	if results[m1].Plan.Digest != agreed.Digest || results[m2].Plan.Digest != agreed.Digest {
		t.Errorf("digests %s and %s, agreed was %s", results[m1].Plan.Digest, results[m2].Plan.Digest, agreed.Digest)
	}
	for n, fresh := range map[*node]bool{m1: false, m2: true} {
		if warned := strings.Contains(strings.Join(results[n].Plan.Warnings, "\n"), "remembers no earlier restore"); warned != fresh {
			t.Errorf("%s is warned that it remembers nothing: %v, want %v", n.Member.Name, warned, fresh)
		}
	}
	result := r.restoreAll(map[*node]RestoreOptions{m3: third})[m3]
	if result.Keys != 200 || result.Plan.Digest != agreed.Digest || result.KeptOld == "" {
		t.Errorf("m3: %d keys, %+v", result.Keys, result.Plan)
	}
	r.settle()
	if id := r.oneCluster(); id != agreed.ClusterID {
		t.Errorf("the cluster is %s, agreed was %s", id, agreed.ClusterID)
	}
	for _, n := range r.Nodes {
		if keys := r.keys(n); len(keys) != 200 {
			t.Errorf("%s has %d keys", n.Member.Name, len(keys))
		}
	}

	// The same once more needs a fresh token, on every host.
	for _, n := range r.Nodes {
		n.kill()
	}
	for _, n := range r.Nodes {
		refused(r.restoreOptions(n, other), "--attempt 2", nil)
	}
	again := map[*node]RestoreOptions{}
	for _, n := range r.Nodes {
		r.waitsUntilRestored(n)
		opts := r.restoreOptions(n, other)
		opts.Attempt = 2
		again[n] = opts
	}
	for n, result := range r.restoreAll(again) {
		if result.Plan.ClusterID == agreed.ClusterID {
			t.Errorf("%s: the second restore has the cluster id of the first", n.Member.Name)
		}
	}
	r.settle()
	r.oneCluster()
}

// waitsUntilRestored has the host lose its data and answer the others in etcd's
// place, as its nodeagent does, until that notices that a restore runs.
func (r *ring) waitsUntilRestored(n *node) {
	r.t.Helper()
	if err := os.RemoveAll(n.Root.EtcdData()); err != nil {
		r.t.Fatal(err)
	}
	if err := r.converge(r.t.Context(), n); err == nil || !r.starter(n).Waiting() {
		r.t.Fatalf("%s does not wait: %v", n.Member.Name, err)
	}
	ctx, starter := r.t.Context(), r.starter(n)
	go func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if restoring, _ := RestoreInProgress(n.Root); restoring && exists(markPath(n.Root.EtcdData())) {
				starter.Close()
				return
			}
			<-tick.C
		}
	}()
}

// A member that waits for the others in vain gives the old data back.
func TestRestoreOfAFleetGivesUp(t *testing.T) {
	t.Parallel()
	r := startRing(t, 3)
	m1 := r.Nodes[0]
	r.fill("/registry/", 10)
	snapshot := r.save(m1)
	for _, n := range r.Nodes {
		n.kill()
	}
	opts := r.restoreOptions(m1, snapshot)
	opts.HealthTimeout = 4 * time.Second
	plan, err := PlanRestore(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	var mu sync.Mutex
	_, err = Restore(t.Context(), m1.Root, plan, nodeUnits{m1}, func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, e.Text)
	})
	if !errors.Is(err, errReverted) || !strings.Contains(err.Error(), "m2, m3 had not been restored") {
		t.Errorf("error %v", err)
	}
	if all := strings.Join(told, "\n"); !strings.Contains(all, "1 of 3 members run; the same command is to be run on m2, m3") {
		t.Errorf("told:\n%s", all)
	}
	// The token may have been in a vote.
	if _, err := PlanRestore(t.Context(), opts); err == nil || !strings.Contains(err.Error(), "--attempt 2") {
		t.Errorf("the same again: %v", err)
	}
	m1.kill()
	for _, n := range r.Nodes {
		n.start()
	}
	r.settle()
	if keys := r.keys(m1); len(keys) != 10 {
		t.Errorf("%d keys", len(keys))
	}
}
