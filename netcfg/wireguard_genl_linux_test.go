package netcfg

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// kernelPart makes a message as the kernel's answer has them.
func kernelPart(fill func(m *message)) []byte {
	m := newMessage(0, 0, unix.WG_CMD_GET_DEVICE, unix.WG_GENL_VERSION, 0, 0)
	fill(m)
	return m.b[unix.SizeofNlMsghdr:]
}

func addKernelAllowed(m *message, prefixes ...string) {
	m.nested(unix.WGPEER_A_ALLOWEDIPS|unix.NLA_F_NESTED, func() {
		for _, text := range prefixes {
			p := netip.MustParsePrefix(text)
			m.nested(unix.NLA_F_NESTED, func() {
				m.attribute(unix.WGALLOWEDIP_A_CIDR_MASK, []byte{byte(p.Bits())})
				m.attribute(unix.WGALLOWEDIP_A_FAMILY, []byte{unix.AF_INET, 0})
				m.attribute(unix.WGALLOWEDIP_A_IPADDR, p.Addr().AsSlice())
			})
		}
	})
}

func TestReadKernelPart(t *testing.T) {
	a, b, c, psk := wireGuardPublic(1), wireGuardPublic(2), wireGuardPublic(3), wgtypes.Key{9}
	u64 := func(n uint64) []byte { return binary.NativeEndian.AppendUint64(nil, n) }
	endpoint := append(binary.NativeEndian.AppendUint16(nil, unix.AF_INET), 0xca, 0x6c, 192, 0, 2, 7, 0, 0, 0, 0, 0, 0, 0, 0)
	endpoint6 := append(binary.NativeEndian.AppendUint16(nil, unix.AF_INET6), 0, 53, 0, 0, 0, 0)
	endpoint6 = append(append(endpoint6, netip.MustParseAddr("2001:db8::1").AsSlice()...), 0, 0, 0, 0)
	parts := [][]byte{
		kernelPart(func(m *message) {
			m.attribute(unix.WGDEVICE_A_LISTEN_PORT, binary.NativeEndian.AppendUint16(nil, 51820))
			m.attribute(unix.WGDEVICE_A_PRIVATE_KEY, psk[:])
			m.nested(unix.WGDEVICE_A_PEERS|unix.NLA_F_NESTED, func() {
				m.nested(unix.NLA_F_NESTED, func() {
					m.attribute(unix.WGPEER_A_PUBLIC_KEY, a[:])
					m.attribute(unix.WGPEER_A_PRESHARED_KEY, psk[:])
					m.attribute(unix.WGPEER_A_LAST_HANDSHAKE_TIME, append(u64(1700000000), u64(5)...))
					m.attribute(unix.WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, binary.NativeEndian.AppendUint16(nil, 25))
					m.attribute(unix.WGPEER_A_TX_BYTES, u64(11))
					m.attribute(unix.WGPEER_A_RX_BYTES, u64(1<<62))
					m.attribute(unix.WGPEER_A_ENDPOINT, endpoint)
					addKernelAllowed(m, "10.0.0.0/8", "::ffff:10.0.0.0/104")
				})
				m.nested(unix.NLA_F_NESTED, func() {
					m.attribute(unix.WGPEER_A_PUBLIC_KEY, b[:])
					m.attribute(unix.WGPEER_A_LAST_HANDSHAKE_TIME, make([]byte, 16))
					m.attribute(unix.WGPEER_A_ENDPOINT, endpoint6)
					addKernelAllowed(m, "fd00::1/128")
				})
			})
		}),
		kernelPart(func(m *message) { // b goes on
			m.nested(unix.WGDEVICE_A_PEERS|unix.NLA_F_NESTED, func() {
				m.nested(unix.NLA_F_NESTED, func() {
					m.attribute(unix.WGPEER_A_PUBLIC_KEY, b[:])
					addKernelAllowed(m, "fd00::2/128", "0.0.0.0/0")
				})
				m.nested(unix.NLA_F_NESTED, func() { m.attribute(unix.WGPEER_A_PUBLIC_KEY, c[:]) })
			})
		}),
	}
	want := &wireGuardReading{privateKey: psk, port: 51820, peers: []peerReading{
		{
			publicKey: a, preshared: psk, handshake: time.Unix(1700000000, 5), keepalive: 25 * time.Second, sent: 11, received: 1 << 62,
			endpoint: netip.MustParseAddrPort("192.0.2.7:51820"), allowed: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::ffff:10.0.0.0/104")},
		},
		{
			publicKey: b, endpoint: netip.MustParseAddrPort("[2001:db8::1]:53"),
			allowed: []netip.Prefix{netip.MustParsePrefix("fd00::1/128"), netip.MustParsePrefix("fd00::2/128"), netip.MustParsePrefix("0.0.0.0/0")},
		},
		{publicKey: c},
	}}
	var builder readingBuilder
	for _, part := range parts {
		if err := readKernelPart(&builder, part); err != nil {
			t.Fatal(err)
		}
	}
	builder.end()
	if diff := cmp.Diff(want, &builder.device, compareReadings); diff != "" {
		t.Errorf("other than expected (-want +got):\n%s", diff)
	}
}

func TestReadKernelPartShort(t *testing.T) {
	key := wireGuardPublic(1)
	for kind, size := range kernelSizes {
		part := kernelPart(func(m *message) {
			m.nested(unix.WGDEVICE_A_PEERS, func() {
				m.nested(0, func() {
					if kind != unix.WGPEER_A_PUBLIC_KEY {
						m.attribute(unix.WGPEER_A_PUBLIC_KEY, key[:])
					}
					m.attribute(kind, make([]byte, size-1))
				})
			})
		})
		if err := readKernelPart(&readingBuilder{}, part); err == nil || !strings.Contains(err.Error(), "too short") {
			t.Errorf("attribute %d of %d bytes: error %v", kind, size-1, err)
		}
	}
	for _, kind := range []uint16{unix.WGDEVICE_A_PRIVATE_KEY, unix.WGDEVICE_A_LISTEN_PORT} {
		part := kernelPart(func(m *message) { m.attribute(kind, []byte{1}) })
		if err := readKernelPart(&readingBuilder{}, part); err == nil || !strings.Contains(err.Error(), "too short") {
			t.Errorf("attribute %d of 1 byte: error %v", kind, err)
		}
	}
}
