package netcfg

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// limit reads a bucket, or one for each source in the set that is the rule's.
func (p *ruleParser) limit(source rawExpr, r *FirewallRule) *FirewallLimit {
	if e, ok := p.next("limit"); ok {
		return p.bucket(e)
	}
	e, ok := p.takes(source, "dynset")
	if !ok {
		return nil
	}
	if len(e.inner) != 1 || len(r.From)+len(r.To)+len(r.NotTo) == 0 {
		p.bad = true
		return nil
	}
	l := p.bucket(e.inner[0])
	l.BySource = true
	name := sourcesName(p.chain, p.name)
	set := p.sets[name]
	want := map[int]string{
		unix.NFTA_DYNSET_SREG_KEY: u32(1), unix.NFTA_DYNSET_OP: u32(unix.NFT_DYNSET_OP_UPDATE), unix.NFTA_DYNSET_SET_NAME: name + "\x00",
	}
	for number, none := range map[int]string{unix.NFTA_DYNSET_TIMEOUT: u64(0), unix.NFTA_DYNSET_FLAGS: u32(0)} {
		if e.attrs[number] == none {
			want[number] = none
		}
	}
	const flagExpr = 2 // NFT_DYNSET_F_EXPR: that there is an expression, said once more
	if e.attrs[unix.NFTA_DYNSET_FLAGS] == u32(flagExpr) {
		want[unix.NFTA_DYNSET_FLAGS] = u32(flagExpr)
	}
	alone := rawExpr{name: e.name, attrs: e.attrs}
	length := len(everything(r.isFour()).Addr().AsSlice())
	if !alone.is("dynset", want) || !set.sources || set.length != length || set.timeout != l.forgetAfter() {
		p.bad = true
	}
	return l
}

func (r *FirewallRule) isFour() bool { four, _ := r.family(); return four }

// bucket reads a limit expression.
func (p *ruleParser) bucket(e rawExpr) *FirewallLimit {
	l := &FirewallLimit{}
	rate, unit, burst := e.attrs[unix.NFTA_LIMIT_RATE], e.attrs[unix.NFTA_LIMIT_UNIT], e.attrs[unix.NFTA_LIMIT_BURST]
	if len(rate) != 8 || len(unit) != 8 || len(burst) != 4 || !e.is("limit", map[int]string{
		unix.NFTA_LIMIT_RATE: rate, unix.NFTA_LIMIT_UNIT: unit, unix.NFTA_LIMIT_BURST: burst,
		unix.NFTA_LIMIT_TYPE: u32(unix.NFT_LIMIT_PKTS), unix.NFTA_LIMIT_FLAGS: u32(0),
	}) {
		p.bad = true
		return l
	}
	l.Count = int(binary.BigEndian.Uint64([]byte(rate)))
	l.Per = time.Duration(binary.BigEndian.Uint64([]byte(unit))) * time.Second
	l.Burst = int(binary.BigEndian.Uint32([]byte(burst)))
	return l
}
