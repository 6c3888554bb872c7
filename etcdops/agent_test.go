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

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// starter is what the host's nodeagent asks before it starts etcd.
func (r *ring) starter(n *node) *Starter {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.starter == nil {
		starter := &Starter{Root: n.Root, Self: n.Member, Members: r.members(), Token: "ring", Peer: r.Files, Client: r.Files}
		r.t.Cleanup(func() { starter.Close() })
		n.starter = starter
	}
	return n.starter
}

// converge does on a host what nodeagent does in a converge: start etcd if that
// is allowed, and mark that it was healthy.
func (r *ring) converge(ctx context.Context, n *node) error {
	n.converging.Lock()
	defer n.converging.Unlock()
	if n.running() {
		if status, err := askOnce(ctx, r.Files, n.Member.ClientURL); err == nil && status.Leader != 0 && !Begun(n.Root) {
			return MarkInitialised(n.Root, time.Now())
		}
		return nil
	}
	if err := r.starter(n).Permit(ctx, 0); err != nil {
		return err
	}
	s, err := n.readStart()
	if err != nil {
		return err
	}
	return n.startAs(s)
}

// readStart is what systemd and etcd make of the environment file.
func (n *node) readStart() (server, error) {
	s := n.Server
	s.InitialCluster, s.State, s.Token = n.Member.Name+"="+n.Member.PeerURL, "new", "none"
	text, err := os.ReadFile(n.Root.EtcdStart())
	if errors.Is(err, os.ErrNotExist) {
		if data, err := hasData(n.Root.EtcdData()); err != nil || !data {
			return s, errors.Join(err, errors.New("the unit's assertions do not hold"))
		}
		return s, nil
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch name {
		case "ETCD_INITIAL_CLUSTER":
			s.InitialCluster = value
		case "ETCD_INITIAL_CLUSTER_STATE":
			s.State = value
		case "ETCD_INITIAL_CLUSTER_TOKEN":
			s.Token = value
		}
	}
	return s, err
}

// agent converges a host over and over until the returned function is called.
func (r *ring) agent(n *node) (stop func()) {
	ctx, cancel := context.WithCancel(r.t.Context())
	n.agents.Add(1)
	var loop sync.WaitGroup
	loop.Go(func() {
		defer n.agents.Add(-1)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			r.converge(ctx, n) // what it refuses is asked again
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
	stop = sync.OnceFunc(func() { cancel(); loop.Wait() })
	r.t.Cleanup(stop)
	return stop
}

// freeze makes a host unreachable, as a network does that is partitioned: its
// kernel takes connections and nobody answers them.
func (n *node) freeze() { n.stopped(true) }

// thaw heals that.
func (n *node) thaw() { n.stopped(false) }

func (n *node) stopped(stop bool) {
	n.t.Helper()
	signal := syscall.SIGCONT
	if stop {
		signal = syscall.SIGSTOP
	}
	cmd, _ := n.process()
	if err := unix.Kill(cmd.Process.Pid, signal); err != nil {
		n.t.Fatal(err)
	}
}

// lose wipes a host, of which the marker may be left. No converge sees half of it.
func (n *node) lose(marker bool) {
	n.t.Helper()
	n.converging.Lock()
	defer n.converging.Unlock()
	n.kill()
	n.wipe()
	n.forgetStarter()
	if marker {
		if err := writeMarker(n.Root, time.Now()); err != nil {
			n.t.Fatal(err)
		}
	}
}

// forgetStarter ends what answers in etcd's place, as the end of the agent does.
func (n *node) forgetStarter() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.starter != nil {
		n.starter.Close()
		n.starter = nil
	}
}

// oneCluster fails the test where two clusters serve, and returns the id of the
// one that does, empty where none does.
func (r *ring) oneCluster() string {
	r.t.Helper()
	id := ""
	for _, a := range AskPeers(r.t.Context(), r.Files, r.members()) {
		if a.State != PeerServes {
			continue
		}
		if id != "" && id != a.ClusterID {
			r.t.Fatalf("two clusters: %s and %s", id, a.ClusterID)
		}
		id = a.ClusterID
	}
	return id
}

// began waits until all hosts are one cluster and have noted it.
func (r *ring) began() {
	r.t.Helper()
	r.settle()
	r.oneCluster()
	for _, n := range r.Nodes {
		eventually(r.t, n.Member.Name+" to note that it began", func() error {
			if Begun(n.Root) {
				return nil
			}
			return errors.New(n.log())
		})
	}
}

// In whatever order hosts come, there is one cluster, and none before the last.
func TestBeginInEveryOrder(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		r := newRing(t, 3)
		for i, at := range order {
			if i == 2 {
				for range 2 { // the first two know of each other and wait for the last
					for _, early := range order[:2] {
						if err := r.converge(t.Context(), r.Nodes[early]); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), r.Nodes[at].Member.Name) {
							t.Fatalf("%v: %s was not held for %s: %v", order, r.Nodes[early].Member.Name, r.Nodes[at].Member.Name, err)
						}
					}
				}
			}
			r.agent(r.Nodes[at])
		}
		r.began()
		for _, n := range r.Nodes {
			n.kill()
		}
	}
}

