package netcfg

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

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
