package agent

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/units"
	"github.com/nodeagent/nodeagent/netcfg"
)

// wireGuardProgram serves the host's WireGuard device where the kernel has none:
// this program as a service of its own, so that sessions outlive the agent. Its
// unit file lasts until the next boot, at which the network domain chooses
// anew: a kernel that has got WireGuard meanwhile then gets the device.
type wireGuardProgram struct{ systemd *units.Systemd }

// deviceKey begins the line of the unit file that names the device. systemd does
// not read sections that begin with X-.
const deviceKey = "Device="

// The service may make and configure network devices and nothing else; it comes
// before what talks over it, and so is stopped after it.
const wireGuardService = `[Unit]
Description=nodeagent: WireGuard device %[1]s, in userspace as this kernel has no WireGuard
After=systemd-modules-load.service systemd-sysctl.service
Before=network.target network-online.target %[3]s
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=%[2]s wireguard userspace %[1]s
TimeoutStartSec=20
Restart=always
RestartSec=1
# One that hangs is killed. At once: what it would print might hold keys.
WatchdogSec=30
WatchdogSignal=SIGKILL
OOMScoreAdjust=-900
# Its socket, by which it is configured, is /run/wireguard/%[1]s.sock.
RuntimeDirectory=wireguard
RuntimeDirectoryPreserve=yes
RuntimeDirectoryMode=0700
UMask=0077
# NET_BIND_SERVICE: a spec may choose a port below 1024.
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
ProtectControlGroups=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectClock=yes
DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service

[X-nodeagent]
` + deviceKey + `%[1]s
`

// Device implements [netcfg.Userspace].
func (p wireGuardProgram) Device() (string, error) {
	content, err := p.systemd.Service(netcfg.WireGuardUnit)
	if err != nil {
		return "", fmt.Errorf("read unit %q: %w", netcfg.WireGuardUnit, err)
	}
	return serviceDevice(content), nil
}

func serviceDevice(content string) string {
	if !strings.HasPrefix(content, units.ServiceHeader) {
		return "" // somebody else's
	}
	lines := bufio.NewScanner(strings.NewReader(content))
	for lines.Scan() {
		if device, found := strings.CutPrefix(lines.Text(), deviceKey); found {
			return device
		}
	}
	return ""
}

// Start implements [netcfg.Userspace].
func (p wireGuardProgram) Start(ctx context.Context, device string) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	return p.systemd.SetService(ctx, netcfg.WireGuardUnit, wireGuardUnit(program, device))
}

func wireGuardUnit(program, device string) string {
	var before []string
	for _, component := range []string{
		layout.Etcd, layout.Containerd, layout.APIServer, layout.ControllerManager, layout.Scheduler, layout.Kubelet, layout.KubeProxy,
	} {
		before = append(before, layout.Unit(component))
	}
	return fmt.Sprintf(wireGuardService, device, program, strings.Join(before, " "))
}

// Stop implements [netcfg.Userspace].
func (p wireGuardProgram) Stop(ctx context.Context) error {
	return p.systemd.ClearService(ctx, netcfg.WireGuardUnit)
}

// NetworkWarnings are what a person should know of the network though there is
// nothing to change, a line each.
func (h *Host) NetworkWarnings(ctx context.Context) []string {
	// What could not be observed is in the domain's error.
	list, _ := h.network.WireGuardWarnings(ctx, h.root, h.Spec())
	return list
}
