package netcfg

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// HoldTable is the name of the nftables table of family inet in which a port is
// held, while one is.
const HoldTable = "nodeagent-hold"

// holdPriority is behind the firewalls' chains: whom they drop is not told that
// there is a port.
const holdPriority nftables.ChainPriority = 10

// The flags of a TCP segment that tell whether it opens a connection.
const (
	tcpFIN, tcpSYN, tcpRST, tcpACK = 0x01, 0x02, 0x04, 0x10
	tcpOpening                     = tcpFIN | tcpSYN | tcpRST | tcpACK
)

// HoldPort resets whatever other machines open to a TCP port of this host, as if
// nobody listened there, until [ReleasePorts], and for as long as lease at most:
// the kernel itself ends it, whatever becomes of who called. The host's own
// connections pass, and those that are open. It replaces a hold that there is.
func HoldPort(port uint16, lease time.Duration) error {
	if port == 0 || lease < time.Millisecond {
		return fmt.Errorf("hold port %d for %s: there is no such port or span", port, lease)
	}
	err := replaceHold(func(c *nftables.Conn, table *nftables.Table) error {
		set := &nftables.Set{Table: table, Name: "held", KeyType: nftables.TypeInetService, HasTimeout: true}
		key := binaryutil.BigEndian.PutUint16(port)
		if err := c.AddSet(set, []nftables.SetElement{{Key: key, Timeout: lease}}); err != nil {
			return err
		}
		priority, policy := holdPriority, nftables.ChainPolicyAccept
		chain := c.AddChain(&nftables.Chain{
			Table: table, Name: "input", Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookInput, Priority: &priority, Policy: &policy,
		})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: holdRule(set)})
		return nil
	})
	if err != nil {
		return fmt.Errorf("hold port %d: %w", port, explainNFT(err))
	}
	return nil
}

// ReleasePorts ends what HoldPort began. There need not be any.
func ReleasePorts() error {
	err := replaceHold(func(c *nftables.Conn, table *nftables.Table) error {
		c.DelTable(table)
		return nil
	})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil // there are no tables
	}
	if err != nil {
		return fmt.Errorf("release the port that is held: %w", explainNFT(err))
	}
	return nil
}

// replaceHold empties the table, which may not be there, and fills it, in one
// transaction.
func replaceHold(fill func(*nftables.Conn, *nftables.Table) error) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: HoldTable}
	c.AddTable(table)
	c.DelTable(table)
	c.AddTable(table)
	if err := fill(c, table); err != nil {
		return err
	}
	return c.Flush()
}

// holdRule is
//
//	iiftype != loopback tcp flags & (fin|syn|rst|ack) == syn tcp dport @held reject with tcp reset
func holdRule(held *nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFTYPE, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint16(unix.ARPHRD_LOOPBACK)},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{tcpOpening}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{tcpSYN}},
		&destPort,
		&expr.Lookup{SourceRegister: 1, SetName: held.Name, SetID: held.ID},
		&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
	}
}
