package netcfg

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
)

// waitSignal takes one signal or fails after a time that is long for a machine
// under load.
func waitSignal(t testing.TB, signal <-chan struct{}, what string) {
	t.Helper()
	select {
	case _, open := <-signal:
		if !open {
			t.Fatalf("%s: the watch ended", what)
		}
	case <-time.After(5 * time.Second):
		t.Fatalf("%s: no signal", what)
	}
}

// settled takes signals until the kernel has nothing more to say, and returns
// what the network looks like then: links have their carrier up to a second
// after they were told to come up. Every link that is up must be able to.
func settled(t testing.TB, signal <-chan struct{}) string {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for waiting := true; waiting; {
		links, err := netlink.LinkList()
		must(t, err)
		waiting = slices.ContainsFunc(links, func(l netlink.Link) bool {
			return l.Attrs().Flags&net.FlagUp != 0 && l.Attrs().Flags&net.FlagRunning == 0
		})
		if time.Now().After(deadline) {
			t.Fatal("a link does not get its carrier")
		}
	}
	for {
		select {
		case <-signal:
		case <-time.After(300 * time.Millisecond):
			return dumpNetwork(t)
		}
	}
}

func TestWatchSignalsDrift(t *testing.T) {
	newNamespace(t)
	withoutDAD(t)
	somebodysVeth(t, "lan0", "wire0")
	sys, want := open(t), Want(mercury())
	converge(t, sys, want)
	signal, err := sys.Watch(t.Context())
	must(t, err)

	lan0 := linkNamed(t, "lan0")
	address, err := netlink.ParseAddr("192.0.2.10/24")
	must(t, err)
	for _, c := range []struct {
		what  string
		drift func() error
	}{
		{"address deleted", func() error { return netlink.AddrDel(lan0, address) }},
		{"route deleted", func() error {
			_, pods, err := net.ParseCIDR("10.99.0.0/16")
			must(t, err)
			return netlink.RouteDel(&netlink.Route{Dst: pods, Priority: 50})
		}},
		{"link down", func() error { return netlink.LinkSetDown(linkNamed(t, "vhost")) }},
		{"link deleted", func() error { return netlink.LinkDel(linkNamed(t, "br0")) }},
		{"rule added", func() error {
			rule := netlink.NewRule()
			rule.Family, rule.Table, rule.Priority = netlink.FAMILY_V4, 254, 1000
			return netlink.RuleAdd(rule)
		}},
	} {
		settled(t, signal)
		must(t, c.drift())
		waitSignal(t, signal, c.what)
		converge(t, sys, want)
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	newNamespace(t)
	sys := open(t)
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		signal, err := sys.Watch(ctx)
		must(t, err)
		cancel()
		select {
		case _, open := <-signal:
			if open {
				t.Fatal("a signal where nothing happened")
			}
		case <-time.After(5 * time.Second):
			t.Fatal("the watch did not end with its context")
		}
	}
	deadline := time.Now().Add(5 * time.Second)
	for strings.Contains(stacks(), "netcfg.receive") {
		if time.Now().After(deadline) {
			t.Fatalf("goroutines of ended watches are left:\n%s", stacks())
		}
		runtime.Gosched()
	}
}

func stacks() string {
	buffer := make([]byte, 1<<20)
	return string(buffer[:runtime.Stack(buffer, true)])
}

// TestWatchSurvivesMissedEvents makes far more events than the socket's buffer
// holds before anybody reads, and expects a signal for them and for later ones.
func TestWatchSurvivesMissedEvents(t *testing.T) {
	newNamespace(t)
	somebodysVeth(t, "lan0", "wire0")
	sys := open(t)
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, watchedGroups...)
	must(t, err)
	must(t, socket.SetReceiveBufferSize(1, false)) // the kernel gives its minimum
	var addresses []hosts.Address
	for i := range 50 {
		addresses = append(addresses, hosts.Plain(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), 1}), 24))...)
	}
	converge(t, sys, Want(&hosts.Spec{Network: hosts.Network{Links: []hosts.Link{{Name: "lan0", Kind: hosts.LinkPhysical, Addresses: addresses}}}}))

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	context.AfterFunc(ctx, socket.Close)
	signal := make(chan struct{}, 1)
	var live atomic.Bool
	go receive(ctx, socket, func(syscall.NetlinkMessage) bool { return live.Load() }, signal)
	waitSignal(t, signal, "missed events") // for these alone: no message matters
	live.Store(true)
	must(t, netlink.LinkSetMTU(linkNamed(t, "lan0"), 1400))
	waitSignal(t, signal, "events after missed ones")
}

// TestWatchSignalsOwnTableAlone and not the tables of others.
func TestWatchSignalsOwnTableAlone(t *testing.T) {
	newNamespace(t)
	sys := open(t)
	spec := &hosts.Spec{Name: "mercury", Firewall: hosts.Firewall{Enabled: true}}
	converge(t, sys, Want(spec))
	signal, err := sys.Watch(t.Context())
	must(t, err)
	conn, err := nftables.New()
	must(t, err)

	conn.AddChain(&nftables.Chain{Name: "services", Table: conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "kube-proxy"})})
	must(t, conn.Flush())
	select {
	case <-signal:
		t.Error("a table of somebody else's signals")
	case <-time.After(200 * time.Millisecond):
	}
	conn.AddChain(&nftables.Chain{Name: "services", Table: conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: FirewallTable})})
	must(t, conn.Flush())
	waitSignal(t, signal, "a chain in our table")
	converge(t, sys, Want(spec))
	settled(t, signal)
	conn.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: FirewallTable})
	must(t, conn.Flush())
	waitSignal(t, signal, "our table deleted")
}
