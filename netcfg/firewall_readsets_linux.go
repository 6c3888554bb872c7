package netcfg

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

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
