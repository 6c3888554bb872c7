package etcdops

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

// threeMembers is a view of m1, m2 and m3, which leads, all well and alike.
func threeMembers() View {
	v := View{ClusterID: "c", Quorum: true, Leader: "m3", HashRevision: 7}
	for i, name := range []string{"m1", "m2", "m3"} {
		v.Members = append(v.Members, MemberView{
			Name: name, ID: fmt.Sprint(i), Listed: true, Started: true, Answers: true, HasLeader: true,
			Leader: name == "m3", RaftApplied: 100, Hash: 1,
		})
	}
	return v
}

func TestChooseMembers(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*View)
		self   string
		want   []string
		fails  string
		differ bool
	}{
		"own follower first":             {self: "m2", want: []string{"m2", "m1", "m3"}},
		"a follower before the own lead": {self: "m3", want: []string{"m1", "m2", "m3"}},
		"of no host of the fleet":        {want: []string{"m1", "m2", "m3"}},
		"own one is behind":              {change: func(v *View) { v.Members[0].Lag = 2 * inStep }, self: "m1", want: []string{"m2", "m3", "m1"}},
		"own one is silent":              {change: func(v *View) { v.Members[0].Answers = false }, self: "m1", want: []string{"m2", "m3"}},
		"own one is a learner":           {change: func(v *View) { v.Members[0].Learner = true }, self: "m1", want: []string{"m2", "m3"}},
		"own one lost the leader":        {change: func(v *View) { v.Members[0].HasLeader = false }, self: "m1", want: []string{"m2", "m3", "m1"}},
		"own one of another cluster":     {change: func(v *View) { v.Members[0].OtherCluster = "d" }, self: "m1", want: []string{"m2", "m3"}},
		"own one was removed":            {change: func(v *View) { v.Members[0].Listed = false }, self: "m1", want: []string{"m2", "m3"}},
		"own one has the alarm CORRUPT": {
			change: func(v *View) { v.Alarms = []AlarmView{{Kind: AlarmCorrupt, Member: "m1"}} },
			self:   "m1", want: []string{"m2", "m3"},
		},
		"NOSPACE keeps nobody from saving": {change: func(v *View) { v.Alarms = []AlarmView{{Kind: AlarmNoSpace, Member: "m1"}} }, self: "m1", want: []string{"m1", "m2", "m3"}},
		"own one differs":                  {change: func(v *View) { v.Members[0].Hash = 2 }, self: "m1", want: []string{"m2", "m3"}},
		"own one differs, another silent": {
			change: func(v *View) { v.Members[0].Hash = 2; v.Members[1].Answers = false },
			self:   "m1", fails: "nodeagent etcd replace", differ: true,
		},
		"all three differ":   {change: func(v *View) { v.Members[0].Hash, v.Members[1].Hash = 2, 3 }, fails: "no majority", differ: true},
		"one was not hashed": {change: func(v *View) { v.Members[0].Hash = 0 }, self: "m1", want: []string{"m1", "m2", "m3"}},
		"that one beside others that differ": {
			change: func(v *View) {
				v.Members[0].Hash = 0
				v.Members = append(v.Members, v.Members[1])
				v.Members[3].Name, v.Members[3].Hash = "m4", 2
			},
			self: "m1", want: []string{"m2", "m3"},
		},
		"those that agree have the alarm": {
			change: func(v *View) {
				v.Members[0].Hash = 2
				v.Alarms = []AlarmView{{Kind: AlarmCorrupt, Member: "m2"}, {Kind: AlarmCorrupt, Member: "m3"}}
			},
			fails: "none can be saved", differ: true,
		},
		"without a quorum the fullest": {
			change: func(v *View) {
				v.Quorum = false
				for i := range v.Members {
					v.Members[i].HasLeader, v.Members[i].Leader, v.Members[i].RaftApplied = false, false, uint64(100+i%2)
				}
			},
			self: "m1", want: []string{"m2", "m1", "m3"},
		},
		"nobody answers": {
			change: func(v *View) {
				for i := range v.Members {
					v.Members[i].Answers, v.Members[i].Error = false, "connection refused"
				}
			},
			fails: "connection refused",
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := threeMembers()
			if tc.change != nil {
				tc.change(&v)
			}
			c, err := chooseMembers(v, tc.self)
			if (err != nil) != (tc.fails != "") || err != nil && !strings.Contains(err.Error(), tc.fails) || errors.Is(err, ErrMembersDiffer) != tc.differ {
				t.Fatalf("error %v, want %q", err, tc.fails)
			}
			var got []string
			for _, m := range c.members {
				got = append(got, m.Name)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestComparison(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*View)
		want   *Comparison
	}{
		"all alike":   {func(*View) {}, &Comparison{Revision: 7, Hash: 1, Agree: []string{"m2", "m3"}}},
		"one differs": {func(v *View) { v.Members[2].Hash = 5 }, &Comparison{Revision: 7, Hash: 1, Agree: []string{"m2"}, Differ: []string{"m3"}}},
		"one is silent": {
			func(v *View) {
				v.Members[2].Answers, v.Members[2].Hash, v.Members[2].Error = false, 0, "no route\nmore"
			},
			&Comparison{Revision: 7, Hash: 1, Agree: []string{"m2"}, Unreachable: map[string]string{"m3": "no route"}},
		},
		"two are silent": {
			func(v *View) {
				v.HashRevision = 0
				for i := range v.Members {
					v.Members[i].Answers, v.Members[i].Hash = i == 0, 0
				}
			},
			&Comparison{Skipped: "no other member could be asked", Unreachable: map[string]string{"m2": "it does not answer", "m3": "it does not answer"}},
		},
		"it failed": {
			func(v *View) {
				v.HashRevision, v.HashError = 0, "compacted"
				for i := range v.Members {
					v.Members[i].Hash = 0
				}
			},
			&Comparison{Skipped: "compacted"},
		},
		"alone": {func(v *View) { v.Members, v.HashRevision = v.Members[:1], 0 }, nil},
	} {
		v := threeMembers()
		tc.change(&v)
		c, err := chooseMembers(v, "m1")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tc.want, c.comparison(c.members[0], v)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestParseAlarm(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"memberID:10276657743932975437 alarm:CORRUPT":    "CORRUPT",
		"memberID:10276657743932975437  alarm:NOSPACE":   "NOSPACE",
		"memberID:7 alarm:CORRUPT ":                      "CORRUPT",
		"etcdserver: no leader":                          "",
		"memberID:1 alarm:OTHER":                         "",
		"memberID:99999999999999999999999 alarm:CORRUPT": "",
	} {
		alarm, ok := parseAlarm(text)
		if ok != (want != "") || ok && alarm.Alarm.String() != want {
			t.Errorf("%q is %v, %v", text, alarm, ok)
		}
	}
}

func (r *ring) saveOptions(self string) SaveOptions {
	site := r.site()
	own := r.node(self)
	site.Self, site.Local, site.Socket = self, own.Member.ClientURL, own.Server.Socket
	return SaveOptions{Dir: r.node(self).Root.Snapshots(), Cluster: "mercury", Host: self, Site: site, Version: "test"}
}

// TestSaveOfACluster saves real clusters of three: while all is well, while one
// member is down, when only one is left, and when one holds other data.
func TestSaveOfACluster(t *testing.T) {
	t.Parallel()
	r := startRing(t, 3)
	r.fill("/registry/pods/default/", 100)
	v := r.settle()
	save := func(self string) Manifest {
		t.Helper()
		opts := r.saveOptions(self)
		m, err := Save(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(t.Context(), m.Path(opts.Dir), VerifyOptions{}); err != nil {
			t.Error(err)
		}
		return m
	}
	others := func(name string) []string {
		return slices.DeleteFunc([]string{"m1", "m2", "m3"}, func(other string) bool { return other == name })
	}
	for _, self := range []string{"m1", "m2", "m3"} {
		m := save(self)
		if m.MemberName == v.Leader || self != v.Leader && m.MemberName != self {
			t.Errorf("%s saved %s, while %s leads", self, m.MemberName, v.Leader)
		}
		if m.WithoutQuorum || len(m.Members) != 3 || m.Compared == nil || m.Compared.Revision == 0 ||
			!cmp.Equal(m.Compared.Agree, others(m.MemberName)) || m.Compared.Skipped != "" {
			t.Errorf("%s: compared %+v, members %v", self, m.Compared, m.Members)
		}
	}

	down, left := others(v.Leader)[0], others(v.Leader)[1]
	r.node(down).kill()
	m := save(left)
	if m.MemberName != left || !cmp.Equal(m.Compared.Agree, []string{v.Leader}) || m.Compared.Unreachable[down] == "" {
		t.Errorf("with %s down: %s was saved, compared %+v", down, m.MemberName, m.Compared)
	}

	// The leader goes too: no quorum. Alarms are the hard part, for to ask for
	// them goes through raft.
	member, _ := r.look().member(left)
	raise(t, r.client(r.node(left)), pb.AlarmType_NOSPACE, member.id)
	r.node(v.Leader).kill()
	m = save(left)
	if !m.WithoutQuorum || m.MemberName != left || m.Keys != 100 || m.Compared.Skipped == "" || len(m.Compared.Unreachable) != 2 {
		t.Errorf("without a quorum: %s was saved, %d keys, without quorum %v, compared %+v", m.MemberName, m.Keys, m.WithoutQuorum, m.Compared)
	}
	if !cmp.Equal(m.Alarms, []string{AlarmNoSpace}) {
		t.Errorf("alarms %v", m.Alarms)
	}
	if !cmp.Equal(slices.Sorted(maps.Keys(m.Compared.Unreachable)), others(left)) {
		t.Errorf("unreachable: %v", m.Compared.Unreachable)
	}
}

// TestSaveRefusesTheOneThatDiffers changes a value in one member's database, as a
// disk or a memory may do: hashes tell, and the others are saved. Where only two
// are left nobody can tell which one is right.
func TestSaveRefusesTheOneThatDiffers(t *testing.T) {
	t.Parallel()
	r := startRing(t, 3)
	r.fill("k", 100)
	v := r.settle()
	odd := r.Nodes[slices.IndexFunc(r.Nodes, func(n *node) bool { return n.Member.Name != v.Leader })]
	odd.signal(syscall.SIGTERM)
	changeValue(t, filepath.Join(odd.Root.EtcdData(), "member", "snap", "db"))
	odd.start()
	r.until("the member to be back", func(v View) bool { return v.Serving == 3 && v.Quorum })

	opts := r.saveOptions(odd.Member.Name)
	m, err := Save(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if m.MemberName == odd.Member.Name || !cmp.Equal(m.Compared.Differ, []string{odd.Member.Name}) || len(m.Compared.Agree) != 1 {
		t.Errorf("%s differs, and %s was saved: %+v", odd.Member.Name, m.MemberName, m.Compared)
	}

	other := r.Nodes[slices.IndexFunc(r.Nodes, func(n *node) bool { return n != odd && n.Member.Name != v.Leader })]
	other.kill()
	r.until("the others to have a leader", func(v View) bool { return v.Serving == 2 && v.Quorum })
	if _, err := Save(t.Context(), opts); !errors.Is(err, ErrMembersDiffer) || !strings.Contains(err.Error(), "nodeagent etcd replace") {
		t.Errorf("two of two differ: %v", err)
	}
	entries, err := List(opts.Dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%d snapshots, %v", len(entries), err)
	}
}

// changeValue changes one value of a key in a database.
func changeValue(t *testing.T, path string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(schema.Key.Name())
		k, v := b.Cursor().Last()
		v = slices.Clone(v)
		at := len(v) - 10
		if v[at] != 'x' {
			return fmt.Errorf("%q is no value of fill", v)
		}
		v[at] = 'y'
		return b.Put(slices.Clone(k), v)
	})
	if err != nil {
		t.Fatal(err)
	}
}
