package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Dial connects from inside the host's network, as a process of the host
// would. The address has a number, not a name: names are the machine's.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial from host %q: %w", h.name, err)
	}
	leader, err := h.enter()
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	return dialIn(ctx, fmt.Sprintf("/proc/%d/ns/net", leader), network, address)
}

// DialWire connects from the namespace of the switches, as a stranger on the
// host's network would. See AddSwitch for the address it comes from.
func (l *Lab) DialWire(ctx context.Context, network, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial from the wire: %w", err)
	}
	return dialIn(ctx, l.wirePath(), network, address)
}

// DialOutside is DialWire on the host's own lab.
func (h *Host) DialOutside(ctx context.Context, network, address string) (net.Conn, error) {
	return h.lab.DialWire(ctx, network, address)
}

// HTTP is a client whose connections start inside the host.
func (h *Host) HTTP() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: h.Dial, DisableKeepAlives: true}}
}

// ListenWire opens a datagram socket in the namespace of the switches, for a
// server that the test plays itself. The address has a number.
func (l *Lab) ListenWire(ctx context.Context, network, address string) (conn net.PacketConn, err error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("listen on the wire: %w", err)
	}
	err = inside(l.wirePath(), func() (err error) {
		conn, err = new(net.ListenConfig).ListenPacket(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on the wire: %w", err)
	}
	return conn, nil
}

// dialIn makes the connection in the network namespace. A socket stays in the
// namespace it was made in, so the connection can be used anywhere.
func dialIn(ctx context.Context, namespace, network, address string) (conn net.Conn, err error) {
	err = inside(namespace, func() (err error) {
		// For one numeric address, the dialer makes its socket on this
		// goroutine, so on this thread.
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	return conn, nil
}

// inside runs f on a thread that is in the network namespace for that long.
func inside(namespace string, f func() error) error {
	there, err := os.Open(namespace)
	if err != nil {
		return err
	}
	defer there.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter %s: %w", namespace, err)
			return
		}
		err = f()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		// Else the thread stays locked and ends with this goroutine: no other
		// one may find itself in the host's network.
		done <- err
	}()
	return <-done
}

// Get asks for a URL from inside the host and returns the body of a 200.
func (h *Host) Get(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fmt.Errorf("get %s from host %q: %w", url, h.name, err)
	}
	response, err := h.HTTP().Do(request)
	if err != nil {
		return "", fmt.Errorf("get %s from host %q: %w", url, h.name, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", fmt.Errorf("get %s from host %q: %w", url, h.name, err)
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("get %s from host %q: %s: %s", url, h.name, response.Status, last(string(body), 500))
	}
	return string(body), nil
}
