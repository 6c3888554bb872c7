package fleets

import (
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// place is a machine: a thread with a network namespace of its own.
type place struct {
	name string
	ns   netns.NsHandle
	do   chan func()
}

// newPlace makes a machine with nothing but a loopback, which routes as it is
// told and does not wait for duplicate addresses of IPv6.
func newPlace(t *testing.T, name string) *place {
	t.Helper()
	p := &place{name: name, do: make(chan func())}
	entered, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // never unlocked: the thread ends here
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			p.ns, err = netns.Get()
		}
		entered <- err
		for f := range p.do {
			f()
		}
	}()
	if err := <-entered; err != nil {
		t.Fatalf("make the network namespace of %s: %v", name, err)
	}
	t.Cleanup(func() { close(p.do); <-ended; p.ns.Close() })
	p.set(t, "net/ipv6/conf/all/accept_dad", "0")
	p.set(t, "net/ipv6/conf/default/accept_dad", "0")
	p.ip(t, "link set lo up")
	return p
}

// run runs f on the machine.
func (p *place) run(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	p.do <- func() { done <- f() }
	if err := <-done; err != nil {
		t.Fatalf("on %s: %v", p.name, err)
	}
}

// set sets a sysctl of the machine's network.
func (p *place) set(t *testing.T, key, value string) {
	t.Helper()
	p.run(t, func() error { return os.WriteFile("/proc/sys/"+key, []byte(value), 0) })
}

// ip runs lines of ip(8) on the machine.
func (p *place) ip(t *testing.T, lines ...string) { t.Helper(); p.batch(t, "ip", lines) }

// bridge runs lines of bridge(8) on the machine.
func (p *place) bridge(t *testing.T, lines ...string) { t.Helper(); p.batch(t, "bridge", lines) }

func (p *place) batch(t *testing.T, program string, lines []string) {
	t.Helper()
	p.exec(t, strings.Join(lines, "\n")+"\n", program, "-batch", "-")
}

// exec runs a program on the machine, which must succeed.
func (p *place) exec(t *testing.T, input string, args ...string) {
	t.Helper()
	p.run(t, func() error {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdin = strings.NewReader(input)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s on %s: %s%s", strings.Join(args, " "), p.name, input, out)
			return err
		}
		return nil
	})
}

// cable joins two machines; the far end bears the name far.
func cable(t *testing.T, near *place, name string, to *place, far string) {
	t.Helper()
	near.run(t, func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: far, PeerNamespace: netlink.NsFd(to.ns),
		})
	})
	near.ip(t, "link set "+name+" up")
}

// tunnel makes a WireGuard device by hand, as wg-quick does on a laptop.
func (p *place) tunnel(t *testing.T, key wgtypes.Key, peers ...wgtypes.PeerConfig) {
	t.Helper()
	p.ip(t, "link add wg0 type wireguard")
	p.run(t, func() error {
		client, err := wgctrl.New()
		if err != nil {
			return err
		}
		defer client.Close()
		return client.ConfigureDevice("wg0", wgtypes.Config{PrivateKey: &key, Peers: peers})
	})
}

// neighbor is the hardware address that the machine has in its ARP cache for an
// address, "" where it has none.
func (p *place) neighbor(t *testing.T, link string, address netip.Addr) (mac string) {
	t.Helper()
	p.run(t, func() error {
		on, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		table, err := netlink.NeighList(on.Attrs().Index, netlink.FAMILY_V4)
		for _, n := range table {
			if a, _ := netip.AddrFromSlice(n.IP); a.Unmap() == address {
				mac = n.HardwareAddr.String()
			}
		}
		return err
	})
	return mac
}

// mac is the hardware address of a link of the machine.
func (p *place) mac(t *testing.T, link string) (mac string) {
	t.Helper()
	p.run(t, func() error {
		on, err := netlink.LinkByName(link)
		if err == nil {
			mac = on.Attrs().HardwareAddr.String()
		}
		return err
	})
	return mac
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
