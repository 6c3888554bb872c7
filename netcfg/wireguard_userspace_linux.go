package netcfg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
	"golang.zx2c4.com/wireguard/tun"
)

// ServeWireGuard is a WireGuard device of the name in this process, until ctx is
// done or somebody deletes the device; an error unless ctx is done. It is
// configured as the kernel's are, over the socket that wgctrl and wg(8) know
// (/var/run/wireguard/NAME.sock), and bears nodeagent's marks. ready is called
// once it answers. It needs CAP_NET_ADMIN and /dev/net/tun, and the device's
// sockets are those of the process's network namespace.
//
// A killed process takes its device with it; the next one begins with nothing
// configured.
func ServeWireGuard(ctx context.Context, name string, log *slog.Logger, ready func()) error {
	tunnel, err := tun.CreateTUN(name, device.DefaultMTU)
	if err != nil {
		return fmt.Errorf("create tun device %q: %w", name, explainTun(err))
	}
	// Closing the device closes the tunnel.
	wg := device.NewDevice(tunnel, conn.NewDefaultBind(), deviceLogger(log, name))
	defer wg.Close()
	if err := markTun(name); err != nil {
		return fmt.Errorf("mark tun device %q: %w", name, err)
	}
	socket, err := listenDevice(name)
	if err != nil {
		return fmt.Errorf("listen for the configuration of %q: %w", name, err)
	}
	failed := make(chan error, 1)
	go func() { failed <- serveDevice(wg, socket) }()
	ready()
	select {
	case <-ctx.Done():
		err = nil
	case <-wg.Wait():
		err = fmt.Errorf("device %q was deleted", name)
	case err = <-failed:
		err = fmt.Errorf("listen for the configuration of %q: %w", name, err)
	}
	return errors.Join(err, ignoreClosedSocket(socket.Close()))
}

// DeviceAnswers asks the program that serves the device, as those do who configure
// it: nil if it answers, which takes all of its locks.
func DeviceAnswers(name string) error {
	_, err := readProgram(name)
	return err
}

func ignoreClosedSocket(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func listenDevice(name string) (net.Listener, error) {
	file, err := ipc.UAPIOpen(name)
	if err != nil {
		return nil, err
	}
	listener, err := ipc.UAPIListen(name, file)
	return listener, errors.Join(err, file.Close())
}

func serveDevice(wg *device.Device, socket net.Listener) error {
	for {
		c, err := socket.Accept()
		if err != nil {
			return err
		}
		go wg.IpcHandle(c)
	}
}

// markTun gives the device nodeagent's marks, by which it is known as ours.
func markTun(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetGroup(link, linkGroup); err != nil {
		return explain(err)
	}
	return explain(netlink.LinkSetAlias(link, LinkAlias))
}

func explainTun(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: this kernel has no tun devices either; load the module tun", err)
	}
	return explain(err)
}

// deviceLogger passes on what the device says. Its texts name peers by parts of
// their public keys and hold no secrets; those that only tell of packets are
// left out.
func deviceLogger(log *slog.Logger, name string) *device.Logger {
	return &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf: func(format string, args ...any) {
			log.Warn(strings.TrimSpace(fmt.Sprintf(format, args...)), "device", name)
		},
	}
}