// One host alone needs nobody.
func TestBeginAlone(t *testing.T) {
	r := newRing(t, 1)
	r.agent(r.Nodes[0])
	r.began()
	r.Nodes[0].lose(true)
	if err := r.converge(t.Context(), r.Nodes[0]); !errors.Is(err, ErrDataLost) || !strings.Contains(err.Error(), "snapshot restore") {
		t.Errorf("with its data lost: %v", err)
	}
}

// A host alone begins, and goes on with its data; it does not begin again where they
// are gone.
func TestPermitAlone(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		initialised, data bool
		want              error
	}{{false, false, nil}, {false, true, nil}, {true, true, nil}, {true, false, ErrDataLost}} {
		root := layout.Root(t.TempDir())
		if tc.initialised {
			if err := MarkInitialised(root, noon); err != nil {
				t.Fatal(err)
			}
		}
		if tc.data {
			wal := filepath.Join(root.EtcdData(), "member", "wal")
			if err := os.MkdirAll(wal, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(wal, "0-0.wal"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		h := &host{Root: root, Members: []Member{localMember("m1", 1, 2)}}
		if err := h.permit(t); !errors.Is(err, tc.want) {
			t.Errorf("%+v: %v", tc, err)
		}
		if begins := !tc.initialised && !tc.data; exists(root.EtcdStart()) != begins {
			t.Errorf("%+v: etcd may begin anew: %v", tc, !begins)
		}
	}
}

// A host that lost its data, alone or with another, with its marker or without,
// cut off or not, never begins a second cluster; and the first goes on.
func TestNeverTwoClusters(t *testing.T) {
	r := newRing(t, 3)
	stops := map[*node]func(){}
	for _, n := range r.Nodes {
		stops[n] = r.agent(n)
	}
	r.began()
	r.fill("/registry/", 100)
	for _, stop := range stops {
		stop() // what follows converges by hand
	}
	m1, m2, m3 := r.Nodes[0], r.Nodes[1], r.Nodes[2]
	first := r.oneCluster()
	refused := func(what string, nodes ...*node) {
		t.Helper()
		for range len(nodes) { // several hear of each other
			for _, n := range nodes {
				if err := r.converge(t.Context(), n); !errors.Is(err, ErrHeld) && !errors.Is(err, ErrDataLost) {
					t.Fatalf("%s: %s: %v", what, n.Member.Name, err)
				}
				if n.running() || exists(n.Root.EtcdStart()) {
					t.Fatalf("%s: etcd of %s could be started", what, n.Member.Name)
				}
			}
		}
	}
	for _, marker := range []bool{true, false} {
		m3.lose(marker)
		refused("m3 lost its data", m3)
		if marker {
			continue // what is refused without is refused with it
		}
		m1.freeze()
		m2.freeze()
		refused("m3 lost its data and reaches nobody", m3)
		m1.thaw()
		refused("m3 lost its data and reaches m1", m3)
		m2.thaw()
		if id := r.oneCluster(); id != first {
			t.Fatalf("the cluster is %s, it was %s", id, first)
		}
	}
	// Two of three: m1 has the data and no quorum.
	m2.lose(false)
	refused("m2 and m3 lost their data, m1 answers", m2, m3)
	m1.freeze()
	refused("m2 and m3 lost their data and m1 is cut off", m2, m3)
	m1.thaw()
	m1.kill()
	refused("m2 and m3 lost their data and m1 is down", m2, m3)
	if err := r.converge(t.Context(), m1); err != nil || !m1.running() {
		t.Fatalf("m1, which has its data, was not started: %v", err)
	}
	eventually(t, "m1 to answer", func() error {
		if r.oneCluster() == first {
			return nil
		}
		return errors.New("it does not")
	})
	refused("m2 and m3 lost their data, m1 is back", m2, m3)
	// All of them, and one remembers.
	m1.lose(true)
	refused("all lost their data and m1 knows", m1, m2, m3)
	// All of them, and nobody remembers: that is how every cluster begins.
	m1.lose(false)
	for _, n := range r.Nodes {
		r.agent(n)
	}
	r.began()
}

// The permission of one who was allowed to begin and then hears of a cluster is
// taken back.
func TestPermissionIsTakenBack(t *testing.T) {
	r := startRing(t, 3)
	m3 := r.node("m3")
	m3.lose(false)
	if err := writeStart(m3.Root, BeginNew, initialCluster(r.members()), "ring"); err != nil {
		t.Fatal(err)
	}
	if err := r.converge(t.Context(), m3); !errors.Is(err, ErrDataLost) || exists(m3.Root.EtcdStart()) {
		t.Errorf("error %v, permission %t", err, exists(m3.Root.EtcdStart()))
	}
}

// A snapshot that was restored on one host makes a cluster of its own, which the
// others do not join as if it were a new one.
func TestDecideBegin(t *testing.T) {
	members := []Member{{Name: "a", PeerURL: "https://a:2380"}, {Name: "b", PeerURL: "https://b:2380"}, {Name: "c", PeerURL: "https://c:2380"}}
	id, err := newClusterID(members, "fleet")
	if err != nil {
		t.Fatal(err)
	}
	initial := initialCluster(members)
	listed := func(a, b, c []string) []PeerMember {
		return []PeerMember{
			{ID: 1, Name: "a", PeerURLs: []string{"https://a:2380"}, ClientURLs: a},
			{ID: 2, Name: "b", PeerURLs: []string{"https://b:2380"}, ClientURLs: b},
			{ID: 3, Name: "", PeerURLs: []string{"https://c:2380"}, ClientURLs: c, IsLearner: true},
		}
	}
	started := []string{"https://x:2379"}
	empty := PeerAnswer{State: PeerEmpty, Initial: initial}
	silent := PeerAnswer{State: PeerSilent}
	serves := PeerAnswer{State: PeerServes, ClusterID: "7", Members: listed(started, started, nil)}
	for name, test := range map[string]struct {
		edit    func(s *Standing)
		b, a    PeerAnswer // of the hosts b and a; this one is c
		begin   Begin
		initial string
		text    string
	}{
		"data":                   {func(s *Standing) { s.Data, s.Marked = true, true }, silent, silent, BeginData, "", ""},
		"data of a replaced one": {func(s *Standing) { s.Data, s.Cluster = true, "5" }, PeerAnswer{State: PeerServes, ClusterID: "7", Replaced: true}, silent, "", "", "nodeagent etcd rejoin"},
		"data beside another":    {func(s *Standing) { s.Data, s.Cluster = true, "5" }, PeerAnswer{State: PeerServes, ClusterID: "7"}, silent, BeginData, "", ""},
		"one holds data":         {nil, PeerAnswer{State: PeerHeld, ClusterID: "5"}, empty, "", "", "b holds data of the cluster 5"},
		"all empty":              {nil, empty, empty, BeginNew, initial, ""},
		"one silent":             {nil, empty, silent, "", "", "a say nothing"},
		"one silent, declared":   {func(s *Standing) { s.Declared = true }, empty, silent, BeginNew, initial, ""},
		"a place":                {nil, serves, silent, BeginJoin, "a=https://a:2380,b=https://b:2380,c=https://c:2380", ""},
		"a place, marked":        {func(s *Standing) { s.Marked = true }, serves, silent, BeginJoin, "a=https://a:2380,b=https://b:2380,c=https://c:2380", ""},
		"declared too late":      {func(s *Standing) { s.Declared = true }, PeerAnswer{State: PeerServes, ClusterID: "7"}, empty, "", "", "etcd replace c"},
		"its data are gone":      {nil, PeerAnswer{State: PeerServes, ClusterID: "7", Members: listed(started, started, started)}, empty, "", "", "must not take its place"},
		"no member":              {nil, PeerAnswer{State: PeerServes, ClusterID: "7", Members: listed(started, started, nil)[:2]}, empty, "", "", "no member of it"},
		"two clusters":           {nil, serves, PeerAnswer{State: PeerServes, ClusterID: "8"}, "", "", "different clusters"},
		"marked":                 {func(s *Standing) { s.Marked = true }, empty, empty, "", "", "has run on this host"},
		"another marked":         {nil, PeerAnswer{State: PeerLost}, empty, "", "", "has run on b"},
		"forms the same":         {nil, PeerAnswer{State: PeerForms, ClusterID: id}, silent, BeginNew, initial, ""},
		"forms, was restored":    {nil, PeerAnswer{State: PeerForms, ClusterID: "9"}, empty, "", "", "was restored"},
		"another fleet":          {nil, PeerAnswer{State: PeerEmpty, Initial: "b=https://b:2380"}, empty, "", "", "apply the same fleet"},
		"only ever joins":        {func(s *Standing) { s.Existing = true }, empty, empty, "", "", "etcd.existing"},
	} {
		s := Standing{Self: members[2], Members: members, Token: "fleet"}
		if test.edit != nil {
			test.edit(&s)
		}
		test.a.Member, test.b.Member = members[0], members[1]
		begin, got, err := DecideBegin(s, []PeerAnswer{test.b, test.a})
		if begin != test.begin || got != test.initial || (err == nil) != (test.text == "") || err != nil && !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %q, %q, %v; want %q, %q, %q", name, begin, got, err, test.begin, test.initial, test.text)
		}
	}
	if !slices.IsSorted(strings.Split(initial, ",")) {
		t.Error("the initial cluster depends on an order")
	}
}

// Where a host is not to be had, a person says so; it joins when it comes.
func TestDeclare(t *testing.T) {
	r := newRing(t, 3)
	m1, m2, m3 := r.Nodes[0], r.Nodes[1], r.Nodes[2]
	for range 2 {
		for _, n := range []*node{m1, m2} {
			if err := r.converge(t.Context(), n); !errors.Is(err, ErrHeld) {
				t.Fatalf("%s was not held: %v", n.Member.Name, err)
			}
		}
	}
	starter := r.starter(m1)
	o, err := starter.Outlook(t.Context())
	if err != nil || o.Held == "" || len(o.Others) != 2 || o.Others[0].State != PeerEmpty || o.Others[1].State != PeerSilent {
		t.Fatalf("outlook %+v, %v", o, err)
	}
	for without, text := range map[string]string{"m2": "m2 waits", "m2,m3": "m2 waits", "m3,m9": "no other host"} {
		if err := o.MayDeclare(strings.Split(without, ","), false); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("without %s: %v", without, err)
		}
	}
	unheard := Outlook{Host: "m1", Others: []PeerAnswer{{Member: m2.Member, State: PeerSilent}, {Member: m3.Member, State: PeerSilent}}}
	if err := unheard.MayDeclare([]string{"m2"}, false); err == nil || !strings.Contains(err.Error(), "m3 says nothing either") {
		t.Errorf("with two that say nothing: %v", err)
	}
	if err := errors.Join(o.MayDeclare([]string{"m3"}, false), starter.Declare(time.Now(), true, false)); err != nil {
		t.Fatal(err)
	}
	r.agent(m1)
	r.agent(m2)
	r.until("m1 and m2 to be a cluster", func(v View) bool { return v.Quorum && v.Serving == 2 })
	o, err = r.starter(m3).Outlook(t.Context())
	if err != nil || o.Begin != BeginJoin {
		t.Errorf("outlook of m3: %+v, %v", o, err)
	}
	if err := o.MayDeclare(nil, true); err == nil || !strings.Contains(err.Error(), "etcd runs on m1") {
		t.Errorf("a second cluster was declared: %v", err)
	}
	r.agent(m3)
	r.began()
}

// A host may forget its data on purpose, and only so.
func TestDeclareAgain(t *testing.T) {
	r := newRing(t, 1)
	m1 := r.Nodes[0]
	stop := r.agent(m1)
	r.began()
	o, err := r.starter(m1).Outlook(t.Context())
	if err != nil || o.MayDeclare(nil, true) == nil {
		t.Errorf("with its data there: %+v, %v", o, err)
	}
	stop()
	m1.lose(true)
	if o, err = r.starter(m1).Outlook(t.Context()); err != nil || o.Held == "" || o.MayDeclare(nil, false) == nil {
		t.Fatalf("outlook %+v, %v", o, err)
	}
	if err := errors.Join(o.MayDeclare(nil, true), r.starter(m1).Declare(time.Now(), false, true)); err != nil {
		t.Fatal(err)
	}
	r.agent(m1)
	r.began()
}
