package netcfg

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// apply makes nodeagent's table as wanted in one transaction, unless it is so
// already.
//
// The table is edited in place: a rule that stays is not touched, and one that
// changes begins with what its predecessor has counted. There is no moment without a firewall:
// rules take effect all at once with the kernel's next generation. What a
// generation does not cover is a base chain's hook and policy, which the kernel
// sets some instants later (nf_tables_commit in nf_tables_api.c); so a chain is
// not made anew without need, and where it must be, its last rule drops the rest.
func (o firewallOp) apply(ctx context.Context, _ *System) error {
	const attempts = 20
	for range attempts {
		err := o.applyOnce(ctx)
		if !errors.Is(err, errChanged) {
			return err
		}
	}
	return fmt.Errorf("write the firewall in %d attempts: %w", attempts, errChanged)
}

func (o firewallOp) applyOnce(ctx context.Context) error {
	have, err := readTable(ctx)
	if err != nil {
		return err
	}
	if have.firewall.same(o.want) && len(idle(have.firewall, o.want)) == 0 {
		return nil
	}
	conn, err := dialNFT()
	if err != nil {
		return fmt.Errorf("write the firewall: %w", explainNFT(err))
	}
	defer conn.Close()
	if have.generation == 0 { // nf_tables was not there to be asked: now it is
		if have.generation, err = conn.generation(); err != nil {
			return fmt.Errorf("write the firewall: %w", explainNFT(err))
		}
	}
	var b nftBatch
	if err := b.stage(have, o.want); err != nil {
		return fmt.Errorf("write the firewall: %w", err)
	}
	if err := conn.commit(ctx, &b, have.generation); err != nil {
		return fmt.Errorf("write the firewall: %w", err)
	}
	return nil
}

// stage fills the transaction that leads from what was read to what is wanted.
func (b *nftBatch) stage(have firewallTable, want *Firewall) error {
	e := tableEdit{nftBatch: b, have: have, want: want, table: nftAttrs(nil).text(unix.NFTA_TABLE_NAME, FirewallTable), counted: have.counted()}
	if have.firewall != nil && (want == nil || !have.editable()) {
		b.add(unix.NFT_MSG_DELTABLE, 0, e.table)
		e.have = firewallTable{}
	}
	if want == nil {
		return nil
	}
	if e.have.firewall == nil {
		b.add(unix.NFT_MSG_NEWTABLE, netlink.Create, e.table)
	}
	return e.stage()
}

// counted is what rules have counted, by chain and name.
func (t firewallTable) counted() map[[2]string]Counter {
	counted := map[[2]string]Counter{}
	for _, c := range t.firewall.chains() {
		for i, r := range c.Rules {
			counted[[2]string{c.name, r.Name}] = t.counts[c.name][i]
		}
		counted[[2]string{c.name, restName}] = t.restCount[c.name]
	}
	return counted
}

// editable tells whether the table's chains and named things are what nodeagent
// makes, so that only rules are to be edited.
func (t firewallTable) editable() bool {
	for _, c := range t.firewall.chains() {
		if c.Base != c.wantBase() {
			return false
		}
	}
	return len(t.firewall.Other) == 0
}

// tableEdit edits the table's content.
type tableEdit struct {
	*nftBatch
	have  firewallTable
	want  *Firewall
	table nftAttrs
	// counted is where the counters of new rules begin.
	counted map[[2]string]Counter
}

func (e *tableEdit) attrs() nftAttrs { return slices.Clone(e.table) }

