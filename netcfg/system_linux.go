package netcfg

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// System is the kernel's network of the namespace in which it was opened. Its
// methods may be called from several goroutines.
type System struct {
	// Userspace serves WireGuard devices where the kernel has no WireGuard; nil
	// where nothing does, which applying then says.
	Userspace Userspace

	nl *netlink.Handle
	// sockets serve the requests that the library cannot make: addresses with
	// their protocol, and marks.
	sockets map[int]*nl.SocketHandle
	// wire serves listings and batches of many thousands; batchSize is how many
	// requests go to the kernel at once.
	wire      *wire
	batchSize int

	names    endpointNames
	recorder endpointRecorder
}

// Open opens the network of the calling thread's network namespace. Opening
// needs no privileges; Apply needs CAP_NET_ADMIN. The other methods are to be
// called in the same namespace.
func Open() (*System, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	socket, err := nl.GetNetlinkSocketAt(-1, -1, unix.NETLINK_ROUTE)
	if err != nil {
		handle.Close()
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	wire, err := openWire()
	if err != nil {
		handle.Close()
		socket.Close()
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	sys := &System{
		nl: handle, sockets: map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}},
		wire: wire, batchSize: batchSize,
	}
	// Strict checking makes the kernel filter dumps by table, which matters on
	// hosts with many routes in others; it exists since Linux 4.20. Where it is
	// refused the library filters, so the error means nothing.
	_ = handle.SetStrictCheck(true)
	if err := socket.SetExtAck(true); err != nil {
		return nil, closing(sys, fmt.Errorf("ask netlink socket for error texts: %w", err))
	}
	return sys, nil
}

func closing(sys *System, err error) error {
	_ = sys.Close()
	return err
}

// Close closes the sockets. It never fails; the error is for io.Closer.
func (sys *System) Close() error {
	sys.nl.Close()
	sys.wire.close()
	for _, s := range sys.sockets {
		s.Close()
	}
	return nil
}

// Apply carries out the changes that Diff made, in order, and tells rep of each
// one. It goes on past those that fail and returns all failures joined. Killed
// or cancelled at any point it leaves a state from which a fresh Diff leads on.
// Changes that are there already are no error, so applying twice is harmless.
//
// Routes and rules that follow each other are sent to the kernel together; rep
// hears of each of them, its beginning and its end, when the kernel has
// answered.
func (sys *System) Apply(ctx context.Context, changes []plan.Change, rep plan.Reporter) error {
	sys.names.begin(endpointsOf(changes))
	flush := sys.recorder.hold()
	err := sys.applyRuns(ctx, changes, rep)
	return errors.Join(err, flush())
}

// edit runs one write to the kernel unless ctx is done. Every write goes
// through it, so that a cancelled Apply stops between two of them.
func edit(ctx context.Context, write func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return write()
}

// request starts a netlink message on the System's own socket.
func (sys *System) request(messageType, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(messageType, flags)
	req.Sockets = sys.sockets
	return req
}

func (o blocked) apply(context.Context, *System) error { return errors.New(o.reason) }
