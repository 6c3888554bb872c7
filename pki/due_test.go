package pki

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

func TestRenewAtIsEarlierByLittleAndNeverAtOnce(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	earlier := 0
	for range 5000 {
		lifetime := time.Duration(1+r.Int64N(int64(400*24*60))) * time.Minute
		of := 1 + r.IntN(9)
		req := Request{Name: fmt.Sprint("c", r.Int64()), Slot: Slot{"fleet", r.IntN(of), of}, Lifetime: lifetime, RenewBefore: time.Duration(r.Int64N(int64(lifetime)))}
		given := lifetime
		if r.IntN(3) == 0 {
			given = time.Duration(1 + r.Int64N(int64(lifetime))) // the issuer gave less
		}
		f := Found{NotBefore: start.Add(-Backdate), NotAfter: start.Add(given)}
		at := renewAt(req, f)
		if !at.Equal(renewAt(req, f)) {
			t.Fatal("two answers differ")
		}
		if !at.Before(f.NotAfter) && req.RenewBefore > 0 {
			t.Fatalf("%+v given %s: due at %s, after its end", req, given, at.Sub(start))
		}
		if given == lifetime && lifetime > 20*time.Minute {
			if !at.After(start) {
				t.Fatalf("%+v: due %s before it was issued", req, start.Sub(at))
			}
			latest := f.NotAfter.Add(-req.RenewBefore)
			if early := latest.Sub(at); early < 0 || early > req.RenewBefore/10 {
				t.Fatalf("%+v: %s earlier than renew_before asks", req, early)
			} else if early > 0 {
				earlier++
			}
		}
	}
	if earlier < 1000 {
		t.Errorf("only %d of 5000 have a jitter", earlier)
	}
}

func TestSpan(t *testing.T) {
	for _, tc := range []struct {
		d    time.Duration
		want string
	}{
		{12*day + time.Hour, "12 days"},
		{2 * day, "2 days"},
		{47 * time.Hour, "47 hours"},
		{119 * time.Minute, "119 minutes"},
		{time.Second, "1 second"},
		{0, "0 seconds"},
	} {
		if got := span(tc.d); got != tc.want {
			t.Errorf("%s prints as %q, want %q", tc.d, got, tc.want)
		}
	}
}

// NextDue is exact: nothing is due a second before it, something is at it; and
// following it from renewal to renewal never stalls.
func TestNextDueIsTheFirstMoment(t *testing.T) {
	for _, tc := range []struct {
		name    string
		edit    func(*hosts.PKI)
		hops    int
		atLeast time.Duration // that the hops together take
	}{
		{"as shipped", func(*hosts.PKI) {}, 40, 30 * day},
		{"minutes", func(p *hosts.PKI) {
			p.Lifetime, p.RenewBefore, p.AdminLifetime = 10*time.Minute, 9*time.Minute, 5*time.Minute
		}, 20, time.Minute},
		{"authorities that outlive nothing", func(p *hosts.PKI) { p.CALifetime = 20 * day }, 30, 20 * day},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := spec("n1", "192.0.2.1", hosts.RoleEtcd, hosts.RoleWorker)
			tc.edit(&s.PKI)
			h := newHost(t, s)
			if next := NextDue(h.observe(), Want(s), h.now); !next.Equal(h.now) {
				t.Fatalf("on a fresh host the next moment is %s, want now", next)
			}
			h.converge()
			for hop := range tc.hops {
				have, want := h.observe(), Want(s)
				next := NextDue(have, want, h.now)
				if !next.After(h.now) {
					t.Fatalf("hop %d: the next moment is %s from now", hop, next.Sub(h.now))
				}
				if early := Diff(have, want, next.Add(-time.Second)); len(early) > 0 {
					t.Fatalf("hop %d: a second before %s there is already:\n%s", hop, next, printed(early))
				}
				if len(Diff(have, want, next)) == 0 {
					t.Fatalf("hop %d: at %s there is nothing", hop, next)
				}
				h.now = next
				h.converge()
			}
			if went := h.now.Sub(start); went < tc.atLeast {
				t.Errorf("%d hops took %s, want at least %s", tc.hops, went, tc.atLeast)
			}
		})
	}
}

func TestNextDueOfNothing(t *testing.T) {
	if next := NextDue(State{}, Want(spec("n1", "192.0.2.1")), start); !next.IsZero() {
		t.Errorf("a host without roles is due at %s", next)
	}
}

// A leaf that ends with an authority which this host cannot renew gains
// nothing from being renewed.
func TestLeafThatEndsWithItsAuthority(t *testing.T) {
	req := Request{Name: "c", CA: layout.CAK8sClient, Client: true, KeyType: "ecdsa-p256", Lifetime: 90 * day, RenewBefore: 30 * day}
	end := start.Add(20 * day)
	want := State{Host: "n1", Trust: []Bundle{{CA: req.CA}}, Certificates: []Certificate{{Request: req}}}
	have := State{
		Trust: []Bundle{{CA: req.CA, Condition: Sound, Digest: "d", KeyIDs: []string{"k"}, NotAfter: end}},
		Certificates: []Certificate{{Request: req, Found: Found{
			Condition: Sound, Serial: "1", NotBefore: start.Add(-70 * day), NotAfter: end, SignedBy: "k", Bundle: "d",
		}}},
	}
	if changes := Diff(have, want, start); len(changes) > 0 {
		t.Errorf("it is renewed for nothing:\n%s", printed(changes))
	}
	if next := NextDue(have, want, start); !next.Equal(end) {
		t.Errorf("next due %s, want its end %s", next, end)
	}
	have.Trust[0].NotAfter = end.Add(365 * day)
	if c := only(t, Diff(have, want, start), "certificate c"); c.Action != plan.ActionRenew {
		t.Errorf("action %s, want it renewed", c.Action)
	}
}
