package netcfg

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// nftConn speaks nfnetlink with nf_tables in the network namespace of the thread
// that made it. Package nftables, whose vocabulary and expressions are used,
// cannot write what is needed here: sets of more elements than one attribute
// holds, sets whose keys are in the machine's byte order, edits that hold for
// one generation of the tables only.
type nftConn struct {
	*netlink.Conn
	room []byte // what dumps are read into; made at the first one
}

// errNoNFTables is the error of a kernel without nf_tables.
var errNoNFTables = errors.New("this kernel has no nf_tables (CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET): load the module nf_tables or take [firewall] out of the spec")

// explainNFT adds to an error of nfnetlink what it means.
func explainNFT(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("%w: %w", errNoNFTables, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; this needs root (CAP_NET_ADMIN)", err)
	}
	return err
}

func dialNFT() (*nftConn, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	return &nftConn{Conn: conn}, nil
}

func nftMessage(kind uint16, flags netlink.HeaderFlags, attrs nftAttrs) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | flags},
		Data:   append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, attrs...),
	}
}

// ask sends a question and returns the attributes of its answers, none where
// what it asks about does not exist.
func (c *nftConn) ask(kind uint16, attrs nftAttrs) ([][]byte, error) {
	answers, err := c.Execute(nftMessage(kind, 0, attrs))
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var bodies [][]byte
	for _, m := range answers {
		if len(m.Data) < 4 {
			return nil, errors.New("the kernel's answer is too short")
		}
		bodies = append(bodies, m.Data[4:])
	}
	return bodies, nil
}

// dump asks for a list and returns the attributes of its parts. It reads with
// room for the largest message that the kernel makes: how much room the reader
// has decides how often the kernel begins again at a set's first element.
func (c *nftConn) dump(kind uint16, attrs nftAttrs) ([][]byte, error) {
	sent, err := c.Send(nftMessage(kind, netlink.Dump, attrs))
	if err != nil {
		return nil, err
	}
	socket, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	if c.room == nil {
		c.room = make([]byte, 64<<10)
	}
	var bodies [][]byte
	for {
		var length int
		var failed error
		err := socket.Read(func(fd uintptr) bool {
			length, _, failed = unix.Recvfrom(int(fd), c.room, unix.MSG_DONTWAIT)
			return !errors.Is(failed, unix.EAGAIN)
		})
		if err = errors.Join(err, failed); err != nil {
			return nil, err
		}
		messages, err := syscall.ParseNetlinkMessage(bytes.Clone(c.room[:length]))
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			done := m.Header.Type == unix.NLMSG_DONE || m.Header.Type == unix.NLMSG_ERROR
			switch {
			case m.Header.Seq != sent.Header.Sequence:
			case m.Header.Flags&unix.NLM_F_DUMP_INTR != 0:
				return nil, errChanged
			case done && len(m.Data) >= 4:
				code := int32(binary.NativeEndian.Uint32(m.Data))
				switch errno := unix.Errno(-code); errno {
				case 0:
					return bodies, nil
				case unix.ENOENT:
					return nil, nil
				default:
					return nil, errno
				}
			case done:
				return bodies, nil
			case len(m.Data) < 4:
				return nil, errors.New("the kernel's answer is too short")
			default:
				bodies = append(bodies, m.Data[4:])
			}
		}
	}
}

// generation is the number of transactions that the tables of this namespace
// have seen.
func (c *nftConn) generation() (uint32, error) {
	answers, err := c.ask(unix.NFT_MSG_GETGEN, nil)
	if err != nil {
		return 0, err
	}
	for _, a := range answers {
		for kind, value := range nftAttributes(a) {
			if kind == unix.NFTA_GEN_ID && len(value) == 4 {
				return binary.BigEndian.Uint32(value), nil
			}
		}
	}
	return 0, errors.New("the kernel tells no generation")
}

// nftBatch is a transaction in the making.
type nftBatch struct {
	messages []netlink.Message
	sets     uint32
	size     int
}

func (b *nftBatch) add(kind uint16, flags netlink.HeaderFlags, attrs nftAttrs) {
	m := nftMessage(kind, flags, attrs)
	b.messages = append(b.messages, m)
	b.size += unix.SizeofNlMsghdr + len(m.Data)
}

// errChanged tells that somebody changed the tables since they were read.
var errChanged = errors.New("somebody else changed nftables at the same time")

// commit carries the transaction out, all of it or nothing, if the tables still
// are of the generation.
func (c *nftConn) commit(ctx context.Context, b *nftBatch, generation uint32) error {
	if len(b.messages) == 0 {
		return nil
	}
	// The transaction is one datagram. Where the limit may not be raised a
	// small one still passes.
	if err := c.SetWriteBuffer(2*b.size + 1<<16); err != nil && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("make room for a transaction of %d bytes: %w", b.size, err)
	}
	frame := func(kind int, attrs nftAttrs) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request},
			Data:   append([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}, attrs...),
		}
	}
	const generationAttr = 1 // NFNL_BATCH_GENID
	all := []netlink.Message{frame(unix.NFNL_MSG_BATCH_BEGIN, nftAttrs(nil).u32(generationAttr, generation))}
	all = append(all, b.messages...)
	// One answer is enough: errors come unasked, before it.
	all[len(all)-1].Header.Flags |= netlink.Acknowledge
	all = append(all, frame(unix.NFNL_MSG_BATCH_END, nil))
	err := edit(ctx, func() error {
		if _, err := c.SendMessages(all); err != nil {
			return err
		}
		_, err := c.Receive()
		return err
	})
	if errors.Is(err, unix.ERESTART) {
		return errChanged
	}
	return explainNFT(err)
}

// nftAttrs is a list of netlink attributes in the making.
type nftAttrs []byte

func (a nftAttrs) bytes(kind uint16, value []byte) nftAttrs {
	a = binary.NativeEndian.AppendUint16(a, uint16(4+len(value)))
	a = binary.NativeEndian.AppendUint16(a, kind)
	a = append(a, value...)
	for len(a)%4 != 0 {
		a = append(a, 0)
	}
	return a
}

func (a nftAttrs) text(kind uint16, value string) nftAttrs {
	return a.bytes(kind, append([]byte(value), 0))
}

func (a nftAttrs) u32(kind uint16, value uint32) nftAttrs {
	return a.bytes(kind, binary.BigEndian.AppendUint32(nil, value))
}

func (a nftAttrs) u64(kind uint16, value uint64) nftAttrs {
	return a.bytes(kind, binary.BigEndian.AppendUint64(nil, value))
}

// nest adds the list as one attribute, which must not be longer than maxNest.
func (a nftAttrs) nest(kind uint16, list nftAttrs) nftAttrs {
	return a.bytes(kind|unix.NLA_F_NESTED, list)
}

// header writes the header of the attribute that begins at the place and ends
// here.
func (a nftAttrs) header(begin int, kind uint16) {
	binary.NativeEndian.PutUint16(a[begin:], uint16(len(a)-begin))
	binary.NativeEndian.PutUint16(a[begin+2:], kind|unix.NLA_F_NESTED)
}

// maxNest is what the 16 bits of an attribute's length leave for its content.
const maxNest = 1<<16 - 1 - 8

// nftAttributes goes through a list of attributes, whose numbers are without flags.
// It ends at what is none.
func nftAttributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			length := int(binary.NativeEndian.Uint16(b))
			kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if length < 4 || length > len(b) {
				return
			}
			if !yield(kind, b[4:length]) {
				return
			}
			b = b[min((length+3)&^3, len(b)):]
		}
	}
}
