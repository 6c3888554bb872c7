package etcdops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/servers"
)

// restartMoved starts the member at its new address, as the unit of its new spec.
func (n *node) restartMoved() {
	n.kill()
	n.move()
	n.startMoved()
}

func (n *node) startMoved() {
	n.t.Helper()
	if err := n.startAs(n.existing()); err != nil {
		n.t.Fatal(err)
	}
}

// All members of a cluster get other addresses, one after the other, while
// somebody writes all the time. Each is announced before it moves, or was moved
// while it was off.
func TestReaddress(t *testing.T) {
	t.Parallel()
	r := startRing(t, 3)
	r.fill("/registry/", 50)
	id := r.oneCluster()
	var endpoints atomic.Value // the writer's
	place := func() {
		var list []string
		for _, m := range r.members() {
			list = append(list, m.ClientURL)
		}
		endpoints.Store(list)
	}
	place()
	stop := r.writer(&endpoints)
	for i, n := range r.Nodes {
		old := n.Member
		announced := i != 1
		if announced {
			// The fleet has the new address already, the host not yet.
			client, peer := servers.ReservePort(t), servers.ReservePort(t)
			fresh := localMember(n.Member.Name, client, peer)
			site := r.siteOf(r.Nodes[(i+1)%3])
			for j := range site.Members {
				if site.Members[j].Name == n.Member.Name {
					site.Members[j] = fresh
				}
			}
			done, err := Readdress(t.Context(), site, ReaddressOptions{Host: n.Member.Name, Peer: r.Files}, nil)
			if err != nil || done.To != fresh.PeerURL {
				t.Fatalf("announce %s: %+v, %v", n.Member.Name, done, err)
			}
			view := Look(t.Context(), site, false)
			if m, _ := view.member(n.Member.Name); !slices.Equal(m.PeerURLs, []string{old.PeerURL, fresh.PeerURL}) {
				t.Fatalf("%s is known at %v", n.Member.Name, m.PeerURLs)
			}
			// Another one waits for its turn.
			other := slices.Clone(site.Members)
			j := (i + 1) % 3
			other[j].PeerURL = "https://127.0.0.1:1"
			if _, err := Readdress(t.Context(), Site{TLS: site.TLS, Members: other, Self: other[j].Name}, ReaddressOptions{Host: other[j].Name, Peer: r.Files}, nil); !errors.Is(err, ErrNotReaddressed) || !strings.Contains(err.Error(), "one at a time") {
				t.Fatalf("a second one: %v", err)
			}
			n.kill()
			n.moveTo(client, peer)
			n.startMoved()
		} else {
			n.restartMoved()
		}
		if _, err := Readdress(t.Context(), r.siteOf(n), ReaddressOptions{Host: n.Member.Name, Peer: r.Files, Patience: time.Minute}, nil); err != nil {
			t.Fatalf("%s, announced %v: %v", n.Member.Name, announced, err)
		}
		place()
		v := r.settle()
		if m, _ := v.member(n.Member.Name); !slices.Equal(m.PeerURLs, []string{n.Member.PeerURL}) {
			t.Errorf("%s is known at %v", n.Member.Name, m.PeerURLs)
		}
		if now := r.oneCluster(); now != id {
			t.Fatalf("the cluster is %s, it was %s", now, id)
		}
	}
	wrote := stop()
	if wrote == 0 {
		t.Error("nothing could be written")
	}
	// And all of it is everywhere.
	for _, n := range r.Nodes { // the last one may have been written and not answered
		if keys := r.keys(n); len(keys) != 50+wrote && len(keys) != 51+wrote {
			t.Errorf("%s has %d keys, want %d", n.Member.Name, len(keys), 50+wrote)
		}
	}
}

// writer writes one key after the other through whichever member answers until it
// is stopped, and then says how many.
func (r *ring) writer(endpoints *atomic.Value) (stop func() int) {
	ctx, cancel := context.WithCancel(r.t.Context())
	wrote := 0
	var wait sync.WaitGroup
	wait.Go(func() {
		for ctx.Err() == nil {
			for _, endpoint := range endpoints.Load().([]string) {
				client, err := dial(ctx, r.Files, endpoint)
				if err != nil {
					continue
				}
				brief, end := context.WithTimeout(ctx, answerTimeout)
				_, err = client.Put(brief, fmt.Sprintf("/written/%06d", wrote), "x")
				end()
				closeClient(client)
				if err == nil {
					wrote++
				}
				break
			}
		}
	})
	stop = sync.OnceValue(func() int { cancel(); wait.Wait(); return wrote })
	r.t.Cleanup(func() { stop() })
	return stop
}

// What is decided about a member that is to be at another address.
func TestNextAddress(t *testing.T) {
	member := func(id uint64, name string, urls ...string) MemberView {
		return MemberView{
			Name: name, ID: idText(id), id: id, Fleet: &Member{Name: name, PeerURL: "https://" + name + ":2380"}, Listed: true, Started: true, Answers: true, HasLeader: true,
			PeerURLs: urls,
		}
	}
	well := func() View {
		return View{Quorum: true, Members: []MemberView{member(1, "a", "https://old:2380"), member(2, "b", "https://b:2380"), member(3, "c", "https://c:2380")}}
	}
	for name, tc := range map[string]struct {
		change func(*View)
		want   AddressStep
		text   string
	}{
		"to be announced":       {func(*View) {}, AddressAdd, ""},
		"announced":             {func(v *View) { v.Members[0].PeerURLs = []string{"https://old:2380", "https://a:2380"} }, AddressMove, ""},
		"done":                  {func(v *View) { v.Members[0].PeerURLs = []string{"https://a:2380"} }, AddressDone, ""},
		"done, without quorum":  {func(v *View) { v.Members[0].PeerURLs, v.Quorum = []string{"https://a:2380"}, false }, AddressDone, ""},
		"no quorum":             {func(v *View) { v.Quorum = false }, "", "snapshot restore"},
		"another is down":       {func(v *View) { v.Members[1].Answers = false }, "", "b does not serve"},
		"it is down itself":     {func(v *View) { v.Members[0].Answers = false }, AddressAdd, ""},
		"another moves":         {func(v *View) { v.Members[2].PeerURLs = append(v.Members[2].PeerURLs, "https://x:2380") }, "", "one at a time"},
		"another joins":         {func(v *View) { v.Members[2].Learner = true }, "", "joining"},
		"the address is taken":  {func(v *View) { v.Members[2].PeerURLs = []string{"https://a:2380"} }, "", "exchange their addresses"},
		"it is no member":       {func(v *View) { v.Members[0].Listed = false }, "", "no member"},
		"it is none of a fleet": {func(v *View) { v.Members[0].Fleet = nil }, "", "no member"},
	} {
		v := well()
		tc.change(&v)
		v.finish()
		step, _, err := NextAddress(v, "a")
		if step != tc.want || (err == nil) != (tc.text == "") || err != nil && !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %q, %v; want %q, %q", name, step, err, tc.want, tc.text)
		}
	}
}
