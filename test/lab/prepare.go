package lab

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// prepareScript makes a container look like a server to the kubelet and to
// nodeagent. It says itself what it does and why.
//
//go:embed prepare.sh
var prepareScript []byte

// prepareUnit runs it before anything that reads or writes a sysctl or makes a
// control group.
const prepareUnit = `[Unit]
Description=Make this lab host look like a server
DefaultDependencies=no
Before=sysinit.target systemd-sysctl.service systemd-modules-load.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/lib/lab/prepare
[Install]
WantedBy=sysinit.target
`

// installPreparation writes into the host's root folder what runs at its boot.
func (h *Host) installPreparation() error {
	const unit = "/etc/systemd/system/lab-prepare.service"
	if err := h.PutFile("/usr/local/lib/lab/prepare", prepareScript, 0o755); err != nil {
		return err
	}
	if err := h.PutFile(unit, []byte(prepareUnit), 0o644); err != nil {
		return err
	}
	root, wants, err := h.inRoot("/etc/systemd/system/sysinit.target.wants")
	if err != nil {
		return fmt.Errorf("install preparation of host %q: %w", h.name, err)
	}
	defer root.Close()
	if err := root.MkdirAll(wants, 0o755); err != nil {
		return fmt.Errorf("install preparation of host %q: %w", h.name, err)
	}
	if err := root.Symlink(unit, wants+"/lab-prepare.service"); err != nil {
		return fmt.Errorf("install preparation of host %q: %w", h.name, err)
	}
	return h.putBuiltinModules()
}

// modules are the machine's kernel modules, where it has any: a host runs on
// the machine's kernel, and a module that nodeagent loads is the machine's.
func modules() []Bind {
	dir, err := modulesDir()
	if err != nil {
		return nil
	}
	if _, err := os.Stat(dir); err != nil {
		return nil
	}
	return []Bind{{From: dir, To: dir}}
}

// modulesDir is where the modules of the running kernel are, if there are any.
func modulesDir() (string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", fmt.Errorf("read kernel release: %w", err)
	}
	return "/usr/lib/modules/" + unix.ByteSliceToString(name.Release[:]), nil
}

// putBuiltinModules gives the host the list of modules that its kernel has
// built in, which every distribution ships with its kernel. A machine whose
// kernel came without has no such list; then what the kernel says of its own
// configuration tells.
func (h *Host) putBuiltinModules() error {
	dir, err := modulesDir()
	if err != nil || len(modules()) > 0 {
		return err
	}
	list, err := builtinByConfig()
	if err != nil {
		return fmt.Errorf("list built-in modules of the kernel: %w", err)
	}
	for _, empty := range []string{"modules.dep", "modules.alias", "modules.order"} {
		if err := h.PutFile(dir+"/"+empty, nil, 0o644); err != nil {
			return err
		}
	}
	return h.PutFile(dir+"/modules.builtin", list, 0o644)
}

// builtinModules are the modules that fleets name, by the kernel option that
// builds each.
var builtinModules = []struct{ option, file string }{
	{"CONFIG_BRIDGE_NETFILTER", "kernel/net/bridge/br_netfilter.ko"},
	{"CONFIG_BRIDGE", "kernel/net/bridge/bridge.ko"},
	{"CONFIG_OVERLAY_FS", "kernel/fs/overlayfs/overlay.ko"},
	{"CONFIG_VETH", "kernel/drivers/net/veth.ko"},
	{"CONFIG_VXLAN", "kernel/drivers/net/vxlan/vxlan.ko"},
	{"CONFIG_TUN", "kernel/drivers/net/tun.ko"},
	{"CONFIG_NF_CONNTRACK", "kernel/net/netfilter/nf_conntrack.ko"},
	{"CONFIG_NF_TABLES", "kernel/net/netfilter/nf_tables.ko"},
	{"CONFIG_WIREGUARD", "kernel/drivers/net/wireguard/wireguard.ko"},
	{"CONFIG_DUMMY", "kernel/drivers/net/dummy.ko"},
	{"CONFIG_BONDING", "kernel/drivers/net/bonding/bonding.ko"},
	{"CONFIG_VLAN_8021Q", "kernel/net/8021q/8021q.ko"},
}

func builtinByConfig() ([]byte, error) {
	file, err := os.Open("/proc/config.gz")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	unpacked, err := gzip.NewReader(file)
	if err != nil {
		return nil, err
	}
	config, err := io.ReadAll(unpacked)
	if err != nil {
		return nil, err
	}
	var list bytes.Buffer
	for _, module := range builtinModules {
		if strings.Contains(string(config), "\n"+module.option+"=y\n") {
			fmt.Fprintln(&list, module.file)
		}
	}
	return list.Bytes(), nil
}
