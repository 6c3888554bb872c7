package pki

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// fleetOf is n hosts of which each knows the others, in an order of names that
// is not the order of their numbers.
func fleetOf(n int, roles func(i int) []hosts.Role) []*hosts.Spec {
	list := make([]*hosts.Spec, n)
	for i := range list {
		list[i] = spec(fmt.Sprintf("h%d", (i*7919)%100003), "192.0.2.1", roles(i)...)
		list[i].PKI.Issuer = IssuerVault
	}
	for _, s := range list {
		for _, p := range list {
			if p != s {
				s.Peers = append(s.Peers, hosts.Peer{Name: p.Name, Roles: p.Roles, Address: netip.Addr{}})
			}
		}
	}
	return list
}

// TestNoTwoHostsRenewTogether: whenever the certificates of a fleet were issued,
// the moments at which two hosts renew those of one role lie half a slot apart,
// and those of one certificate a whole one.
func TestNoTwoHostsRenewTogether(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 5))
	for range 60 {
		n := 2 + r.IntN(12)
		etcd := make([]bool, n)
		for i := range etcd {
			etcd[i] = i < 2 || r.IntN(2) == 0
		}
		fleet := fleetOf(n, func(i int) []hosts.Role {
			if etcd[i] {
				return []hosts.Role{hosts.RoleEtcd}
			}
			return []hosts.Role{hosts.RoleWorker}
		})
		lifetime := time.Duration(2+r.Int64N(200*24*60)) * time.Minute
		renew := time.Duration(1 + r.Int64N(int64(lifetime)-1))
		type due struct {
			host, name string
			at         time.Time
		}
		var all []due
		var period, slot time.Duration
		for i, s := range fleet {
			if !etcd[i] {
				continue
			}
			s.PKI.Lifetime, s.PKI.RenewBefore = lifetime, renew
			for _, c := range Want(s).Certificates {
				if c.Name == layout.CertNodeagent {
					continue // all hosts have one, so its slots are others
				}
				period = min(renew/10, (lifetime-renew)/2)
				slot = period / time.Duration(c.Slot.Of)
				issued := start.Add(time.Duration(r.Int64N(int64(2 * lifetime))))
				f := Found{NotBefore: issued.Add(-Backdate), NotAfter: issued.Add(lifetime)}
				all = append(all, due{s.Name, c.Name, renewAt(c.Request, f)})
			}
		}
		for i, a := range all {
			for _, b := range all[:i] {
				least := slot / 2
				if a.name == b.name {
					least = slot - time.Duration(len(fleet)) // division drops nanoseconds
				}
				if apart := a.at.Sub(b.at).Abs(); a.host != b.host && apart < least {
					t.Fatalf("%d hosts, lifetime %s, renewed %s before: %s of %s and %s of %s are due %s apart, want %s",
						n, lifetime, renew, a.name, a.host, b.name, b.host, apart, least)
				}
			}
		}
	}
}

// TestSlotsSpreadAFleet: what a thousand hosts ask the issuer for is spread
// evenly over the period, also when all were set up within the same minute.
func TestSlotsSpreadAFleet(t *testing.T) {
	const n, parts = 1000, 20
	fleet := fleetOf(n, func(int) []hosts.Role { return []hosts.Role{hosts.RoleWorker} })
	period := 3 * day
	var counts [parts]int
	first := start.Add(90*day - 30*day - period)
	for _, s := range fleet {
		for _, c := range Want(s).Certificates {
			at := renewAt(c.Request, Found{NotBefore: start.Add(-Backdate), NotAfter: start.Add(90 * day)})
			if at.Before(first) || at.After(first.Add(period)) {
				t.Fatalf("%s of %s is due at %s", c.Name, s.Name, at)
			}
			counts[min(int(at.Sub(first)*parts/period), parts-1)]++
		}
	}
	mean := n * len(Want(fleet[0]).Certificates) / parts
	for i, count := range counts {
		if count > 2*mean || count < mean/2 {
			t.Errorf("part %d of %d has %d renewals, the mean is %d: %v", i, parts, count, mean, counts)
		}
	}
}

// TestSlotsOfClusters: clusters with one issuer do not share their turns.
func TestSlotsOfClusters(t *testing.T) {
	seen := map[time.Duration]bool{}
	for i := range 100 {
		at := Slot{Fleet: fmt.Sprint("cluster", i), Of: 3}.before(start, 3*day, layout.CertEtcdPeer)
		early := start.Sub(at)
		if early < 0 || early >= 3*day {
			t.Fatalf("%s early", early)
		}
		seen[early/time.Hour] = true
	}
	if len(seen) < 40 {
		t.Errorf("100 clusters renew in only %d different hours of 72", len(seen))
	}
}

// A refused certificate stays refused when another host joins the fleet.
func TestDigestLeavesTheSlotOut(t *testing.T) {
	a := Request{Name: "c", Lifetime: day}
	b := a
	b.Slot = Slot{"x", 1, 2}
	if a.digest() != b.digest() {
		t.Error("the slot is part of what is asked for")
	}
}
