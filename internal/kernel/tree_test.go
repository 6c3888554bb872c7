package kernel

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// An excerpt of modules.dep of Debian's linux-image-6.1.0-cloud-amd64, with the
// compression suffixes that other distributions have on some lines.
const dep = `kernel/net/llc/llc.ko:
kernel/net/802/stp.ko: kernel/net/llc/llc.ko
kernel/net/bridge/bridge.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko
kernel/net/bridge/br_netfilter.ko: kernel/net/bridge/bridge.ko kernel/net/802/stp.ko kernel/net/llc/llc.ko
kernel/arch/x86/crypto/curve25519-x86_64.ko.xz: kernel/lib/crypto/libcurve25519-generic.ko.xz
kernel/lib/crypto/libcurve25519-generic.ko.xz:
kernel/net/ipv4/udp_tunnel.ko.xz:
kernel/net/ipv6/ip6_udp_tunnel.ko.xz:
kernel/drivers/net/wireguard/wireguard.ko.xz: kernel/arch/x86/crypto/curve25519-x86_64.ko.xz kernel/lib/crypto/libcurve25519-generic.ko.xz kernel/net/ipv6/ip6_udp_tunnel.ko.xz kernel/net/ipv4/udp_tunnel.ko.xz
kernel/net/netfilter/ipvs/ip_vs.ko.zst: kernel/net/netfilter/nf_conntrack.ko.zst kernel/net/ipv6/netfilter/nf_defrag_ipv6.ko.zst kernel/net/ipv4/netfilter/nf_defrag_ipv4.ko.zst
kernel/net/netfilter/nf_conntrack.ko.zst: kernel/net/ipv6/netfilter/nf_defrag_ipv6.ko.zst kernel/net/ipv4/netfilter/nf_defrag_ipv4.ko.zst
kernel/net/ipv6/netfilter/nf_defrag_ipv6.ko.zst:
kernel/net/ipv4/netfilter/nf_defrag_ipv4.ko.zst:
kernel/fs/overlayfs/overlay.ko:
`

func TestLoadOrder(t *testing.T) {
	tr := &tree{files: parseDep(dep)}
	for _, tc := range []struct {
		name  string
		order []string
	}{
		{"overlay", []string{"kernel/fs/overlayfs/overlay.ko"}},
		{"br_netfilter", []string{"kernel/net/llc/llc.ko", "kernel/net/802/stp.ko", "kernel/net/bridge/bridge.ko", "kernel/net/bridge/br_netfilter.ko"}},
		{"ip_vs", []string{
			"kernel/net/ipv4/netfilter/nf_defrag_ipv4.ko.zst", "kernel/net/ipv6/netfilter/nf_defrag_ipv6.ko.zst",
			"kernel/net/netfilter/nf_conntrack.ko.zst", "kernel/net/netfilter/ipvs/ip_vs.ko.zst",
		}},
		{"curve25519_x86_64", []string{"kernel/lib/crypto/libcurve25519-generic.ko.xz", "kernel/arch/x86/crypto/curve25519-x86_64.ko.xz"}},
		{"nothing", nil},
	} {
		order, ok := tr.loadOrder(tc.name)
		if diff := cmp.Diff(tc.order, order); diff != "" || ok != (tc.order != nil) {
			t.Errorf("%s, %v: %s", tc.name, ok, diff)
		}
	}
}

// Whatever the module, each file comes after all that it needs.
func TestLoadOrderNeedsFirst(t *testing.T) {
	tr := &tree{files: parseDep(dep)}
	for name := range tr.files {
		order, _ := tr.loadOrder(name)
		for i, path := range order {
			for _, need := range tr.files[fileModule(path)].needs {
				if at := slices.Index(order, need); at < 0 || at >= i {
					t.Errorf("%s: %s at %d needs %s at %d", name, path, i, need, at)
				}
			}
		}
	}
}

// A list that names direct needs only, as some build systems write it, and one
// with a circle, which must end.
func TestLoadOrderDirectNeedsAndCircles(t *testing.T) {
	tr := &tree{files: parseDep("a.ko: b.ko\nb.ko: c.ko\nc.ko:\nx.ko: y.ko\ny.ko: x.ko\n")}
	if order, _ := tr.loadOrder("a"); !slices.Equal(order, []string{"c.ko", "b.ko", "a.ko"}) {
		t.Errorf("order %v", order)
	}
	if order, _ := tr.loadOrder("x"); !slices.Equal(order, []string{"y.ko", "x.ko"}) {
		t.Errorf("order %v", order)
	}
}

func TestAliases(t *testing.T) {
	tr := &tree{
		files: parseDep(dep),
		aliases: parseAlias("# Aliases\nalias rtnl-link-wireguard wireguard\nalias nf-conntrack-any nf_conntrack\n" +
			"alias pci:v00001af4d00001000sv*sd* virtio_net\n"),
	}
	for name, want := range map[string][]string{
		"overlay": {"overlay"}, "rtnl_link_wireguard": {"wireguard"}, "nf_conntrack_any": {"nf_conntrack"}, "nope": nil,
	} {
		if got := tr.resolve(name); !slices.Equal(got, want) {
			t.Errorf("resolve(%q) = %v, want %v", name, got, want)
		}
	}
}

func TestBuiltInSymbols(t *testing.T) {
	got := builtInSymbols("# CONFIG_MODULES is not set\nCONFIG_BRIDGE_NETFILTER=y\nCONFIG_WIREGUARD=m\nCONFIG_HZ=250\nCONFIG_LOCALVERSION=\"y\"\n")
	if diff := cmp.Diff(map[string]bool{"BRIDGE_NETFILTER": true}, got); diff != "" {
		t.Error(diff)
	}
}

func TestParameterNames(t *testing.T) {
	info := []byte("license=GPL\x00parm=redirect_dir:Default to on\x00parmtype=redirect_dir:bool\x00parmtype=xino_auto:bool\x00")
	if got := parameterNames(info, ""); !slices.Equal(got, []string{"redirect_dir", "xino_auto"}) {
		t.Errorf("got %v", got)
	}
	builtin := []byte("overlay.parmtype=metacopy:bool\x00fuse.parmtype=max_user_bgreq:uint\x00")
	if got := parameterNames(builtin, "overlay."); !slices.Equal(got, []string{"metacopy"}) {
		t.Errorf("got %v", got)
	}
}

func TestSoftNeeds(t *testing.T) {
	got := parseSoft("# comment\nsoftdep cifs gcm\nsoftdep xt_LOG pre: nf-log-syslog\nsoftdep btrfs pre: a\nsoftdep btrfs pre: b post: c d\n")
	want := map[string]softNeeds{
		"cifs":   {},
		"xt_LOG": {before: []string{"nf_log_syslog"}},
		"btrfs":  {before: []string{"a", "b"}, after: []string{"c", "d"}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(softNeeds{})); diff != "" {
		t.Error(diff)
	}
}
