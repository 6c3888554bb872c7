package servers

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// Reserve turns port 0 of an address into a free port and keeps it until the
// test ends: bound, but never listening, by a socket that lets the server bind
// it as well (SO_REUSEADDR on both, socket(7)). While the server is stopped
// connections are refused, and yet no other program can be given the port.
func Reserve(t testing.TB, address string) (string, error) {
	want, err := netip.ParseAddrPort(address)
	if err != nil || want.Port() != 0 {
		return address, err
	}
	family, socketAddress := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: want.Addr().As16()})
	if want.Addr().Is4() {
		family, socketAddress = unix.AF_INET, &unix.SockaddrInet4{Addr: want.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open socket: %w", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return "", fmt.Errorf("set SO_REUSEADDR: %w", err)
	}
	if err := unix.Bind(fd, socketAddress); err != nil {
		return "", fmt.Errorf("bind %s: %w", address, err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return "", fmt.Errorf("read bound address: %w", err)
	}
	var port int
	switch bound := bound.(type) {
	case *unix.SockaddrInet4:
		port = bound.Port
	case *unix.SockaddrInet6:
		port = bound.Port
	}
	return net.JoinHostPort(want.Addr().String(), strconv.Itoa(port)), nil
}

// ReservePort is a port of 127.0.0.1, kept as Reserve does.
func ReservePort(t testing.TB) int {
	t.Helper()
	address, err := Reserve(t, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return int(netip.MustParseAddrPort(address).Port())
}