// stage deletes before it makes, so that names are free, and users before what
// they use.
func (e *tableEdit) stage() error {
	kept := map[string][]int{}
	for _, c := range e.have.firewall.chains() {
		w := e.want.chain(c.name)
		if w == nil {
			chain := e.attrs().text(unix.NFTA_RULE_CHAIN, c.name)
			e.add(unix.NFT_MSG_DELRULE, 0, chain)
			e.add(unix.NFT_MSG_DELCHAIN, 0, e.attrs().text(unix.NFTA_CHAIN_NAME, c.name))
			continue
		}
		kept[c.name] = keep(c.Rules, w.Rules)
		for i := range c.Rules {
			if !slices.Contains(kept[c.name], i) {
				e.add(unix.NFT_MSG_DELRULE, 0, e.attrs().text(unix.NFTA_RULE_CHAIN, c.name).u64(unix.NFTA_RULE_HANDLE, e.have.handles[c.name][i]))
			}
		}
	}
	e.stageSources()
	for _, c := range e.want.chains() {
		if err := e.stageChain(c, kept[c.name]); err != nil {
			return err
		}
	}
	return nil
}

// stageSources deletes sets of limits by source that are no longer wanted and
// makes those that lack. The buckets in a set have the limit that they were made
// with, so a set goes on only where the limit is the same.
func (e *tableEdit) stageSources() {
	goesOn := map[string]bool{}
	limited := e.want.limited()
	for _, name := range limited.names() {
		r := limited[name]
		had, there := e.have.firewall.limited()[name]
		goesOn[name] = there && e.have.sources[name] && had.sameLimit(r) && had.isFour() == r.isFour()
	}
	for name := range e.have.sources {
		if !goesOn[name] {
			e.add(unix.NFT_MSG_DELSET, 0, e.attrs().text(unix.NFTA_SET_NAME, name))
		}
	}
	for _, name := range limited.names() {
		if goesOn[name] {
			continue
		}
		r := limited[name]
		e.sets++
		key := addressSet([]netip.Prefix{everything(r.isFour())}).key
		e.add(unix.NFT_MSG_NEWSET, netlink.Create, e.attrs().text(unix.NFTA_SET_NAME, name).
			u32(unix.NFTA_SET_FLAGS, unix.NFT_SET_EVAL|unix.NFT_SET_TIMEOUT).
			u32(unix.NFTA_SET_KEY_TYPE, key.GetNFTMagic()).u32(unix.NFTA_SET_KEY_LEN, key.Bytes).
			u32(unix.NFTA_SET_ID, e.sets).
			u64(unix.NFTA_SET_TIMEOUT, uint64(r.Limit.forgetAfter()/time.Millisecond)).
			nest(unix.NFTA_SET_DESC, nftAttrs(nil).u32(unix.NFTA_SET_DESC_SIZE, maxSources)).
			bytes(unix.NFTA_SET_USERDATA, keyOrder(false)))
	}
}

// stageChain makes the chain where it lacks and puts its new rules between those
// that are kept.
func (e *tableEdit) stageChain(c firewallChain, kept []int) error {
	shape := chainShapes[c.name]
	have := e.have.firewall.chain(c.name)
	if have == nil {
		hook := nftAttrs(nil).u32(unix.NFTA_HOOK_HOOKNUM, shape.hook).u32(unix.NFTA_HOOK_PRIORITY, shape.priority)
		e.add(unix.NFT_MSG_NEWCHAIN, netlink.Create, e.attrs().text(unix.NFTA_CHAIN_NAME, c.name).
			nest(unix.NFTA_CHAIN_HOOK, hook).u32(unix.NFTA_CHAIN_POLICY, shape.policy()).text(unix.NFTA_CHAIN_TYPE, shape.kind))
	}
	next := 0 // of those kept
	for _, r := range c.Rules {
		if next < len(kept) && have.Rules[kept[next]].same(r) {
			next++
			continue
		}
		position := e.have.rest[c.name] // 0 where there is none: the end
		if next < len(kept) {
			position = e.have.handles[c.name][kept[next]]
		}
		if err := e.stageRule(c.name, r, position); err != nil {
			return err
		}
	}
	if shape.drops && have == nil {
		return e.stageRule(c.name, restRule, 0)
	}
	return nil
}

