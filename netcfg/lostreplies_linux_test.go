package netcfg

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// narrow gives the socket room for a few replies only.
func (w *wire) narrow(t *testing.T) {
	t.Helper()
	must(t, unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1))
}

// lost is how many messages to the socket the kernel has thrown away, by its own
// count.
func (w *wire) lost(t *testing.T) int {
	t.Helper()
	var stat unix.Stat_t
	must(t, unix.Fstat(w.fd, &stat))
	table, err := os.ReadFile("/proc/thread-self/net/netlink")
	must(t, err)
	for line := range strings.Lines(string(table)) {
		// sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
		if f := strings.Fields(line); len(f) == 10 && f[9] == fmt.Sprint(stat.Ino) {
			n, err := strconv.Atoi(f[8])
			must(t, err)
			return n
		}
	}
	t.Fatalf("the kernel lists no netlink socket of inode %d:\n%s", stat.Ino, table)
	return 0
}

// clog sends requests that fail and reads none of the replies, so that the
// socket is full, and overrun.
func (w *wire) clog(t *testing.T) {
	t.Helper()
	before := w.lost(t)
	request := (&Rule{Priority: 9, Table: 9}).request(unix.RTM_DELRULE, 0).finish(0)
	for range 1000 {
		must(t, w.write(request))
		if w.lost(t) > before+3 {
			return
		}
	}
	t.Fatal("a thousand replies that nobody reads fit into the socket")
}

// overrunSpec wants routes and rules, of which some cannot be.
func overrunSpec(routes int, via string) State {
	n := hosts.Network{Links: twoNetworks()}
	for i := range routes {
		r := hosts.Route{Destination: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 100, byte(i), 0}), 24), Via: netip.MustParseAddr(via), Device: "lan0"}
		if i%50 == 7 {
			r.Via = netip.MustParseAddr("203.0.113.1") // is nowhere
		}
		n.Routes = append(n.Routes, r)
	}
	for i := range routes / 4 {
		n.Rules = append(n.Rules, hosts.Rule{Priority: 100 + i, From: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 100, byte(i), 0}), 24), Table: 100})
	}
	return Want(&hosts.Spec{Network: n})
}

// TestRepliesToABatchThatGetLost: the kernel says no to many requests at once,
// for somebody was there in between, and has no room to say so. Every change is
// reported by what became of it, and a fresh look finds what is left.
func TestRepliesToABatchThatGetLost(t *testing.T) {
	for _, clogged := range []bool{false, true} {
		t.Run(fmt.Sprint("clogged ", clogged), func(t *testing.T) {
			newNamespace(t)
			withoutDAD(t)
			somebodysVeth(t, "lan0", "wire0")
			somebodysVeth(t, "lan1", "wire1")
			sys := open(t)
			converge(t, sys, network(twoNetworks()))
			const routes = 200
			want := overrunSpec(routes, "10.0.0.2")
			changes := diffNow(t, sys, want)
			for i := range routes { // somebody makes half of them, to other gateways
				if i%2 == 0 {
					ip(t, fmt.Sprintf("route add 10.100.%d.0/24 via 10.0.0.3 dev lan0 proto static", i))
				}
				if i%8 == 0 && i < routes/4 {
					ip(t, fmt.Sprintf("rule add pref %d from 10.100.%d.0/24 lookup 100 proto %d", 100+i, i, RouteProtocol))
				}
			}
			sys.wire.narrow(t)
			if clogged {
				sys.wire.clog(t)
			}
			before := sys.wire.lost(t)
			hear := &heard{failed: map[string]error{}}
			err := sys.Apply(t.Context(), changes, hear)
			if lost := sys.wire.lost(t) - before; lost < routes/4 {
				t.Fatalf("only %d replies were lost: the test proves nothing", lost)
			}
			if hear.begun != len(changes) || hear.ended != len(changes) {
				t.Errorf("of %d changes the reporter heard of %d begun and %d ended", len(changes), hear.begun, hear.ended)
			}
			if errors.Is(err, errLost) || strings.Count(err.Error(), "\n")+1 != len(hear.failed) {
				t.Errorf("%d changes failed, the error is\n%v", len(hear.failed), err)
			}
			if clogged {
				sys.wire.clog(t)
			}
			left := map[string]plan.Change{}
			for _, c := range diffNow(t, sys, want) {
				left[c.Key] = c
			}
			for i := range routes {
				key := fmt.Sprintf("route 10.100.%d.0/24", i)
				c, missing := left[key]
				_, taken := c.Payload.(blocked)
				failed := hear.failed[key]
				switch {
				case i%2 == 0: // somebody's: the plan says whose
					if failed != nil || !missing || !taken {
						t.Errorf("%s, which somebody made: apply said %v, the next plan %v", key, failed, c)
					}
				case i%50 == 7:
					if failed == nil || !strings.Contains(failed.Error(), "gateway 203.0.113.1 is on no network of this host") || !missing {
						t.Errorf("%s, which cannot be: apply said %v, the next plan %v", key, failed, c)
					}
				case failed != nil || missing:
					t.Errorf("%s: apply said %v, the next plan %v", key, failed, c)
				}
				delete(left, key)
			}
			if len(left) > 0 {
				t.Errorf("rules are left: %v", left)
			}
			// The way back from there, by the same narrow socket.
			for i := 0; i < routes; i += 2 {
				ip(t, fmt.Sprintf("route del 10.100.%d.0/24", i))
			}
			converge(t, sys, network(twoNetworks()))
		})
	}
}

// TestReplyThatGetsLost: what was lost is said of every request, and what is sent alone is not tried again, but
// told as it is.
func TestReplyThatGetsLost(t *testing.T) {
	newNamespace(t)
	sys := open(t)
	sys.wire.narrow(t)
	messages := []*message{}
	for i := range 100 {
		messages = append(messages, Rule{Priority: 100 + i, Table: 100}.request(unix.RTM_DELRULE, 0))
	}
	errs := make([]error, len(messages))
	sys.wire.send(messages, errs)
	for i, err := range errs {
		if !errors.Is(err, errLost) {
			t.Fatalf("request %d: %v, want %v", i, err, errLost)
		}
	}
	sys.wire.send(messages[:1], errs[:1])
	if !errors.Is(errs[0], unix.ENOENT) {
		t.Errorf("after replies were lost the next request gets %v, want its own answer", errs[0])
	}
}
