package netcfg

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// firewallTable is nodeagent's table as it was read.
type firewallTable struct {
	// firewall is nil where there is no table.
	firewall *Firewall
	// generation of the kernel's tables of which all of this is.
	generation uint32
	// handles are the kernel's numbers of the rules of each chain, in the order
	// of the firewall's, and of the last one that drops the rest.
	handles map[string][]uint64
	rest    map[string]uint64
	// counts are what the same rules have counted.
	counts    map[string][]Counter
	restCount map[string]Counter
	// sources are the names of the sets of limits by source.
	sources map[string]bool
}

// observeFirewall returns nodeagent's table in the network namespace of the
// calling thread, nil where there is none.
func observeFirewall(ctx context.Context) (*Firewall, error) {
	t, err := readTable(ctx)
	return t.firewall, err
}

// readTable reads the table. It is all of one generation: what was changed while
// it was read is read again.
func readTable(ctx context.Context) (firewallTable, error) {
	var none firewallTable
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if there, err := hasNFTables("/"); err != nil || !there {
		return none, err // no nf_tables, no table
	}
	conn, err := dialNFT()
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return none, nil
	}
	if err != nil {
		return none, fmt.Errorf("read the firewall: %w", explainNFT(err))
	}
	defer conn.Close()
	const attempts = 20
	for range attempts {
		t, err := conn.readOnce()
		if !errors.Is(err, errChanged) {
			return t, err
		}
	}
	return none, fmt.Errorf("read the firewall in %d attempts: %w", attempts, errChanged)
}

func (c *nftConn) readOnce() (firewallTable, error) {
	before, err := c.generation()
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
		return firewallTable{}, nil // nfnetlink without nf_tables
	case err != nil:
		return firewallTable{}, fmt.Errorf("read the firewall: %w", explainNFT(err))
	}
	t := firewallTable{generation: before}
	failed := c.read(&t)
	after, err := c.generation()
	switch {
	case err == nil && after != before, errors.Is(failed, errChanged):
		return firewallTable{}, errChanged
	case failed != nil:
		return firewallTable{generation: before}, fmt.Errorf("read the firewall: %w", explainNFT(failed))
	}
	return t, err
}

func (c *nftConn) read(t *firewallTable) error {
	ours := nftAttrs(nil).text(unix.NFTA_TABLE_NAME, FirewallTable)
	tables, err := c.ask(unix.NFT_MSG_GETTABLE, ours)
	if err != nil || len(tables) == 0 {
		return err
	}
	r := tableReader{table: t, sets: map[string]firewallSet{}, used: map[string]bool{}}
	t.firewall = &Firewall{}
	r.flags(tables[0])
	chains, err := c.dump(unix.NFT_MSG_GETCHAIN, nil)
	if err != nil {
		return err
	}
	if err := r.readSets(c, ours); err != nil {
		return err
	}
	objects, err := c.dump(unix.NFT_MSG_GETOBJ, ours)
	if err != nil {
		return err
	}
	flowtables, err := c.dump(unix.NFT_MSG_GETFLOWTABLE, ours)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	rules, err := c.dump(unix.NFT_MSG_GETRULE, ours)
	if err != nil {
		return err
	}
	raw := make([]rawRule, 0, len(rules))
	for _, b := range rules {
		one, err := decodeRule(b)
		if err != nil {
			return err
		}
		raw = append(raw, one)
	}
	r.chains(chains, raw)
	r.leftovers(objects, flowtables)
	return nil
}

// tableReader puts the answers together.
type tableReader struct {
	table *firewallTable
	sets  map[string]firewallSet
	used  map[string]bool // sets of limits by source that rules of ours use
}

func (r *tableReader) other(kind, name string) {
	r.table.firewall.Other = append(r.table.firewall.Other, kind+" "+name)
}

func (r *tableReader) flags(table []byte) {
	if flags := attrNumber(table, unix.NFTA_TABLE_FLAGS); flags != 0 {
		r.other("flags", fmt.Sprintf("%#x of the table (1: dormant)", flags))
	}
}

// readSets reads the sets of the table and the elements of those in which a rule
// of ours looks up.
func (r *tableReader) readSets(c *nftConn, ours nftAttrs) error {
	list, err := c.dump(unix.NFT_MSG_GETSET, ours)
	if err != nil {
		return err
	}
	for _, b := range list {
		name, set := decodeSet(b)
		if set.constant {
			elements, err := c.dump(unix.NFT_MSG_GETSETELEM, slices.Clone(ours).text(unix.NFTA_SET_ELEM_LIST_SET, name))
			if err != nil {
				return err
			}
			for _, e := range elements {
				set.elements = appendElements(set.elements, e)
			}
		}
		r.sets[name] = set
	}
	return nil
}

