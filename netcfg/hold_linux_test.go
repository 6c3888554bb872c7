package netcfg

import (
	"errors"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// TestHoldPort: a port that is held refuses what other machines open to it, and
// nothing else; it ends by itself.
func TestHoldPort(t *testing.T) {
	p := newFirewallPair(t)
	firewallListen(t, 6443)
	firewallListen(t, 80)
	held := func(want bool) {
		t.Helper()
		for _, address := range []string{"192.0.2.1:6443", "[2001:db8::1]:6443"} {
			conn, err := p.dial(t, address, 10*time.Second)
			if err == nil {
				conn.Close()
			}
			if refused := errors.Is(err, unix.ECONNREFUSED); refused != want || err != nil && !refused {
				t.Fatalf("%s: %v, want it refused: %v", address, err, want)
			}
		}
	}
	held(false)
	before, err := p.dial(t, "192.0.2.1:6443", 10*time.Second)
	must(t, err)
	defer before.Close()

	for _, lease := range []time.Duration{time.Hour, time.Minute} { // the second replaces the first
		must(t, HoldPort(6443, lease))
		held(true)
	}
	if !p.reaches(t, "192.0.2.1:80", true) {
		t.Error("another port is held too")
	}
	here, err := netns.Get()
	must(t, err)
	defer here.Close()
	own := firewallPair{here}
	for _, address := range []string{"127.0.0.1:6443", "192.0.2.1:6443"} {
		conn, err := own.dial(t, address, 10*time.Second)
		if err != nil {
			t.Fatalf("the host's own connection to %s: %v", address, err)
		}
		conn.Close()
	}
	echo(t, before, "still here")
	if list, err := foreignTables(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("tables of others: %v, %v", list, err)
	}

	// Whom the firewall drops hears nothing of it.
	convergeFirewall(t, packetFirewall())
	if p.reaches(t, "192.0.2.1:6443", false) {
		t.Error("the firewall lets a stranger through")
	}
	convergeFirewall(t, nil)

	for range 2 { // the second has nothing to do
		must(t, ReleasePorts())
		held(false)
	}
	const lease = 3 * time.Second
	must(t, HoldPort(6443, lease))
	began := time.Now()
	held(true)
	for {
		conn, err := p.dial(t, "192.0.2.1:6443", 10*time.Second)
		if err == nil {
			conn.Close()
			break
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("a hold of %s has not ended after a minute: %v", lease, err)
		}
	}
	if took := time.Since(began); took < lease/2 {
		t.Errorf("a hold of %s ended after %s", lease, took)
	}
	if HoldPort(0, time.Minute) == nil || HoldPort(6443, 0) == nil {
		t.Error("a hold that is none was taken")
	}
}
