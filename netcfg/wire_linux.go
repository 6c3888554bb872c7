package netcfg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A wire speaks rtnetlink(7) where there may be many thousands of messages: it
// sends a whole batch in one system call, and hands out each message of a dump
// in the buffer in which it was received.
type wire struct {
	mu     sync.Mutex
	fd     int
	seq    uint32
	buffer []byte // made at the first use
}

const (
	// wireBuffer is the largest message that the kernel makes for a dump.
	wireBuffer = 32 << 10
	// wireReplies is the room for replies to a batch, should all of it fail.
	wireReplies = 1 << 20
	// wireSeconds is how long the kernel may take for an answer.
	wireSeconds = 60
)

// errLost is the error of each request of a batch when some replies to it were
// lost: the requests may have been carried out or not.
var errLost = errors.New("the kernel's replies were lost")

func openWire() (*wire, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	w := &wire{fd: fd, seq: 1}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		w.close()
		return nil, err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: wireSeconds}); err != nil {
		w.close()
		return nil, err
	}
	// What an old kernel or missing privileges refuse is worked around: texts are
	// missing, filters are applied here, lost replies are asked for again.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, wireReplies)
	return w, nil
}

// close may be called twice: the number of a closed socket is soon another
// file's.
func (w *wire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd >= 0 {
		_ = unix.Close(w.fd)
		w.fd = -1
	}
}

// dump sends one request and calls each with the payload of every message of
// the answer, which is valid until each returns.
func (w *wire) dump(request *message, each func(payload []byte) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seq++
	if err := w.write(request.finish(w.seq)); err != nil {
		return err
	}
	interrupted := false
	var failed error // the answer is read to its end all the same
	for {
		received, err := w.read(0)
		if errors.Is(err, unix.ENOBUFS) {
			interrupted = true // a reply to something else was lost; the dump goes on
			continue
		}
		if err != nil {
			return err
		}
		for len(received) > 0 {
			head, payload, rest, err := cutMessage(received)
			if err != nil {
				return err
			}
			received = rest
			if head.seq != w.seq {
				continue // of a dump that was given up
			}
			interrupted = interrupted || head.flags&unix.NLM_F_DUMP_INTR != 0
			switch {
			case head.kind == unix.NLMSG_DONE || head.kind == unix.NLMSG_ERROR:
				if err := kernelError(head, payload); err != nil {
					return err
				}
				if failed == nil && interrupted {
					return netlink.ErrDumpInterrupted
				}
				return failed
			case failed == nil:
				failed = each(payload)
			}
		}
	}
}

// send sends requests in one system call and puts the error of each into errs,
// which has their number. The kernel carries them out in order, and goes on past
// those that fail; all replies are there when the call returns.
func (w *wire) send(requests []*message, errs []error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drain()
	first := w.seq + 1
	var batch []byte
	for i, r := range requests {
		if i == len(requests)-1 {
			r.flags(unix.NLM_F_ACK) // proves that no reply was lost
		}
		w.seq++
		batch = append(batch, r.finish(w.seq)...)
		errs[i] = nil
	}
	err := w.write(batch)
	for done := false; err == nil && !done; {
		var received []byte
		if received, err = w.read(unix.MSG_DONTWAIT); err != nil {
			err = errLost
		}
		for err == nil && len(received) > 0 {
			var head messageHead
			var payload []byte
			if head, payload, received, err = cutMessage(received); err != nil {
				break
			}
			if index := int(head.seq - first); head.kind == unix.NLMSG_ERROR && index < len(errs) {
				errs[index] = kernelError(head, payload)
				done = index == len(errs)-1
			}
		}
	}
	if err != nil {
		for i := range errs {
			errs[i] = err
		}
	}
}

// drain forgets what is left of earlier answers.
func (w *wire) drain() {
	for {
		if _, err := w.read(unix.MSG_DONTWAIT); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
	}
}

