package netcfg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// readKernel asks the kernel for a device, over its generic netlink family
// (linux/wireguard.h). The error is fs.ErrNotExist where there is none.
func readKernel(name string) (*wireGuardReading, error) {
	w, err := openGeneric()
	if err != nil {
		return nil, err
	}
	defer w.close()
	family, err := wireGuardFamily(w)
	if err != nil {
		return nil, err
	}
	return dump(func() (*wireGuardReading, error) {
		request := newMessage(family, unix.NLM_F_DUMP, unix.WG_CMD_GET_DEVICE, unix.WG_GENL_VERSION, 0, 0)
		request.text(unix.WGDEVICE_A_IFNAME, name)
		var b readingBuilder
		err := w.dump(request, func(payload []byte) error { return readKernelPart(&b, payload) })
		if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
		}
		if err != nil {
			return nil, err
		}
		b.end()
		return &b.device, nil
	})
}

// openGeneric opens a wire for generic netlink.
func openGeneric() (*wire, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err != nil {
		return nil, err
	}
	w := &wire{fd: fd, seq: 1}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: wireSeconds})
	}
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// wireGuardFamily asks for the number of WireGuard's family; fs.ErrNotExist where
// the kernel has none.
func wireGuardFamily(w *wire) (family uint16, err error) {
	const version = 2
	request := newMessage(unix.GENL_ID_CTRL, unix.NLM_F_ACK, unix.CTRL_CMD_GETFAMILY, version, 0, 0)
	request.text(unix.CTRL_ATTR_FAMILY_NAME, unix.WG_GENL_NAME)
	err = w.dump(request, func(payload []byte) error {
		for kind, value := range rtAttributes(genericAttributes(payload)) {
			if kind == unix.CTRL_ATTR_FAMILY_ID && len(value) >= 2 {
				family = binary.NativeEndian.Uint16(value)
			}
		}
		return nil
	})
	if err == nil && family == 0 {
		err = errors.New("the kernel does not tell its number")
	}
	if err != nil {
		return 0, fmt.Errorf("find netlink family %q: %w", unix.WG_GENL_NAME, err)
	}
	return family, nil
}

// genericAttributes is what follows a struct genlmsghdr.
func genericAttributes(payload []byte) []byte { return payload[min(unix.GENL_HDRLEN, len(payload)):] }

// readKernelPart reads one message of the kernel's answer. A peer with many
// addresses goes on in the next message, which then only has its key and more of
// them.
func readKernelPart(b *readingBuilder, payload []byte) error {
	for kind, value := range rtAttributes(genericAttributes(payload)) {
		switch kind {
		case unix.WGDEVICE_A_PRIVATE_KEY:
			if copy(b.device.privateKey[:], value) != len(b.device.privateKey) {
				return errShort("private key")
			}
		case unix.WGDEVICE_A_LISTEN_PORT:
			if len(value) < 2 {
				return errShort("port")
			}
			b.device.port = int(binary.NativeEndian.Uint16(value))
		case unix.WGDEVICE_A_PEERS:
			for _, peer := range rtAttributes(value) {
				if err := readKernelPeer(b, peer); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func errShort(what string) error {
	return fmt.Errorf("read the kernel's wireguard device: its %s is too short", what)
}

func readKernelPeer(b *readingBuilder, attributes []byte) error {
	var key wgtypes.Key
	for kind, value := range rtAttributes(attributes) {
		if kind == unix.WGPEER_A_PUBLIC_KEY && copy(key[:], value) == len(key) {
			break
		}
	}
	p := b.last()
	if p == nil || p.publicKey != key {
		b.end()
		p = b.begin()
		p.publicKey = key
	}
	for kind, value := range rtAttributes(attributes) {
		if len(value) < kernelSizes[kind] {
			return errShort(fmt.Sprintf("attribute %d of a peer", kind))
		}
		switch kind {
		case unix.WGPEER_A_PRESHARED_KEY:
			copy(p.preshared[:], value)
		case unix.WGPEER_A_ENDPOINT:
			p.endpoint = kernelEndpoint(value)
		case unix.WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL:
			p.keepalive = time.Duration(binary.NativeEndian.Uint16(value)) * time.Second
		case unix.WGPEER_A_LAST_HANDSHAKE_TIME:
			p.handshake = unixTime(int64(binary.NativeEndian.Uint64(value)), int64(binary.NativeEndian.Uint64(value[8:])))
		case unix.WGPEER_A_RX_BYTES:
			p.received = int64(binary.NativeEndian.Uint64(value))
		case unix.WGPEER_A_TX_BYTES:
			p.sent = int64(binary.NativeEndian.Uint64(value))
		case unix.WGPEER_A_ALLOWEDIPS:
			for _, allowed := range rtAttributes(value) {
				b.allow(kernelAllowed(allowed))
			}
		}
	}
	return nil
}

// kernelSizes are those of a peer's attributes, in bytes.
var kernelSizes = map[uint16]int{
	unix.WGPEER_A_PUBLIC_KEY: wgtypes.KeyLen, unix.WGPEER_A_PRESHARED_KEY: wgtypes.KeyLen,
	unix.WGPEER_A_ENDPOINT: unix.SizeofSockaddrInet4, unix.WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL: 2,
	unix.WGPEER_A_LAST_HANDSHAKE_TIME: 16, unix.WGPEER_A_RX_BYTES: 8, unix.WGPEER_A_TX_BYTES: 8,
}

// kernelEndpoint reads a struct sockaddr_in or sockaddr_in6; the zero value for
// any other.
func kernelEndpoint(b []byte) netip.AddrPort {
	port := binary.BigEndian.Uint16(b[2:])
	switch family := binary.NativeEndian.Uint16(b); {
	case family == unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port)
	case family == unix.AF_INET6 && len(b) >= unix.SizeofSockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])).Unmap(), port)
	}
	return netip.AddrPort{}
}

func kernelAllowed(attributes []byte) netip.Prefix {
	var address netip.Addr
	bits := -1
	for kind, value := range rtAttributes(attributes) {
		switch kind {
		case unix.WGALLOWEDIP_A_IPADDR:
			address = addrOf(value)
		case unix.WGALLOWEDIP_A_CIDR_MASK:
			if len(value) > 0 {
				bits = int(value[0])
			}
		}
	}
	return netip.PrefixFrom(address, bits)
}
