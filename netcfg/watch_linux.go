package netcfg

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// watchedGroups are the rtnetlink multicast groups of what this package
// observes. Addresses and routes are both needed: the kernel removes routes
// along with an address without an event for each.
var watchedGroups = []uint{
	unix.RTNLGRP_LINK,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
}

// Watch signals that links, addresses, routes or rules of the calling thread's
// network namespace have changed since the last signal was taken, whoever
// changed them: own changes signal too. Any number of events is one signal, and
// so are events that the kernel had to throw away (ENOBUFS): observe anew upon
// each. WireGuard devices have no events.
//
// The channel is closed when ctx is done, or when the subscription breaks; with
// ctx not done that means to watch again. No goroutine outlives ctx by more
// than a moment.
func (sys *System) Watch(ctx context.Context) (<-chan struct{}, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, watchedGroups...)
	if err != nil {
		return nil, fmt.Errorf("subscribe to network events: %w", explain(err))
	}
	// Closing the socket ends a Receive that waits.
	stop := context.AfterFunc(ctx, socket.Close)
	signal := make(chan struct{}, 1)
	go func() {
		defer close(signal)
		defer func() {
			if stop() {
				socket.Close()
			}
		}()
		receive(ctx, socket, signal)
	}()
	return signal, nil
}

// receive turns messages into signals until the socket fails or is closed.
func receive(ctx context.Context, socket *nl.NetlinkSocket, signal chan<- struct{}) {
	for {
		_, _, err := socket.Receive()
		if ctx.Err() != nil {
			return
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			return
		}
		select {
		case signal <- struct{}{}:
		default: // one is waiting to be taken; it stands for this event too
		}
	}
}