func (w *wire) write(b []byte) error {
	for {
		err := unix.Sendto(w.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (w *wire) read(flags int) ([]byte, error) {
	if w.buffer == nil {
		w.buffer = make([]byte, wireBuffer)
	}
	for {
		var n int
		var err error
		if flags == 0 {
			n, err = unix.Read(w.fd, w.buffer) // allocates nothing
		} else {
			n, _, err = unix.Recvfrom(w.fd, w.buffer, flags)
		}
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, err
		default:
			return w.buffer[:n], nil
		}
	}
}

// messageHead is what matters of a struct nlmsghdr.
type messageHead struct {
	kind, flags uint16
	seq         uint32
}

// cutMessage cuts the first message off.
func cutMessage(b []byte) (head messageHead, payload, rest []byte, err error) {
	if len(b) < unix.SizeofNlMsghdr {
		return head, nil, nil, fmt.Errorf("read netlink message: %d bytes left", len(b))
	}
	length := int(binary.NativeEndian.Uint32(b))
	if length < unix.SizeofNlMsghdr || length > len(b) {
		return head, nil, nil, fmt.Errorf("read netlink message: length %d of %d bytes", length, len(b))
	}
	head = messageHead{binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]), binary.NativeEndian.Uint32(b[8:])}
	return head, b[unix.SizeofNlMsghdr:length], b[min(align(length), len(b)):], nil
}

// kernelError is the error that an NLMSG_ERROR or NLMSG_DONE carries, with the
// kernel's own words where it has any; nil for an acknowledgement.
func kernelError(head messageHead, payload []byte) error {
	if len(payload) < 4 {
		return nil // an NLMSG_DONE of old
	}
	number := -int32(binary.NativeEndian.Uint32(payload))
	if number == 0 {
		return nil
	}
	var err error = unix.Errno(number)
	if head.flags&unix.NLM_F_ACK_TLVS == 0 {
		return err
	}
	const messageText = 1 // NLMSGERR_ATTR_MSG
	texts := payload[4:]
	if head.kind == unix.NLMSG_ERROR && len(texts) >= unix.SizeofNlMsghdr {
		request := unix.SizeofNlMsghdr
		if head.flags&unix.NLM_F_CAPPED == 0 {
			request = align(int(binary.NativeEndian.Uint32(texts)))
		}
		texts = texts[min(request, len(texts)):]
	}
	for kind, value := range rtAttributes(texts) {
		if kind == messageText {
			err = fmt.Errorf("%w: %s", err, unix.ByteSliceToString(value))
		}
	}
	return err
}

func align(n int) int { return (n + 3) &^ 3 }

// rtAttributes iterates over netlink attributes by their type, nesting and byte
// order flags left out. It ends where they are malformed.
func rtAttributes(b []byte) func(yield func(kind uint16, value []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			length := int(binary.NativeEndian.Uint16(b))
			if length < unix.SizeofRtAttr || length > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:length]) {
				return
			}
			b = b[min(align(length), len(b)):]
		}
	}
}

func addrOf(value []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(value)
	return a
}

func u32Of(value []byte) int {
	if len(value) < 4 {
		return 0
	}
	return int(binary.NativeEndian.Uint32(value))
}

// message is one request in the making.
type message struct{ b []byte }

// newMessage begins a request of the given type with its fixed part.
func newMessage(kind, flags uint16, fixed ...byte) *message {
	m := &message{make([]byte, unix.SizeofNlMsghdr, 128)}
	binary.NativeEndian.PutUint16(m.b[4:], kind)
	binary.NativeEndian.PutUint16(m.b[6:], flags|unix.NLM_F_REQUEST)
	m.b = append(m.b, fixed...)
	return m
}

func (m *message) flags(more uint16) {
	binary.NativeEndian.PutUint16(m.b[6:], binary.NativeEndian.Uint16(m.b[6:])|more)
}

// finish fills in the length and the number and returns the request.
func (m *message) finish(seq uint32) []byte {
	binary.NativeEndian.PutUint32(m.b, uint32(len(m.b)))
	binary.NativeEndian.PutUint32(m.b[8:], seq)
	return m.b
}

// attribute appends an attribute.
func (m *message) attribute(kind uint16, value []byte) {
	m.b = binary.NativeEndian.AppendUint16(m.b, uint16(unix.SizeofRtAttr+len(value)))
	m.b = binary.NativeEndian.AppendUint16(m.b, kind)
	m.b = append(m.b, value...)
	m.pad()
}

func (m *message) number(kind uint16, value int) {
	m.attribute(kind, binary.NativeEndian.AppendUint32(nil, uint32(value)))
}

func (m *message) text(kind uint16, value string) {
	m.attribute(kind, append([]byte(value), 0))
}

func (m *message) pad() {
	for len(m.b)%4 != 0 {
		m.b = append(m.b, 0)
	}
}

// nested appends an attribute whose value the function appends.
func (m *message) nested(kind uint16, value func()) {
	at := len(m.b)
	m.b = binary.NativeEndian.AppendUint32(m.b, 0)
	value()
	binary.NativeEndian.PutUint16(m.b[at:], uint16(len(m.b)-at))
	binary.NativeEndian.PutUint16(m.b[at+2:], kind)
}
