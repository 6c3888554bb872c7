package netcfg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// foreignTables are the nftables tables of others.
func foreignTables(ctx context.Context) ([]Foreign, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if there, err := hasNFTables("/"); err != nil || !there {
		return []Foreign{}, err
	}
	conn, err := dialNFT()
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return []Foreign{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", explainNFT(err))
	}
	defer conn.Close()
	list, err := conn.foreignTables()
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		return []Foreign{}, nil // nfnetlink without nf_tables
	}
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", explainNFT(err))
	}
	return list, nil
}

// nftFamilies are nft's words for the families of tables.
var nftFamilies = map[byte]string{
	unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6",
	unix.NFPROTO_ARP: "arp", unix.NFPROTO_BRIDGE: "bridge", unix.NFPROTO_NETDEV: "netdev",
}

func (c *nftConn) foreignTables() ([]Foreign, error) {
	tables, err := c.everyFamily(unix.NFT_MSG_GETTABLE)
	if err != nil {
		return nil, err
	}
	chains, err := c.everyFamily(unix.NFT_MSG_GETCHAIN)
	if err != nil {
		return nil, err
	}
	count, hooked := map[string]int{}, map[string]int{}
	for _, m := range chains {
		table := nftFamilies[m.Data[0]] + " " + attrText(m.Data[4:], unix.NFTA_CHAIN_TABLE)
		count[table]++
		if attrText(m.Data[4:], unix.NFTA_CHAIN_TYPE) != "" {
			hooked[table]++
		}
	}
	list := []Foreign{}
	for _, m := range tables {
		name := attrText(m.Data[4:], unix.NFTA_TABLE_NAME)
		if m.Data[0] == unix.NFPROTO_INET && (name == FirewallTable || name == HoldTable) {
			continue
		}
		full := nftFamilies[m.Data[0]] + " " + name
		list = append(list, Foreign{
			Kind: "nftables table", Name: full, By: tableMaker(name),
			Detail: fmt.Sprintf("%d chains, %d of them on hooks", count[full], hooked[full]),
		})
	}
	slices.SortFunc(list, func(a, b Foreign) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// everyFamily dumps what there is in the tables of all families.
func (c *nftConn) everyFamily(kind uint16) ([]netlink.Message, error) {
	m := nftMessage(kind, netlink.Dump, nil)
	m.Data[0] = unix.NFPROTO_UNSPEC
	answers, err := c.Execute(m)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(answers, func(m netlink.Message) bool { return len(m.Data) < 4 }), nil
}

// tableMaker guesses by the name who made a table.
func tableMaker(name string) string {
	switch {
	case name == "kube-proxy":
		return "kube-proxy"
	case name == "firewalld", name == "libvirt_network":
		return strings.TrimSuffix(name, "_network")
	case slices.Contains([]string{"filter", "nat", "mangle", "raw", "security"}, name):
		return "iptables, or by hand"
	case strings.HasPrefix(name, "cali"), strings.HasPrefix(name, "cilium"), strings.HasPrefix(name, "flannel"), strings.HasPrefix(name, "cni"):
		return "the network plugin of Kubernetes"
	}
	return "somebody else"
}
