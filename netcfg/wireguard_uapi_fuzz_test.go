package netcfg

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// FuzzWireGuardDevice configures a device of wireguard-go and reads it, as
// nodeagent does and as wgctrl does: both see the same.
func FuzzWireGuardDevice(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x03 a device with a key, a port and a peer or two that have about everything"))
	f.Add([]byte("\x01" + strings.Repeat("\x3f", 400)))
	f.Add([]byte("\x02" + strings.Repeat("\xff", 400)))
	on := wireGuardThread(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		on(func() error {
			wg := device.NewDevice(tuntest.NewChannelTUN().TUN(), noSockets{conn.NewDefaultBind()}, device.NewLogger(device.LogLevelSilent, ""))
			defer wg.Close()
			config := deviceConfig(data)
			if err := wg.IpcSet(config); err != nil {
				return fmt.Errorf("the device refused\n%s: %w", config, err)
			}
			socket, err := net.Listen("unix", uapiSocket("fuzz0"))
			if err != nil {
				return err
			}
			served := make(chan error)
			go func() { served <- ignoreClosedSocket(serveDevice(wg, socket)) }()
			want, wantErr := wgctrlDevice("fuzz0")
			got, gotErr := readProgram("fuzz0")
			if err := errors.Join(wantErr, gotErr, socket.Close(), <-served); err != nil {
				return err
			}
			// The device lists peers in any order.
			if diff := cmp.Diff(inOrder(readingOf(want)), inOrder(got), compareReadings); diff != "" {
				t.Errorf("other than wgctrl's reading (-wgctrl +own):\n%s\nof\n%s", diff, config)
			}
			return nil
		}, t)
	})
}

// noSockets opens none, so that devices of several processes may have one port.
type noSockets struct{ conn.Bind }

func (noSockets) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) { return nil, port, nil }
func (noSockets) Close() error                                         { return nil }
func (noSockets) SetMark(uint32) error                                 { return nil }

// FuzzWireGuardAnswer reads answers that no device gives: what is read at all is
// read as wgctrl does.
func FuzzWireGuardAnswer(f *testing.F) {
	f.Add([]byte(uapiText))
	f.Add([]byte("listen_port=1\nerrno=0\n\n"))
	on := wireGuardThread(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := readUAPI(strings.NewReader(string(text)))
		if err != nil {
			return
		}
		for _, ignored := range []string{"fwmark", "protocol_version"} {
			if strings.Contains(string(text), ignored) {
				return // wgctrl reads it, and so refuses bad values
			}
		}
		on(func() error {
			want, err := wgctrlReads(text)
			if err != nil {
				return fmt.Errorf("read though wgctrl does not: %w", err)
			}
			reading := readingOf(want)
			for i := range reading.peers {
				p := &reading.peers[i]
				// wgctrl has no zones here, and of a handshake half of which is
				// missing something else.
				got.peers[i].endpoint = netip.AddrPortFrom(got.peers[i].endpoint.Addr().WithZone(""), got.peers[i].endpoint.Port())
				p.handshake = got.peers[i].handshake
			}
			if diff := cmp.Diff(reading, got, compareReadings); diff != "" {
				t.Errorf("other than wgctrl's reading (-wgctrl +own):\n%s", diff)
			}
			return nil
		}, t)
	})
}

// wgctrlReads is what wgctrl reads from a device that gives the answer.
func wgctrlReads(text []byte) (*wgtypes.Device, error) {
	socket, err := net.Listen("unix", uapiSocket("fuzz0"))
	if err != nil {
		return nil, err
	}
	served := make(chan error)
	go func() {
		c, err := socket.Accept()
		if err != nil {
			served <- err
			return
		}
		_, err = io.ReadFull(c, make([]byte, len("get=1\n\n")))
		if err == nil {
			_, err = c.Write(text)
		}
		served <- errors.Join(err, c.Close())
	}()
	device, err := wgctrlDevice("fuzz0")
	return device, errors.Join(err, <-served, socket.Close())
}

// wireGuardThread returns what runs functions on a thread whose sockets of
// userspace devices are its own.
func wireGuardThread(f *testing.F) func(do func() error, t *testing.T) {
	work, entered := make(chan func()), make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		err := enterWireGuardHost()
		if err == nil {
			err = os.MkdirAll(filepath.Dir(uapiSocket("")), 0o755)
		}
		entered <- err
		for do := range work {
			do()
		}
	}()
	f.Cleanup(func() { close(work) })
	if err := <-entered; err != nil {
		if os.Getenv("CI") == "true" {
			f.Fatalf("own namespaces: %v; the tests of WireGuard must run in CI", err)
		}
		f.Skipf("own namespaces: %v; run as root, or allow unprivileged user namespaces", err)
	}
	return func(do func() error, t *testing.T) {
		t.Helper()
		done := make(chan error)
		work <- func() { done <- do() }
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func hexText(key wgtypes.Key) string { return hex.EncodeToString(key[:]) }

func inOrder(r *wireGuardReading) *wireGuardReading {
	sorted := make([]peerReading, 0, len(r.peers))
	for _, at := range r.order() {
		sorted = append(sorted, r.peers[at])
	}
	return &wireGuardReading{privateKey: r.privateKey, port: r.port, peers: sorted}
}

// deviceConfig makes a configuration of bytes: any bytes are a valid one.
func deviceConfig(data []byte) string {
	next := func(n int) []byte {
		part := make([]byte, n)
		data = data[copy(part, data):]
		return part
	}
	number := func(n int) uint64 { return binary.LittleEndian.Uint64(append(next(n), make([]byte, 8)...)) }
	var text strings.Builder
	line := func(key string, value any) { fmt.Fprintf(&text, "%s=%v\n", key, value) }
	kind := number(1)
	if kind&1 != 0 {
		line("private_key", hex.EncodeToString(next(32)))
	}
	if kind&2 != 0 {
		line("listen_port", number(2))
	}
	for len(data) > 0 {
		kind := number(1)
		address := func(v6 bool) (a netip.Addr) {
			if v6 {
				return netip.AddrFrom16([16]byte(next(16)))
			}
			return netip.AddrFrom4([4]byte(next(4)))
		}
		line("public_key", hex.EncodeToString(next(32)))
		if kind&1 != 0 {
			line("preshared_key", hex.EncodeToString(next(32)))
		}
		if kind&2 != 0 {
			line("endpoint", net.JoinHostPort(address(kind&4 != 0).String(), fmt.Sprint(number(2))))
		}
		if kind&8 != 0 {
			line("persistent_keepalive_interval", number(2))
		}
		for range kind >> 4 {
			bits := number(1)
			a := address(bits&0x80 != 0)
			line("allowed_ip", netip.PrefixFrom(a, int(bits&0x7f)%(a.BitLen()+1)))
		}
	}
	return text.String()
}
