package netcfg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"

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
// network namespace have changed since the last signal was taken, or
// nodeagent's nftables table, whoever changed them: own changes signal too. Any
// number of events is one signal, and so are events that the kernel had to
// throw away (ENOBUFS): observe anew upon each. WireGuard devices have no
// events, and without CAP_NET_ADMIN the firewall has none.
//
// The channel is closed when ctx is done, or when a subscription breaks; with
// ctx not done that means to watch again. No goroutine outlives ctx by more
// than a moment.
func (sys *System) Watch(ctx context.Context) (<-chan struct{}, error) {
	network, err := subscribe(unix.NETLINK_ROUTE, watchedGroups...)
	if err != nil {
		return nil, fmt.Errorf("subscribe to network events: %w", explain(err))
	}
	ctx, cancel := context.WithCancel(ctx)
	signal := make(chan struct{}, 1)
	var receivers sync.WaitGroup
	start := func(socket *nl.NetlinkSocket, matters func(syscall.NetlinkMessage) bool) {
		// Closing the socket ends a Receive that waits.
		context.AfterFunc(ctx, socket.Close)
		receivers.Go(func() {
			defer cancel() // one that breaks ends the others
			receive(ctx, socket, matters, signal)
		})
	}
	start(network, func(syscall.NetlinkMessage) bool { return true })
	if firewall, err := subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES); err == nil {
		start(firewall, ofOurTable)
	}
	go func() {
		receivers.Wait()
		close(signal)
	}()
	return signal, nil
}

// subscribe opens a socket that hears of the groups' events. nl.Subscribe (1.3.1)
// closes a socket that it may not bind a second time when it is collected, by
// its number, which is another file's by then; so it is called only for what may
// be bound.
func subscribe(protocol int, groups ...uint) (*nl.NetlinkSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, err
	}
	address := unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	for _, g := range groups {
		address.Groups |= 1 << (g - 1)
	}
	if err := errors.Join(unix.Bind(fd, &address), unix.Close(fd)); err != nil {
		return nil, err
	}
	return nl.Subscribe(protocol, groups...)
}

// receive turns messages that matter into signals until the socket fails or is
// closed.
func receive(ctx context.Context, socket *nl.NetlinkSocket, matters func(syscall.NetlinkMessage) bool, signal chan<- struct{}) {
	for {
		messages, _, err := socket.Receive()
		if ctx.Err() != nil {
			return
		}
		missed := errors.Is(err, unix.ENOBUFS)
		if err != nil && !missed && !errors.Is(err, unix.EINTR) {
			return
		}
		if !missed && !slices.ContainsFunc(messages, matters) {
			continue
		}
		select {
		case signal <- struct{}{}:
		default: // one is waiting to be taken; it stands for this event too
		}
	}
}

// ofOurTable tells whether a message of nf_tables is about nodeagent's table.
// kube-proxy writes its own tables all the time, which is nothing to wake up
// for. Tables, chains, rules and sets all have the table's name as attribute 1
// (NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, …) behind a head of four bytes.
func ofOurTable(m syscall.NetlinkMessage) bool {
	const head, tableName = nl.SizeofNfgenmsg, unix.NFTA_TABLE_NAME
	if len(m.Data) < head {
		return false
	}
	attributes, err := nl.ParseRouteAttr(m.Data[head:])
	if err != nil {
		return true // rather once too often
	}
	for _, a := range attributes {
		if a.Attr.Type == tableName {
			return string(bytes.TrimRight(a.Value, "\x00")) == FirewallTable
		}
	}
	return false
}
