package netcfg

import (
	"context"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// portVLANs lists the VLANs of all ports of bridges, by the port's index.
func (sys *System) portVLANs() (map[int]VLANs, error) {
	list, err := sys.nl.BridgeVlanList()
	if err != nil {
		return nil, fmt.Errorf("list VLANs of bridge ports: %w", explain(err))
	}
	ports := make(map[int]VLANs, len(list))
	for index, infos := range list {
		var v VLANs
		for _, info := range infos {
			id := int(info.Vid)
			if info.PortVID() {
				v.PVID = id
			}
			if info.EngressUntag() {
				v.Untagged = append(v.Untagged, id)
			} else {
				v.Tagged = append(v.Tagged, id)
			}
		}
		slices.Sort(v.Tagged)
		slices.Sort(v.Untagged)
		ports[int(index)] = v
	}
	return ports, nil
}

// setVLANs gives a port exactly the VLANs, those that are new before others go.
func (sys *System) setVLANs(ctx context.Context, name string, want VLANs) error {
	link, err := sys.find(name)
	if err != nil {
		return err
	}
	all, err := sys.portVLANs()
	if err != nil {
		return err
	}
	index := link.Attrs().Index
	have := all[index]
	for _, untagged := range []bool{true, false} {
		for _, id := range want.ids(untagged) {
			pvid := id == want.PVID
			if slices.Contains(have.ids(untagged), id) && pvid == (id == have.PVID) {
				continue
			}
			if err := edit(ctx, func() error { return sys.editVLAN(unix.RTM_SETLINK, index, id, pvid, untagged) }); err != nil {
				return fmt.Errorf("add VLAN %d to link %q: %w", id, name, explain(err, vlanHints...))
			}
		}
	}
	for _, id := range slices.Concat(have.Tagged, have.Untagged) {
		if slices.Contains(want.Tagged, id) || slices.Contains(want.Untagged, id) {
			continue
		}
		if err := edit(ctx, func() error { return sys.editVLAN(unix.RTM_DELLINK, index, id, false, false) }); err != nil {
			return fmt.Errorf("take VLAN %d from link %q: %w", id, name, explain(err, vlanHints...))
		}
	}
	return nil
}

var vlanHints = []hint{
	{unix.EOPNOTSUPP, "the kernel has no VLAN filtering of bridges, or the link is no port of a bridge"},
}

func (v VLANs) ids(untagged bool) []int {
	if untagged {
		return v.Untagged
	}
	return v.Tagged
}

func (sys *System) editVLAN(messageType, index, id int, pvid, untagged bool) error {
	head := nl.NewIfInfomsg(unix.AF_BRIDGE)
	head.Index = int32(index)
	info := nl.BridgeVlanInfo{Vid: uint16(id)}
	if pvid {
		info.Flags |= nl.BRIDGE_VLAN_INFO_PVID
	}
	if untagged {
		info.Flags |= nl.BRIDGE_VLAN_INFO_UNTAGGED
	}
	req := sys.request(messageType, unix.NLM_F_ACK)
	req.AddData(head)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	spec.AddRtAttr(nl.IFLA_BRIDGE_VLAN_INFO, info.Serialize())
	req.AddData(spec)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// parseMAC reads a hardware address of Ethernet.
func parseMAC(text string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(text)
	if err != nil {
		return nil, fmt.Errorf("read hardware address %q: %w", text, err)
	}
	return mac, nil
}
