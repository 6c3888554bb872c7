package netcfg

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Announce tells the neighbours on the link that the address is now here: by a
// gratuitous ARP request and reply for IPv4 (RFC 5944, 4.6; some heed only the
// one or the other), an unsolicited neighbour advertisement that overrides for
// IPv6 (RFC 4861, 7.2.6).
func Announce(ctx context.Context, link string, address netip.Addr) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	iface, err := interfaceNamed(link)
	if err != nil {
		return fmt.Errorf("announce %s on link %q: %w", address, link, err)
	}
	if address.Is6() {
		err = advertise(iface, address)
	} else {
		err = errors.Join(
			sendARP(iface, arp(arpRequest, iface.HardwareAddr, address, address)),
			sendARP(iface, arp(arpReply, iface.HardwareAddr, address, address)))
	}
	if err != nil {
		return fmt.Errorf("announce %s on link %q: %w", address, link, err)
	}
	return nil
}

// interfaceNamed finds a link by its name or an alternative one.
func interfaceNamed(name string) (*net.Interface, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, err
	}
	a := link.Attrs()
	return &net.Interface{Index: a.Index, Name: a.Name, HardwareAddr: a.HardwareAddr}, nil
}

// probeEach is how often a rival is asked for, probeTime how long it may take
// to answer.
const (
	probeEach = 200 * time.Millisecond
	probeTime = 600 * time.Millisecond
)

