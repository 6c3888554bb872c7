package kernel

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// System is the running kernel. Its fields may be set by hand to look at
// another tree of files; what is read of the kernel's own making does not
// change while it runs and is read once.
type System struct {
	// Root holds nodeagent's own files, the module folders and /boot.
	Root layout.Root
	// Proc and Sys are where procfs and sysfs are mounted.
	Proc, Sys string
	// Release names the running kernel as uname -r does.
	Release string

	once struct{ tree, builtin, config sync.Once }

	tree    *tree
	treeErr error
	builtin map[string]bool
	config  map[string]bool // symbols that are "y"
}

// path joins names below the root.
func (s *System) path(elem ...string) string {
	return filepath.Join(append([]string{string(s.Root) + "/"}, elem...)...)
}

// moduleDir returns the folder of the running kernel's modules: the usual
// place, or NixOS's. It is false where there is none.
func (s *System) moduleDir() (string, bool) {
	for _, parent := range []string{"lib/modules", "usr/lib/modules", "run/booted-system/kernel-modules/lib/modules"} {
		dir := s.path(parent, s.Release)
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir, true
		}
	}
	return "", false
}

// modules returns the tree of the running kernel's modules.
func (s *System) modules() (*tree, error) {
	s.once.tree.Do(func() {
		dir, ok := s.moduleDir()
		if !ok {
			s.treeErr = fmt.Errorf("the running kernel %s has no module folder (%s): install its modules, or reboot if the kernel was upgraded", s.Release, s.path("lib/modules", s.Release))
			return
		}
		s.tree, s.treeErr = openTree(dir)
	})
	return s.tree, s.treeErr
}

// isBuiltIn tells whether the module is built into the running kernel. Three
// witnesses know, and each of them may be missing: the folder /sys/module/NAME
// without an initstate file (only of modules with parameters or a version),
// modules.builtin, and the kernel's configuration.
func (s *System) isBuiltIn(name string) bool {
	module := filepath.Join(s.Sys, "module", name)
	if _, err := os.Stat(module); err == nil {
		if _, err := os.Stat(filepath.Join(module, "initstate")); errors.Is(err, fs.ErrNotExist) {
			return true
		}
		return false
	}
	s.once.builtin.Do(func() {
		if dir, ok := s.moduleDir(); ok {
			// Without the file the configuration decides.
			s.builtin, _ = scanModules(filepath.Join(dir, "modules.builtin"))
		}
	})
	if s.builtin[name] {
		return true
	}
	s.once.config.Do(func() { s.config = s.readConfig() })
	return s.config[configSymbol(name)]
}

// configSymbols are the configuration symbols of modules that are not named
// after them (from the Makefiles of Linux 6.18).
var configSymbols = map[string]string{
	"br_netfilter":    "BRIDGE_NETFILTER",
	"overlay":         "OVERLAY_FS",
	"8021q":           "VLAN_8021Q",
	"vrf":             "NET_VRF",
	"fuse":            "FUSE_FS",
	"loop":            "BLK_DEV_LOOP",
	"nbd":             "BLK_DEV_NBD",
	"rbd":             "BLK_DEV_RBD",
	"drbd":            "BLK_DEV_DRBD",
	"dm_mod":          "BLK_DEV_DM",
	"dm_crypt":        "DM_CRYPT",
	"dm_thin_pool":    "DM_THIN_PROVISIONING",
	"nvme":            "BLK_DEV_NVME",
	"nvme_tcp":        "NVME_TCP",
	"iscsi_tcp":       "ISCSI_TCP",
	"nfs":             "NFS_FS",
	"ceph":            "CEPH_FS",
	"xfs":             "XFS_FS",
	"btrfs":           "BTRFS_FS",
	"ext4":            "EXT4_FS",
	"ip_tables":       "IP_NF_IPTABLES",
	"ip6_tables":      "IP6_NF_IPTABLES",
	"iptable_filter":  "IP_NF_FILTER",
	"iptable_nat":     "IP_NF_NAT",
	"iptable_mangle":  "IP_NF_MANGLE",
	"iptable_raw":     "IP_NF_RAW",
	"ip6table_filter": "IP6_NF_FILTER",
	"ip6table_nat":    "IP6_NF_NAT",
	"ip6table_mangle": "IP6_NF_MANGLE",
	"ip6table_raw":    "IP6_NF_RAW",
	"x_tables":        "NETFILTER_XTABLES",
	"xt_conntrack":    "NETFILTER_XT_MATCH_CONNTRACK",
	"xt_socket":       "NETFILTER_XT_MATCH_SOCKET",
	"xt_mark":         "NETFILTER_XT_MARK",
	"xt_tproxy":       "NETFILTER_XT_TARGET_TPROXY",
	"xt_ct":           "NETFILTER_XT_TARGET_CT",
	"nfnetlink":       "NETFILTER_NETLINK",
	"nf_nat":          "NF_NAT",
	"ip_vs":           "IP_VS",
	"ip_vs_rr":        "IP_VS_RR",
	"ip_vs_wrr":       "IP_VS_WRR",
	"ip_vs_sh":        "IP_VS_SH",
	"tcp_bbr":         "TCP_CONG_BBR",
	"sch_fq":          "NET_SCH_FQ",
	"sch_fq_codel":    "NET_SCH_FQ_CODEL",
	"sch_ingress":     "NET_SCH_INGRESS",
	"cls_bpf":         "NET_CLS_BPF",
	"cls_u32":         "NET_CLS_U32",
	"act_bpf":         "NET_ACT_BPF",
	"aes_generic":     "CRYPTO_AES",
	"algif_hash":      "CRYPTO_USER_API_HASH",
	"ipip":            "NET_IPIP",
	"ip_gre":          "NET_IPGRE",
	"sit":             "IPV6_SIT",
	"softdog":         "SOFT_WATCHDOG",
	"configfs":        "CONFIGFS_FS",
	"vsock":           "VSOCKETS",
	"vhost_vsock":     "VHOST_VSOCK",
	"ebtables":        "BRIDGE_NF_EBTABLES",
}

// configSymbol returns the configuration symbol of a module, by default its
// name in capitals, which holds for most network modules.
func configSymbol(module string) string {
	if symbol, ok := configSymbols[module]; ok {
		return symbol
	}
	return strings.ToUpper(module)
}

// readConfig returns the symbols that the running kernel was built with as
// "y", from the first configuration that can be read; none where none can.
func (s *System) readConfig() map[string]bool {
	files := []string{filepath.Join(s.Proc, "config.gz"), s.path("boot", "config-"+s.Release)}
	if dir, ok := s.moduleDir(); ok {
		files = append(files, filepath.Join(dir, "config"))
	}
	for _, path := range files {
		if symbols, err := readConfigFile(path); err == nil {
			return symbols
		}
	}
	return nil
}

func readConfigFile(path string) (map[string]bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			return nil, err
		}
	}
	content, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	return builtInSymbols(string(content)), nil
}

// builtInSymbols returns the symbols of the lines CONFIG_<symbol>=y.
func builtInSymbols(config string) map[string]bool {
	symbols := map[string]bool{}
	for line := range strings.Lines(config) {
		symbol, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if symbol, named := strings.CutPrefix(symbol, "CONFIG_"); ok && named && value == "y" {
			symbols[strings.Clone(symbol)] = true
		}
	}
	return symbols
}