// stageRule puts a rule before the one with the handle, or at the end.
func (e *tableEdit) stageRule(chain string, r FirewallRule, before uint64) error {
	exprs, err := compileRule(chain, r, e.counted[[2]string{chain, r.Name}], e.stageSet)
	if err != nil {
		return err
	}
	var list nftAttrs
	for _, x := range exprs {
		encoded, err := expr.Marshal(unix.NFPROTO_INET, x)
		if err != nil {
			return fmt.Errorf("encode rule %q: %w", r.Name, err)
		}
		list = list.nest(unix.NFTA_LIST_ELEM, encoded)
	}
	attrs := e.attrs().text(unix.NFTA_RULE_CHAIN, chain).nest(unix.NFTA_RULE_EXPRESSIONS, list).
		bytes(unix.NFTA_RULE_USERDATA, userdata.AppendString(nil, userdata.TypeComment, r.Name))
	if before == 0 {
		e.add(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, attrs)
		return nil
	}
	e.add(unix.NFT_MSG_NEWRULE, netlink.Create, attrs.u64(unix.NFTA_RULE_POSITION, before))
	return nil
}

// stageSet makes an anonymous constant set.
func (e *tableEdit) stageSet(s keySet) (name string, id uint32) {
	e.sets++
	const anyName = "__set%d" // the kernel puts in a number
	flags := uint32(unix.NFT_SET_ANONYMOUS | unix.NFT_SET_CONSTANT)
	if s.interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	chunks, count := encodeElements(s)
	e.add(unix.NFT_MSG_NEWSET, netlink.Create, e.attrs().text(unix.NFTA_SET_NAME, anyName).
		u32(unix.NFTA_SET_FLAGS, flags).u32(unix.NFTA_SET_KEY_TYPE, s.key.GetNFTMagic()).u32(unix.NFTA_SET_KEY_LEN, s.key.Bytes).
		u32(unix.NFTA_SET_ID, e.sets).
		nest(unix.NFTA_SET_DESC, nftAttrs(nil).u32(unix.NFTA_SET_DESC_SIZE, uint32(count))).
		bytes(unix.NFTA_SET_USERDATA, keyOrder(s.native)))
	for _, list := range chunks {
		e.add(unix.NFT_MSG_NEWSETELEM, netlink.Create, e.attrs().text(unix.NFTA_SET_ELEM_LIST_SET, anyName).
			u32(unix.NFTA_SET_ELEM_LIST_SET_ID, e.sets).nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, list))
	}
	return anyName, e.sets
}

// keyOrder is the user data by which nft(8) knows the byte order of keys.
func keyOrder(native bool) []byte {
	const machine, network = 1, 2 // enum byteorder of nft
	if native {
		return userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, machine)
	}
	return userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, network)
}

// encodeElements returns the elements of a set in lists that fit an attribute
// each, and how many there are: of an interval its first key, and the key after
// its last one, marked as an end and left out where there is none.
func encodeElements(s keySet) (chunks []nftAttrs, count int) {
	const room = 64 // more than one element takes
	var list nftAttrs
	put := func(key []byte, end bool) {
		if len(list)+room > maxNest {
			chunks = append(chunks, list)
			list = nil
		}
		if list == nil {
			list = make(nftAttrs, 0, min(maxNest, 2*len(s.ranges)*room))
		}
		list = appendElement(list, key, end)
		count++
	}
	for _, r := range s.ranges {
		put(r.first, false)
		if s.interval {
			if next, ok := after(r.last); ok {
				put(next, true)
			}
		}
	}
	return append(chunks, list), count
}

// appendElement writes one element into the list, without the detours of nest.
func appendElement(list nftAttrs, key []byte, end bool) nftAttrs {
	begin := len(list)
	list = append(list, 0, 0, 0, 0)
	if end {
		list = list.u32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	outer := len(list)
	list = append(list, 0, 0, 0, 0).bytes(unix.NFTA_DATA_VALUE, key)
	list.header(outer, unix.NFTA_SET_ELEM_KEY)
	list.header(begin, unix.NFTA_LIST_ELEM)
	return list
}
