package netcfg

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
)

// linkInfo is what the kernel tells of a link's kind and of its being a port.
type linkInfo struct {
	kind, data         []byte
	portKind, portData []byte
}

// readLinkInfo reads IFLA_LINKINFO of a link message.
func readLinkInfo(message []byte) (linkInfo, error) {
	var info linkInfo
	value, err := nested(message[unix.SizeofIfInfomsg:], unix.IFLA_LINKINFO)
	if err != nil {
		return info, err
	}
	attributes, err := nl.ParseRouteAttr(value)
	for _, a := range attributes {
		switch a.Attr.Type &^ unix.NLA_F_NESTED {
		case nl.IFLA_INFO_KIND:
			info.kind = a.Value
		case nl.IFLA_INFO_DATA:
			info.data = a.Value
		case nl.IFLA_INFO_SLAVE_KIND:
			info.portKind = a.Value
		case nl.IFLA_INFO_SLAVE_DATA:
			info.portData = a.Value
		}
	}
	return info, err
}

// decodeSettings reads what the table names; attributes that the kernel does not
// send are left out, and read as "" where they are names and addresses.
func decodeSettings(table []attribute, data []byte, name func(int) string) []Setting {
	values := map[uint16][]byte{}
	attributes, err := nl.ParseRouteAttr(data)
	if err != nil {
		return nil
	}
	for _, a := range attributes {
		values[a.Attr.Type&^unix.NLA_F_NESTED] = a.Value
	}
	var settings []Setting
	for _, a := range table {
		value, sent := values[a.id]
		if !sent && a.id6 != 0 {
			value, sent = values[a.id6]
		}
		if sent || a.form == linkIndex || a.form == address || a.form == addressList {
			settings = append(settings, Setting{a.name, a.decode(value, name)})
		}
	}
	return settings
}

func (a attribute) decode(value []byte, name func(int) string) string {
	var n uint32
	switch {
	case a.form == address:
		return addressWord(value)
	case a.form == addressList:
		return addressWords(value)
	case len(value) >= 4:
		n = binary.NativeEndian.Uint32(value)
	case len(value) >= 2 && (a.form == port16 || a.form == ether16):
		n = uint32(binary.BigEndian.Uint16(value))
	case len(value) >= 2:
		n = uint32(binary.NativeEndian.Uint16(value))
	case len(value) == 1:
		n = uint32(value[0])
	}
	switch a.form {
	case flag8, flag32:
		return flagWord(n != 0)
	case word8, word32:
		if int(n) < len(a.words) && a.words[n] != "" {
			return a.words[n]
		}
	case ether16:
		switch n {
		case unix.ETH_P_8021Q:
			return "802.1q"
		case unix.ETH_P_8021AD:
			return "802.1ad"
		}
	case centiseconds:
		return (time.Duration(n) * 10 * time.Millisecond).String()
	case milliseconds:
		return (time.Duration(n) * time.Millisecond).String()
	case linkIndex:
		return name(int(n))
	}
	return strconv.FormatUint(uint64(n), 10)
}

// addressWord prints an address; the unspecified one is none.
func addressWord(value []byte) string {
	a, ok := netip.AddrFromSlice(value)
	if !ok || a.IsUnspecified() {
		return ""
	}
	return a.String()
}

func addressWords(value []byte) string {
	attributes, err := nl.ParseRouteAttr(value)
	if err != nil {
		return ""
	}
	var words []string
	for _, a := range attributes {
		if word := addressWord(a.Value); word != "" {
			words = append(words, word)
		}
	}
	return strings.Join(words, " ")
}

// encodeSettings adds the settings to a netlink message.
func encodeSettings(to *nl.RtAttr, table []attribute, settings []Setting, index func(string) (int, error)) error {
	for _, a := range table { // in the order in which they are to be set
		value, set := settingOf(settings, a.name)
		if !set || value == "" && a.form == address {
			continue
		}
		if err := a.encode(to, value, index); err != nil {
			return fmt.Errorf("%s %q: %w", a.name, value, err)
		}
	}
	return nil
}

func (a attribute) encode(to *nl.RtAttr, value string, index func(string) (int, error)) error {
	switch a.form {
	case address:
		addr, err := netip.ParseAddr(value)
		if err != nil {
			return err
		}
		id := a.id
		if addr.Is6() {
			id = a.id6
		}
		to.AddRtAttr(int(id), addr.AsSlice())
		return nil
	case addressList:
		list := to.AddRtAttr(int(a.id), nil)
		for i, word := range strings.Fields(value) {
			addr, err := netip.ParseAddr(word)
			if err != nil {
				return err
			}
			list.AddRtAttr(i, addr.AsSlice())
		}
		return nil
	}
	n, err := a.numberOf(value, index)
	if err != nil {
		return err
	}
	switch a.form {
	case flag8, number8, word8:
		to.AddRtAttr(int(a.id), []byte{byte(n)})
	case number16:
		to.AddRtAttr(int(a.id), nl.Uint16Attr(uint16(n)))
	case port16, ether16:
		to.AddRtAttr(int(a.id), binary.BigEndian.AppendUint16(nil, uint16(n)))
	default:
		to.AddRtAttr(int(a.id), nl.Uint32Attr(n))
	}
	return nil
}