// decodeSet reads a set's description. One that is not exactly of a kind that
// nodeagent makes is neither constant nor sources.
func decodeSet(b []byte) (name string, s firewallSet) {
	var flags uint32
	plain, size := true, uint32(0)
	for kind, value := range nftAttributes(b) {
		switch kind {
		case unix.NFTA_SET_NAME:
			name = text(value)
		case unix.NFTA_SET_FLAGS:
			flags = be32(value)
		case unix.NFTA_SET_KEY_LEN:
			s.length = int(be32(value))
		case unix.NFTA_SET_TIMEOUT:
			s.timeout = time.Duration(be64(value)) * time.Millisecond
		case unix.NFTA_SET_DESC:
			size = attrNumber(value, unix.NFTA_SET_DESC_SIZE)
		case unix.NFTA_SET_DATA_TYPE, unix.NFTA_SET_OBJ_TYPE, unix.NFTA_SET_GC_INTERVAL, setExpr, setExpressions:
			plain = false
		}
	}
	s.interval = flags&unix.NFT_SET_INTERVAL != 0
	constant := uint32(unix.NFT_SET_ANONYMOUS | unix.NFT_SET_CONSTANT)
	s.constant = plain && flags&^unix.NFT_SET_INTERVAL == constant
	s.sources = plain && flags == unix.NFT_SET_EVAL|unix.NFT_SET_TIMEOUT && size == maxSources
	return name, s
}

// Attributes that package unix does not name (linux/netfilter/nf_tables.h).
const (
	setExpr        = 17 // NFTA_SET_EXPR
	setExpressions = 18 // NFTA_SET_EXPRESSIONS
	flowtableName  = 2  // NFTA_FLOWTABLE_NAME
)

// appendElements reads one message of a set's elements.
func appendElements(list []setElement, b []byte) []setElement {
	for kind, value := range nftAttributes(b) {
		if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			continue
		}
		list = slices.Grow(list, len(value)/24)
		for _, element := range nftAttributes(value) {
			list = append(list, decodeElement(element))
		}
	}
	return list
}

func decodeElement(b []byte) setElement {
	var e setElement
	for kind, value := range nftAttributes(b) {
		switch kind {
		case unix.NFTA_SET_ELEM_KEY:
			for inner, key := range nftAttributes(value) {
				if inner == unix.NFTA_DATA_VALUE {
					e.key = key
				}
			}
		case unix.NFTA_SET_ELEM_FLAGS:
			e.end = be32(value)&unix.NFT_SET_ELEM_INTERVAL_END != 0
		default:
			e.other = true
		}
	}
	return e
}

// chains reads the chains of the table with their rules.
func (r *tableReader) chains(chains [][]byte, rules []rawRule) {
	r.table.handles, r.table.rest = map[string][]uint64{}, map[string]uint64{}
	r.table.counts, r.table.restCount = map[string][]Counter{}, map[string]Counter{}
	byChain := map[string][]rawRule{}
	for _, raw := range rules {
		byChain[raw.chain] = append(byChain[raw.chain], raw)
	}
	for _, b := range chains {
		if attrText(b, unix.NFTA_CHAIN_TABLE) != FirewallTable {
			continue
		}
		name := attrText(b, unix.NFTA_CHAIN_NAME)
		shape, known := chainShapes[name]
		if !known {
			r.other("chain", name)
			continue
		}
		r.table.firewall.put(name, r.chain(name, describeChain(b, shape), byChain[name]))
	}
}

func (r *tableReader) chain(name, base string, raw []rawRule) FirewallChain {
	c := FirewallChain{Base: base}
	if chainShapes[name].drops {
		last := len(raw) - 1
		var rest FirewallRule
		if last >= 0 {
			rest, r.table.restCount[name] = parseRule(raw[last], r.sets)
		}
		if rest.same(restRule) {
			r.table.rest[name] = raw[last].handle
			raw = raw[:last]
		} else if base == firewallBase {
			c.Base = "its last rule does not drop the rest"
		}
	}
	for _, one := range raw {
		rule, count := parseRule(one, r.sets)
		if rule.Other == "" && rule.Limit != nil && rule.Limit.BySource {
			r.used[sourcesName(name, rule.Name)] = true
		}
		c.Rules = append(c.Rules, rule)
		r.table.handles[name] = append(r.table.handles[name], one.handle)
		r.table.counts[name] = append(r.table.counts[name], count)
	}
	return c
}

// restRule ends a chain that drops.
var restRule = FirewallRule{Name: restName, Drop: true}

// leftovers names what no rule of ours uses. Anonymous sets live and die with
// their rule.
func (r *tableReader) leftovers(objects, flowtables [][]byte) {
	f := r.table.firewall
	r.table.sources = map[string]bool{}
	for name, set := range r.sets {
		switch {
		case strings.HasPrefix(name, "__"):
		case r.used[name]:
			r.table.sources[name] = true
		case set.sources:
			r.table.sources[name] = true
			f.Idle = append(f.Idle, name)
		default:
			r.other("set", name)
		}
	}
	for _, b := range objects {
		r.other("object", attrText(b, unix.NFTA_OBJ_NAME))
	}
	for _, b := range flowtables {
		r.other("flowtable", attrText(b, flowtableName))
	}
	slices.Sort(f.Idle)
	slices.Sort(f.Other)
}

