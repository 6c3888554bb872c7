package netcfg

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// inputChain is the name of the table's one chain.
const inputChain = "input"

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

// observeFirewall returns nodeagent's table in the network namespace of the
// calling thread, nil where there is none.
func observeFirewall(ctx context.Context) (*Firewall, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	conn, err := nftables.New(nftables.AsLasting())
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, nil // no nf_tables, no table
	}
	if err != nil {
		return nil, fmt.Errorf("read the firewall: %w", explainNFT(err))
	}
	defer conn.CloseLasting()
	return readFirewall(conn)
}

func readFirewall(conn *nftables.Conn) (*Firewall, error) {
	table, err := findTable(conn)
	if err != nil || table == nil {
		return nil, err
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("read the firewall's chains: %w", explainNFT(err))
	}
	f := &Firewall{Base: "no chain on the input hook"}
	for _, c := range chains {
		switch {
		case c.Table.Name != FirewallTable:
		case c.Name == inputChain:
			f.Base = describeBase(table, c)
		default:
			f.Other = append(f.Other, "chain "+c.Name)
		}
	}
	rules, err := readRules()
	if err != nil {
		return nil, fmt.Errorf("read the firewall's rules: %w", explainNFT(err))
	}
	sets, err := readSets(conn, table)
	if err != nil {
		return nil, fmt.Errorf("read the firewall's sets: %w", explainNFT(err))
	}
	for _, raw := range rules {
		f.Rules = append(f.Rules, parseRule(raw, sets))
	}
	return f, nil
}

func findTable(conn *nftables.Conn) (*nftables.Table, error) {
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
		return nil, nil // nfnetlink without nf_tables
	case err != nil:
		return nil, fmt.Errorf("read the firewall's table: %w", explainNFT(err))
	}
	for _, t := range tables {
		if t.Name == FirewallTable {
			return t, nil
		}
	}
	return nil, nil
}

// describeBase returns firewallBase for the table and chain that nodeagent
// makes, and otherwise what is different.
func describeBase(table *nftables.Table, c *nftables.Chain) string {
	switch {
	case table.Flags != 0:
		return fmt.Sprintf("the table has flags %#x (dormant)", binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, table.Flags)))
	case c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookInput || c.Type != nftables.ChainTypeFilter:
		return "its chain is not on the input hook"
	case c.Priority == nil || *c.Priority != *nftables.ChainPriorityFilter:
		return "its chain has another priority"
	case c.Policy == nil || *c.Policy != nftables.ChainPolicyDrop:
		return "accept what no rule drops"
	}
	return firewallBase
}

// readSets returns the anonymous constant sets of the table. Other sets are not
// nodeagent's, nor is a rule that uses one.
func readSets(conn *nftables.Conn, table *nftables.Table) (map[string]firewallSet, error) {
	list, err := conn.GetSets(table)
	if err != nil {
		return nil, err
	}
	sets := map[string]firewallSet{}
	for _, s := range list {
		if !s.Anonymous || !s.Constant || s.IsMap || s.Concatenation || s.Dynamic || s.HasTimeout {
			continue
		}
		elements, err := conn.GetSetElements(s)
		if err != nil {
			return nil, err
		}
		sets[s.Name] = firewallSet{interval: s.Interval, elements: elements}
	}
	return sets, nil
}