// numberOf is the value as the kernel counts it.
func (a attribute) numberOf(value string, index func(string) (int, error)) (uint32, error) {
	switch a.form {
	case flag8, flag32:
		if value == "on" {
			return 1, nil
		}
		return 0, nil
	case word8, word32:
		n := slices.Index(a.words, value)
		if n < 0 {
			return 0, fmt.Errorf("the kernel has no such word")
		}
		return uint32(n), nil
	case ether16:
		if value == "802.1ad" {
			return unix.ETH_P_8021AD, nil
		}
		return unix.ETH_P_8021Q, nil
	case centiseconds, milliseconds:
		d, err := time.ParseDuration(value)
		if a.form == centiseconds {
			return uint32(d / (10 * time.Millisecond)), err
		}
		return uint32(d / time.Millisecond), err
	case linkIndex:
		if value == "" {
			return 0, nil
		}
		n, err := index(value)
		return uint32(n), err
	}
	n, err := strconv.ParseUint(value, 10, 32)
	return uint32(n), err
}

// index returns the number of the link with the name.
func (sys *System) index(name string) (int, error) {
	link, err := sys.find(name)
	if err != nil {
		return 0, err
	}
	return link.Attrs().Index, nil
}

// newLink makes a link with the settings of its kind. It is born in our group, so
// that it is known as ours from its first moment.
func (sys *System) newLink(l Link) error {
	req := sys.request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(l.Name)))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(linkGroup)))
	if l.Parent != "" && parented(l.Kind) {
		parent, err := sys.index(l.Parent)
		if err != nil {
			return err
		}
		req.AddData(nl.NewRtAttr(unix.IFLA_LINK, nl.Uint32Attr(uint32(parent))))
	}
	if l.MAC != "" {
		mac, err := parseMAC(l.MAC)
		if err != nil {
			return err
		}
		req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, mac))
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, []byte(l.Kind))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	if err := sys.birthData(data, l); err != nil {
		return err
	}
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func (sys *System) birthData(data *nl.RtAttr, l Link) error {
	switch l.Kind {
	case hosts.LinkVeth:
		peer := data.AddRtAttr(nl.VETH_INFO_PEER, nil)
		peer.AddChild(nl.NewIfInfomsg(unix.AF_UNSPEC))
		peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(l.Peer))
		return nil
	case hosts.LinkVXLAN:
		if parent := l.Parent; parent != "" {
			index, err := sys.index(parent)
			if err != nil {
				return err
			}
			data.AddRtAttr(nl.IFLA_VXLAN_LINK, nl.Uint32Attr(uint32(index)))
		}
	}
	// A bond's primary port comes later, and brings this with it. A kernel that
	// filters no VLANs refuses to be told so.
	settings := slices.DeleteFunc(slices.Clone(l.Settings), func(s Setting) bool {
		return s.Name == "primary" || s == Setting{"vlan_filtering", "off"}
	})
	return encodeSettings(data, kindAttributes[l.Kind], settings, sys.index)
}

// setKind changes settings of a link's kind, in the one message in the order of
// the table.
func (sys *System) setKind(index int, kind hosts.LinkKind, settings []Setting) error {
	return sys.setInfo(index, string(kind), nl.IFLA_INFO_KIND, nl.IFLA_INFO_DATA, kindAttributes[kind], settings)
}

// setPort changes settings of a port of a bridge.
func (sys *System) setPort(index int, settings []Setting) error {
	return sys.setInfo(index, "bridge", nl.IFLA_INFO_SLAVE_KIND, nl.IFLA_INFO_SLAVE_DATA, portAttributes, settings)
}

func (sys *System) setInfo(index int, kind string, kindAttr, dataAttr int, table []attribute, settings []Setting) error {
	head := nl.NewIfInfomsg(unix.AF_UNSPEC)
	head.Index = int32(index)
	req := sys.request(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	req.AddData(head)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(kindAttr, []byte(kind))
	if err := encodeSettings(info.AddRtAttr(dataAttr, nil), table, settings, sys.index); err != nil {
		return err
	}
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
