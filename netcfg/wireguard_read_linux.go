package netcfg

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// uapiPatience is how long a program may take to answer for its device. One that
// hangs must not hold up the rest of the host's network.
const uapiPatience = 3 * time.Second

// readWireGuardNamed reads a device whose link was not looked at yet. The error
// is fs.ErrNotExist where there is none.
func readWireGuardNamed(name string) (*wireGuardReading, error) {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, fmt.Errorf("link %q: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return nil, explain(err)
	}
	return readWireGuard(name, link.Type() != kindWireGuard)
}

// readWireGuard asks the kernel, or the program behind a link of another kind,
// for a device. The error is fs.ErrNotExist where there is none.
func readWireGuard(name string, userspace bool) (*wireGuardReading, error) {
	read := readKernel
	if userspace {
		read = readProgram
	}
	device, err := read(name)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, fmt.Errorf("the program that serves it does not answer: %w", err)
	case errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	return device, explain(err)
}

// readProgram asks the program that serves a device over its socket. wgctrl does
// so as well, but takes twice the time of the program itself for it
// (docs/benchmarks.md).
func readProgram(name string) (*wireGuardReading, error) {
	c, err := net.Dial("unix", uapiSocket(name))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(uapiPatience)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(c, "get=1\n\n"); err != nil {
		return nil, err
	}
	return readUAPI(c)
}

// uapiSocket is where the programs that serve devices listen, as wgctrl and
// wg(8) know it.
func uapiSocket(name string) string { return "/var/run/wireguard/" + name + ".sock" }

// readingOf translates what wgctrl reads.
func readingOf(d *wgtypes.Device) *wireGuardReading {
	r := &wireGuardReading{privateKey: d.PrivateKey, port: d.ListenPort, peers: make([]peerReading, len(d.Peers))}
	for i, p := range d.Peers {
		reading := peerReading{
			publicKey: p.PublicKey, preshared: p.PresharedKey, handshake: p.LastHandshakeTime,
			received: p.ReceiveBytes, sent: p.TransmitBytes, keepalive: p.PersistentKeepaliveInterval,
		}
		if reading.handshake.Unix() == 0 {
			reading.handshake = time.Time{} // no handshake yet
		}
		if p.Endpoint != nil {
			reading.endpoint = netip.AddrPortFrom(addrFrom(p.Endpoint.IP), uint16(p.Endpoint.Port))
		}
		if len(p.AllowedIPs) > 0 {
			reading.allowed = make([]netip.Prefix, len(p.AllowedIPs))
		}
		for i, ip := range p.AllowedIPs {
			reading.allowed[i] = prefixOf(ip)
		}
		r.peers[i] = reading
	}
	return r
}

// prefixOf keeps the family of the mask: a range of IPv4-mapped addresses is one
// of IPv6.
func prefixOf(n net.IPNet) netip.Prefix {
	ones, bits := n.Mask.Size()
	ip := n.IP
	if bits == 8*net.IPv4len {
		ip = ip.To4()
	}
	a, _ := netip.AddrFromSlice(ip)
	return netip.PrefixFrom(a, ones)
}