// Rival asks on the link whether another host answers for the address, and
// returns its hardware address, "" where none does. It works whether or not this
// host has the address itself: an ARP probe (RFC 5227, 2.1.1) has no sender
// address, and a neighbour solicitation is sent from the link's own.
func Rival(ctx context.Context, link string, address netip.Addr) (string, error) {
	iface, err := interfaceNamed(link)
	if err != nil {
		return "", fmt.Errorf("look for a rival of %s: link %q: %w", address, link, err)
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	ask := rivalARP
	if address.Is6() {
		ask = rivalND
	}
	rival, err := ask(ctx, iface, address)
	if err != nil {
		return "", fmt.Errorf("look for a rival of %s on link %q: %w", address, link, err)
	}
	return rival, nil
}

const (
	arpRequest = 1
	arpReply   = 2
)

// arp is an ARP packet for Ethernet and IPv4 (RFC 826), 28 bytes.
func arp(operation uint16, hardware net.HardwareAddr, sender, target netip.Addr) []byte {
	b := binary.BigEndian.AppendUint16(nil, 1)  // Ethernet
	b = binary.BigEndian.AppendUint16(b, 0x800) // IPv4
	b = append(b, 6, 4)
	b = binary.BigEndian.AppendUint16(b, operation)
	b = append(b, hardware...)
	b = append(b, sender.AsSlice()...)
	b = append(b, make([]byte, 6)...)
	return append(b, target.AsSlice()...)
}

// bigEndian16 is a number as the kernel wants it in a socket address.
func bigEndian16(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}

func openARP(iface *net.Interface) (int, error) {
	if len(iface.HardwareAddr) != 6 {
		return -1, errors.New("the link is no Ethernet link, so nobody there can be told")
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(bigEndian16(unix.ETH_P_ARP)))
	if err != nil {
		return -1, fmt.Errorf("open packet socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian16(unix.ETH_P_ARP), Ifindex: iface.Index}); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("bind packet socket: %w", err)
	}
	return fd, nil
}

func broadcastARP(fd int, iface *net.Interface, packet []byte) error {
	to := &unix.SockaddrLinklayer{Protocol: bigEndian16(unix.ETH_P_ARP), Ifindex: iface.Index, Halen: 6}
	copy(to.Addr[:], []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	if err := unix.Sendto(fd, packet, 0, to); err != nil {
		return fmt.Errorf("send ARP: %w", err)
	}
	return nil
}

func sendARP(iface *net.Interface, packet []byte) error {
	fd, err := openARP(iface)
	if err != nil {
		return err
	}
	return errors.Join(broadcastARP(fd, iface, packet), unix.Close(fd))
}

func rivalARP(ctx context.Context, iface *net.Interface, address netip.Addr) (string, error) {
	fd, err := openARP(iface)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	probe := arp(arpRequest, iface.HardwareAddr, netip.IPv4Unspecified(), address)
	heard := func(packet []byte) string {
		// Hardware 1, protocol IPv4; the sender is at 8, its address at 14.
		if len(packet) < 28 || !bytes.Equal(packet[14:18], address.AsSlice()) {
			return ""
		}
		return stranger(iface, packet[8:14])
	}
	return probeUntil(ctx, fd, func() error { return broadcastARP(fd, iface, probe) }, heard)
}

// stranger is the hardware address unless it is the link's own.
func stranger(iface *net.Interface, hardware net.HardwareAddr) string {
	if bytes.Equal(hardware, iface.HardwareAddr) {
		return ""
	}
	return hardware.String()
}

// probeUntil sends now and then until heard recognises an answer or ctx, which
// has a deadline, is done.
func probeUntil(ctx context.Context, fd int, send func() error, heard func(packet []byte) string) (string, error) {
	buffer := make([]byte, 1500)
	var next time.Time
	for ctx.Err() == nil {
		if now := time.Now(); now.After(next) {
			if err := send(); err != nil {
				return "", err
			}
			next = now.Add(probeEach)
		}
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, int(time.Until(next).Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return "", fmt.Errorf("wait for an answer: %w", err)
		}
		for {
			n, _, err := unix.Recvfrom(fd, buffer, 0)
			if err != nil {
				if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
					break
				}
				return "", fmt.Errorf("read an answer: %w", err)
			}
			if who := heard(buffer[:n]); who != "" {
				return who, nil
			}
		}
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return "", ctx.Err()
	}
	return "", nil
}

// The messages and options of neighbour discovery (RFC 4861, 4).
const (
	ndSolicitation  = 135
	ndAdvertisement = 136
	ndSourceLink    = 1
	ndTargetLink    = 2
	ndOverride      = 0x20
)

// neighbourMessage is a neighbour solicitation or advertisement; the kernel
// fills in the checksum.
func neighbourMessage(kind, flags byte, target netip.Addr, option byte, hardware net.HardwareAddr) []byte {
	b := append([]byte{kind, 0, 0, 0, flags, 0, 0, 0}, target.AsSlice()...)
	return append(append(b, option, 1), hardware...)
}

func openND(iface *net.Interface) (int, error) {
	if len(iface.HardwareAddr) != 6 {
		return -1, errors.New("the link is no Ethernet link, so nobody there can be told")
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMPV6)
	if err != nil {
		return -1, fmt.Errorf("open ICMPv6 socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, iface.Index),
		// Receivers drop messages that might have come through a router.
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 0),
		unix.BindToDevice(fd, iface.Name))
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("set up ICMPv6 socket: %w", err)
	}
	return fd, nil
}

func sendND(fd int, iface *net.Interface, to netip.Addr, packet []byte) error {
	err := unix.Sendto(fd, packet, 0, &unix.SockaddrInet6{Addr: to.As16(), ZoneId: uint32(iface.Index)})
	if err != nil {
		return fmt.Errorf("send neighbour discovery: %w", err)
	}
	return nil
}

func advertise(iface *net.Interface, address netip.Addr) error {
	fd, err := openND(iface)
	if err != nil {
		return err
	}
	packet := neighbourMessage(ndAdvertisement, ndOverride, address, ndTargetLink, iface.HardwareAddr)
	return errors.Join(sendND(fd, iface, netip.IPv6LinkLocalAllNodes(), packet), unix.Close(fd))
}

func rivalND(ctx context.Context, iface *net.Interface, address netip.Addr) (string, error) {
	fd, err := openND(iface)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	ask := neighbourMessage(ndSolicitation, 0, address, ndSourceLink, iface.HardwareAddr)
	heard := func(packet []byte) string {
		// The target is at 8, the first option at 24.
		if len(packet) < 32 || packet[0] != ndAdvertisement || packet[24] != ndTargetLink ||
			!bytes.Equal(packet[8:24], address.AsSlice()) {
			return ""
		}
		return stranger(iface, packet[26:32])
	}
	return probeUntil(ctx, fd, func() error { return sendND(fd, iface, solicitedNode(address), ask) }, heard)
}

// solicitedNode is the multicast address of those that may have the address
// (RFC 4291, 2.7.1).
func solicitedNode(address netip.Addr) netip.Addr {
	b := address.As16()
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}