// chainShape is how nodeagent makes a chain (linux/netfilter.h, ip_tables'
// priorities in netfilter_ipv4.h).
type chainShape struct {
	kind           string
	hook, priority uint32
	drops          bool
}

var chainShapes = map[string]chainShape{
	inputChain:      {"filter", unix.NF_INET_LOCAL_IN, 0, true},
	forwardChain:    {"filter", unix.NF_INET_FORWARD, 0, true},
	masqueradeChain: {"nat", unix.NF_INET_POST_ROUTING, 100, false},
}

func (s chainShape) policy() uint32 {
	if s.drops {
		return nfDrop
	}
	return nfAccept
}

// describeChain returns the Base of a chain that nodeagent makes, and otherwise
// what is different.
func describeChain(b []byte, shape chainShape) string {
	hooked := false
	var hook, priority, flags uint32
	policy, kind := uint32(nfAccept), ""
	for number, value := range nftAttributes(b) {
		switch number {
		case unix.NFTA_CHAIN_HOOK:
			hooked = true
			hook, priority = attrNumber(value, unix.NFTA_HOOK_HOOKNUM), attrNumber(value, unix.NFTA_HOOK_PRIORITY)
		case unix.NFTA_CHAIN_POLICY:
			policy = be32(value)
		case unix.NFTA_CHAIN_TYPE:
			kind = text(value)
		case chainFlags:
			flags = be32(value)
		}
	}
	const baseChain = 1 // NFT_CHAIN_BASE
	switch {
	case !hooked || hook != shape.hook || kind != shape.kind || flags&^baseChain != 0:
		return "its chain is not on the hook"
	case priority != shape.priority:
		return "its chain has another priority"
	case policy != shape.policy() && shape.drops:
		return "accept what no rule drops"
	case policy != shape.policy():
		return "drop what no rule names"
	case shape.drops:
		return firewallBase
	}
	return masqueradeBase
}

// chainFlags is NFTA_CHAIN_FLAGS, which package unix does not name.
const chainFlags = 10

// decodeRule reads the attributes of one rule.
func decodeRule(b []byte) (rawRule, error) {
	var rule rawRule
	attrs, err := netlink.UnmarshalAttributes(b)
	if err != nil {
		return rule, err
	}
	for _, a := range attrs {
		switch a.Type &^ unix.NLA_F_NESTED {
		case unix.NFTA_RULE_CHAIN:
			rule.chain = text(a.Data)
		case unix.NFTA_RULE_HANDLE:
			rule.handle = be64(a.Data)
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
		switch a.Type &^ unix.NLA_F_NESTED {
		case unix.NFTA_EXPR_NAME:
			e.name = text(a.Data)
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

// nestedAttrs are the attributes, by expression, that hold attributes.
var nestedAttrs = map[string][]int{
	"cmp":       {unix.NFTA_CMP_DATA},
	"immediate": {unix.NFTA_IMMEDIATE_DATA},
	"bitwise":   {unix.NFTA_BITWISE_MASK, unix.NFTA_BITWISE_XOR},
}

// padding are the attributes that align what follows on some machines.
var padding = map[string]int{"counter": unix.NFTA_COUNTER_PAD, "limit": unix.NFTA_LIMIT_PAD, "dynset": unix.NFTA_DYNSET_PAD}

// add keeps an attribute, taking apart those that hold others.
func (e *rawExpr) add(a netlink.Attribute) error {
	number := int(a.Type &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER))
	switch {
	case padding[e.name] == number:
	case e.name == "dynset" && number == unix.NFTA_DYNSET_EXPR:
		inner, err := decodeExpr(a.Data)
		e.inner = append(e.inner, inner)
		return err
	case slices.Contains(nestedAttrs[e.name], number):
		inner, err := netlink.UnmarshalAttributes(a.Data)
		if err != nil {
			return err
		}
		for _, i := range inner {
			e.attrs[within(number, int(i.Type&^unix.NLA_F_NESTED))] = string(i.Data)
		}
	default:
		e.attrs[number] = string(a.Data)
	}
	return nil
}

func text(b []byte) string { return string(bytes.TrimRight(b, "\x00")) }

func be32(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func be64(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// attrText and attrNumber return one attribute of a list, zero where it lacks.
func attrText(b []byte, number uint16) string {
	for kind, value := range nftAttributes(b) {
		if kind == number {
			return text(value)
		}
	}
	return ""
}

func attrNumber(b []byte, number uint16) uint32 {
	for kind, value := range nftAttributes(b) {
		if kind == number {
			return be32(value)
		}
	}
	return 0
}
