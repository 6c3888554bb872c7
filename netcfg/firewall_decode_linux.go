package netcfg

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

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
