package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Capture writes down every frame that passes in a network namespace, as a
// thief on the wire would.
type Capture struct {
	file *os.File
	sock int
	done sync.WaitGroup
	stop chan struct{}

	frames, bytes int64
	err           error
}

// CaptureWire captures what passes between hosts, each frame once.
func (l *Lab) CaptureWire(file string) (*Capture, error) {
	c, err := capture(l.wirePath(), "", file)
	if err != nil {
		return nil, fmt.Errorf("capture on the wire: %w", err)
	}
	return c, nil
}

// CaptureLoopback captures what the host's processes say to each other over
// its loopback interface. It keeps the host's network alive: it has to be stopped
// before the host can boot again.
func (h *Host) CaptureLoopback(file string) (*Capture, error) {
	leader, err := h.enter()
	if err == nil {
		var c *Capture
		if c, err = capture(fmt.Sprintf("/proc/%d/ns/net", leader), "lo", file); err == nil {
			return c, nil
		}
	}
	return nil, fmt.Errorf("capture on host %q: %w", h.name, err)
}

const (
	// captureBuffer is what the kernel keeps for a reader that is late: a busy
	// machine may hold it up for seconds.
	captureBuffer = 64 << 20
	// longestFrame is more than a segment that the kernel has not cut yet.
	longestFrame = 256 << 10
	// captureLook is how often an idle capture looks whether it is to stop.
	captureLook = 50 * time.Millisecond
)

// capture opens a packet socket in a namespace, on one interface or on all.
func capture(namespace, link, name string) (*Capture, error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	c := &Capture{file: file, stop: make(chan struct{})}
	if err := inside(namespace, func() (err error) { c.sock, err = packetSocket(link); return err }); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	c.done.Go(c.read)
	return c, nil
}

func packetSocket(link string) (int, error) {
	const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8 // in network order
	// Protocol 0 hears nothing until it is bound.
	sock, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open packet socket: %w", err)
	}
	address := &unix.SockaddrLinklayer{Protocol: all}
	if link != "" {
		i, err := net.InterfaceByName(link)
		if err != nil {
			return 0, errors.Join(err, unix.Close(sock))
		}
		address.Ifindex = i.Index
	}
	wait := unix.NsecToTimeval(int64(captureLook))
	err = errors.Join(
		unix.SetsockoptInt(sock, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer),
		unix.SetsockoptTimeval(sock, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.Bind(sock, address),
	)
	if err != nil {
		return 0, errors.Join(fmt.Errorf("set up packet socket: %w", err), unix.Close(sock))
	}
	return sock, nil
}

// read writes frames down until it is stopped and nothing waits to be read.
func (c *Capture) read() {
	frame := make([]byte, longestFrame)
	for {
		n, from, err := unix.Recvfrom(c.sock, frame, unix.MSG_TRUNC)
		switch {
		case err == nil:
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			select {
			case <-c.stop:
				return
			default:
				continue
			}
		case errors.Is(err, unix.ENETDOWN): // an interface of it went, with its host
			continue
		default:
			c.err = fmt.Errorf("read frame: %w", err)
			return
		}
		// What is sent is seen as what arrives at the other end.
		if link, ok := from.(*unix.SockaddrLinklayer); ok && link.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if n > len(frame) {
			c.err = fmt.Errorf("a frame has %d bytes, more than there is room for", n)
			return
		}
		if _, c.err = c.file.Write(frame[:n]); c.err != nil {
			return
		}
		c.frames, c.bytes = c.frames+1, c.bytes+int64(n)
	}
}

// Stop ends the capture and closes its file. It is an error if a frame is
// missing in it.
func (c *Capture) Stop() (frames, bytes int64, err error) {
	close(c.stop)
	c.done.Wait()
	stats, statsErr := unix.GetsockoptTpacketStats(c.sock, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if statsErr == nil && stats.Drops > 0 {
		statsErr = fmt.Errorf("%d frames were lost", stats.Drops)
	}
	err = errors.Join(c.err, statsErr, unix.Close(c.sock), c.file.Close())
	return c.frames, c.bytes, err
}

// Whisper sends a datagram that nobody awaits from inside the host, to be found
// in a capture. The address has a number.
func (h *Host) Whisper(ctx context.Context, address, text string) error {
	conn, err := h.Dial(ctx, "udp", address)
	if err != nil {
		return err
	}
	_, err = io.WriteString(conn, text)
	return errors.Join(err, conn.Close())
}
