package etcdops

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nodeagent/nodeagent/test/etcds"
)

func (r *ring) recoverOptions(n *node) RecoverOptions {
	opts := r.restoreOptions(n, "")
	opts.Others, opts.Members = opts.Members, nil
	return RecoverOptions{
		RestoreOptions: opts, Program: etcdProgram(r.t),
		Save: SaveOptions{Dir: n.Root.Snapshots(), Cluster: "ring", Host: n.Member.Name, Site: r.siteOf(n), Version: "test"},
	}
}

// recover is what the command does.
func (r *ring) recover(n *node) (RestorePlan, error) {
	opts := r.recoverOptions(n)
	look, err := LookRecover(r.t.Context(), opts)
	if err != nil {
		return RestorePlan{}, err
	}
	snapshot, err := TakeForRecovery(r.t.Context(), look, opts, nil)
	if err != nil {
		return RestorePlan{}, err
	}
	plan, err := PlanRecover(r.t.Context(), snapshot, opts)
	if err != nil {
		return plan, err
	}
	_, err = Restore(r.t.Context(), n.Root, plan, nodeUnits{n}, nil)
	return plan, err
}

// rejoin is what the command does on a host whose agent runs.
func (r *ring) rejoin(n *node) error {
	plan, err := r.starter(n).PlanRejoin(r.t.Context(), time.Now())
	if err != nil {
		return err
	}
	if err := plan.PutAside(r.t.Context(), n.Root, nodeUnits{n}, nil); err != nil {
		return err
	}
	_, err = Replace(r.t.Context(), r.siteOf(n), ReplaceOptions{Host: n.Member.Name, Peer: r.Files, Patience: 2 * time.Minute}, nil)
	return err
}

// Two of three are lost. The third goes on alone with all that it has, whether its
// etcd runs or not; the others come back with their old data, which would be a
// quorum, and do not start it; each joins by one command, and nothing is deleted.
func TestRecoverAndRejoin(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		running bool
		minor   string
	}{"running": {true, ""}, "stopped": {false, ""}, "3.6": {true, "3.6"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			program := ""
			if tc.minor != "" {
				program = etcds.Program(t, tc.minor)
			}
			r := startRingOf(t, 3, program)
			for _, n := range r.Nodes {
				if err := writeMarker(n.Root, time.Now()); err != nil {
					t.Fatal(err)
				}
			}
			m1, m2, m3 := r.Nodes[0], r.Nodes[1], r.Nodes[2]
			r.fill("/registry/", 200)
			if _, err := r.recover(m1); !errors.Is(err, ErrNotRecovered) || !strings.Contains(err.Error(), "it has its quorum") {
				t.Fatalf("recover with a quorum: %v", err)
			}
			m3.kill()
			m2.freeze()
			if _, err := r.recover(m1); !errors.Is(err, ErrFenced) {
				t.Fatalf("recover beside one that may wake up: %v", err)
			}
			m2.thaw()
			m2.kill()
			if !tc.running {
				m1.kill()
			}
			old, _, err := dataCluster(m1.Root.EtcdData())
			if err != nil {
				t.Fatal(err)
			}
			plan, err := r.recover(m1)
			if err != nil {
				t.Fatal(err)
			}
			client := r.client(m1)
			answer, err := client.Get(t.Context(), "/registry/", clientv3.WithPrefix(), clientv3.WithCountOnly())
			if err != nil || answer.Count != 200 {
				t.Fatalf("%d keys after the recovery, %v", answer.Count, err)
			}
			if plan.ClusterID == old || !slices.Contains(plan.Replaces, old) {
				t.Fatalf("cluster %s replaces %v, it was %s", plan.ClusterID, plan.Replaces, old)
			}
			if _, err := r.recover(m1); !errors.Is(err, ErrNotRecovered) {
				t.Errorf("a second recovery: %v", err)
			}

			// They come back, both at once, and hear of it.
			for range 2 {
				for _, n := range []*node{m2, m3} {
					if err := r.converge(t.Context(), n); !errors.Is(err, ErrReplaced) || !strings.Contains(err.Error(), "nodeagent etcd rejoin") || n.running() {
						t.Fatalf("%s: %v", n.Member.Name, err)
					}
				}
			}
			// m1 restarts beside them, whom it has to wait for in nothing.
			m1.kill()
			if err := r.converge(t.Context(), m1); err != nil || !m1.running() {
				t.Fatalf("m1 was not started again: %v", err)
			}
			eventually(t, "m1 to serve", func() error {
				if r.oneCluster() == plan.ClusterID {
					return nil
				}
				return errors.New("it does not")
			})
			for i, n := range []*node{m2, m3} {
				r.agent(n)
				if err := r.rejoin(n); err != nil {
					t.Fatalf("%s: %v", n.Member.Name, err)
				}
				if id := r.oneCluster(); id != plan.ClusterID {
					t.Fatalf("the cluster is %s, not %s", id, plan.ClusterID)
				}
				r.until("the new member", func(v View) bool { return v.Quorum && v.Serving == 2+i })
				kept, err := KeptData(n.Root)
				if err != nil || len(kept) != 1 || kept[0].Cluster != old || kept[0].Why != keptByRejoin {
					t.Errorf("%s kept %+v, %v", n.Member.Name, kept, err)
				}
				if err := r.rejoin(n); !errors.Is(err, ErrNotRejoined) {
					t.Errorf("%s rejoins once more: %v", n.Member.Name, err)
				}
			}
			r.settle()
			for _, n := range r.Nodes {
				if keys := r.keys(n); len(keys) != 200 {
					t.Errorf("%s has %d keys", n.Member.Name, len(keys))
				}
			}
		})
	}
}

// A host that ran all the while, cut off from the others, hears that its cluster
// was replaced.
func TestReplacedWhileRunning(t *testing.T) {
	t.Parallel()
	r := startRing(t, 3)
	m1, m2, m3 := r.Nodes[0], r.Nodes[1], r.Nodes[2]
	r.fill("/registry/", 10)
	m2.kill()
	m3.kill()
	if err := r.starter(m2).Replaced(t.Context()); err != nil {
		t.Errorf("m2 before the recovery: %v", err)
	}
	if _, err := r.recover(m1); err != nil {
		t.Fatal(err)
	}
	// Somebody starts them by hand: they are a quorum of what is no more.
	m2.start()
	m3.start()
	eventually(t, "m2 to be told", func() error {
		if err := r.starter(m2).Replaced(t.Context()); !errors.Is(err, ErrReplaced) {
			return errors.Join(errors.New("it is not"), err)
		}
		return nil
	})
	if err := r.starter(m1).Replaced(t.Context()); err != nil {
		t.Errorf("m1 was told that it was replaced: %v", err)
	}
}