// readRules dumps the rules of the input chain with all their attributes.
func readRules() ([]rawRule, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_RULE_TABLE, Data: []byte(FirewallTable + "\x00")},
		{Type: unix.NFTA_RULE_CHAIN, Data: []byte(inputChain + "\x00")},
	})
	if err != nil {
		return nil, err
	}
	answers, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil // no such chain
	}
	if err != nil {
		return nil, err
	}
	var rules []rawRule
	for _, m := range answers {
		rule, err := decodeRule(m.Data)
		if err != nil {
			return nil, err
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

// decodeRule reads one message of a dump: a header of four bytes, attributes.
func decodeRule(data []byte) (rawRule, error) {
	var rule rawRule
	if len(data) < 4 {
		return rule, errors.New("the kernel's answer is too short")
	}
	attrs, err := netlink.UnmarshalAttributes(data[4:])
	if err != nil {
		return rule, err
	}
	for _, a := range attrs {
		switch a.Type {
		case unix.NFTA_RULE_USERDATA:
			rule.comment, _ = userdata.GetString(a.Data, userdata.TypeComment)
		case unix.NFTA_RULE_EXPRESSIONS:
			list, err := netlink.UnmarshalAttributes(a.Data)
			if err != nil {
				return rule, err
			}
			for _, e := range list {
				x, err := decodeExpr(e.Data)
				if err != nil {
					return rule, err
				}
				rule.exprs = append(rule.exprs, x)
			}
		}
	}
	return rule, nil
}

func decodeExpr(data []byte) (rawExpr, error) {
	e := rawExpr{attrs: map[int]string{}}
	attrs, err := netlink.UnmarshalAttributes(data)
	if err != nil {
		return e, err
	}
	for _, a := range attrs {
		switch a.Type {
		case unix.NFTA_EXPR_NAME:
			e.name = strings.TrimRight(string(a.Data), "\x00")
		case unix.NFTA_EXPR_DATA:
			values, err := netlink.UnmarshalAttributes(a.Data)
			if err != nil {
				return e, err
			}
			for _, v := range values {
				if err := e.add(v); err != nil {
					return e, err
				}
			}
		}
	}
	return e, nil
}

// add keeps an attribute, taking apart those that hold others.
func (e rawExpr) add(a netlink.Attribute) error {
	number := int(a.Type &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER))
	holds := (e.name == "cmp" && number == unix.NFTA_CMP_DATA) || (e.name == "immediate" && number == unix.NFTA_IMMEDIATE_DATA)
	if !holds {
		e.attrs[number] = string(a.Data)
		return nil
	}
	inner, err := netlink.UnmarshalAttributes(a.Data)
	if err != nil {
		return err
	}
	for _, i := range inner {
		e.attrs[within(number, int(i.Type&^unix.NLA_F_NESTED))] = string(i.Data)
	}
	return nil
}

// apply replaces nodeagent's table in one transaction, unless it is as wanted
// already. At no time is there a moment without a firewall; connections live
// on, since conntrack is not touched.
func (o firewallOp) apply(ctx context.Context, _ *System) error {
	have, err := observeFirewall(ctx)
	if err != nil {
		return err
	}
	if have.same(o.want) {
		return nil
	}
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return fmt.Errorf("write the firewall: %w", explainNFT(err))
	}
	defer conn.CloseLasting()
	if err := stageFirewall(conn, o.want); err != nil {
		return fmt.Errorf("write the firewall: %w", err)
	}
	if err := edit(ctx, conn.Flush); err != nil {
		return fmt.Errorf("write the firewall: %w", explainNFT(err))
	}
	return nil
}

// stageFirewall fills the transaction. Making the table before deleting it lets
// the deletion succeed whether there was one or not.
func stageFirewall(conn *nftables.Conn, want *Firewall) error {
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: FirewallTable}
	conn.AddTable(table)
	conn.DelTable(table)
	if want == nil {
		return nil
	}
	conn.AddTable(table)
	drop := nftables.ChainPolicyDrop
	chain := conn.AddChain(&nftables.Chain{
		Name: inputChain, Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Policy: &drop,
	})
	makeSet := func(key nftables.SetDatatype, interval bool, elements []nftables.SetElement) (*nftables.Set, error) {
		set := &nftables.Set{Table: table, Anonymous: true, Constant: true, Interval: interval, KeyType: key}
		return set, conn.AddSet(set, elements)
	}
	for _, r := range want.Rules {
		exprs, err := compileRule(r, makeSet)
		if err != nil {
			return err
		}
		conn.AddRule(&nftables.Rule{
			Table: table, Chain: chain, Exprs: exprs,
			UserData: userdata.AppendString(nil, userdata.TypeComment, r.Name),
		})
	}
	return nil
}
