package netcfg

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// rawRule is a rule as the kernel gives it: its comment and its expressions
// with every attribute. The library's own reading leaves out expressions and
// attributes that it does not know, and so a rule that somebody else put there
// could look like one of ours.
type rawRule struct {
	chain   string
	handle  uint64
	comment string
	exprs   []rawExpr
}

// rawExpr is one expression: its name, and its attributes by their number.
// Attributes within attributes have two numbers joined by within; an expression
// within one is in inner.
type rawExpr struct {
	name  string
	attrs map[int]string
	inner []rawExpr
}

// within numbers an attribute within an attribute.
func within(outer, inner int) int { return outer<<8 | inner }

// String prints an expression in full.
func (e rawExpr) String() string {
	var words []string
	for _, n := range slices.Sorted(maps.Keys(e.attrs)) {
		words = append(words, fmt.Sprintf("%d:%s", n, hex.EncodeToString([]byte(e.attrs[n]))))
	}
	for _, i := range e.inner {
		words = append(words, i.String())
	}
	return e.name + "{" + strings.Join(words, " ") + "}"
}

// is tells whether the expression has the name and exactly these attributes.
func (e rawExpr) is(name string, attrs map[int]string) bool {
	return e.name == name && len(e.inner) == 0 && maps.Equal(e.attrs, attrs)
}

func u32(v uint32) string { return string(binary.BigEndian.AppendUint32(nil, v)) }

func u64(v uint64) string { return string(binary.BigEndian.AppendUint64(nil, v)) }

func loadMeta(key expr.MetaKey) rawExpr {
	return rawExpr{name: "meta", attrs: map[int]string{unix.NFTA_META_KEY: u32(uint32(key)), unix.NFTA_META_DREG: u32(1)}}
}

func loadCt(key uint32) rawExpr {
	return rawExpr{name: "ct", attrs: map[int]string{unix.NFTA_CT_KEY: u32(key), unix.NFTA_CT_DREG: u32(1)}}
}

func loadPayload(l expr.Payload) rawExpr {
	return rawExpr{name: "payload", attrs: map[int]string{
		unix.NFTA_PAYLOAD_DREG: u32(1), unix.NFTA_PAYLOAD_BASE: u32(uint32(l.Base)),
		unix.NFTA_PAYLOAD_OFFSET: u32(l.Offset), unix.NFTA_PAYLOAD_LEN: u32(l.Len),
	}}
}

// The verdicts of linux/netfilter.h.
const (
	nfDrop   = 0
	nfAccept = 1
)

// verdictAttr is the content of NFTA_DATA_VERDICT: one attribute,
// NFTA_VERDICT_CODE, in the machine's byte order but for its value.
func verdictAttr(code uint32) string {
	b := binary.NativeEndian.AppendUint16(nil, 8)
	b = binary.NativeEndian.AppendUint16(b, unix.NFTA_VERDICT_CODE)
	return string(binary.BigEndian.AppendUint32(b, code))
}
