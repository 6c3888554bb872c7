package kube

import (
	"fmt"
	"strings"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/units"
)

// hardening says how far a unit is shut in.
type hardening struct {
	// on is false for the components that mount for others (kubelet,
	// containerd): any setting with a mount namespace of its own would hide
	// their mounts from pods and from the host.
	on bool
	// capabilities that stay; none by default.
	capabilities []string
	// tunables leaves /proc/sys and /sys writable.
	tunables bool
}

// unitText writes the unit file. The inputs' digest is not in it: package
// units adds that.
func (c component) unitText(spec *hosts.Spec, binary, path string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }

	line("%s", units.Header)
	line("[Unit]")
	line("Description=%s", specifiers.Replace(c.description))
	line("Wants=network-online.target")
	line("After=%s", strings.Join(append([]string{"network-online.target"}, unitNames(c.after)...), " "))
	// A component that fails for an hour, because another host is down, must
	// still be started again when it can run.
	line("StartLimitIntervalSec=0")
	for _, setting := range c.unitSettings {
		line("%s", setting)
	}
	line("")
	line("[Service]")
	line("Environment=%s", quote("PATH="+path, specifiers))
	line("ExecStart=%s", c.command(spec, binary))
	line("Restart=always")
	line("RestartSec=2s")
	for _, setting := range c.service {
		line("%s", setting)
	}
	for _, setting := range c.hardening.settings(spec.Kubernetes.Binaries) {
		line("%s", setting)
	}
	line("")
	line("[Install]")
	line("WantedBy=multi-user.target")
	return b.String()
}

// command is the ExecStart value, one flag a line.
func (c component) command(spec *hosts.Spec, binary string) string {
	words := []string{quote(binary, arguments)}
	for _, arg := range c.flags.with(spec.Kubernetes.ExtraArgs[c.name]).args() {
		words = append(words, quote(arg, arguments))
	}
	return strings.Join(words, " \\\n  ")
}

// settings are the lines of systemd.exec(5) that shut the unit in. Those that
// need seccomp are passed over by systemd where the kernel has none.
func (h hardening) settings(binaries string) []string {
	if !h.on {
		return nil
	}
	lines := []string{
		"NoNewPrivileges=yes",
		"CapabilityBoundingSet=" + strings.Join(h.capabilities, " "),
		"ProtectSystem=strict",
		"PrivateDevices=yes",
		"ProtectClock=yes",
		"ProtectControlGroups=yes",
		"ProtectHostname=yes",
		"ProtectKernelLogs=yes",
		"ProtectKernelModules=yes",
		"RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
		"RestrictNamespaces=yes",
		"RestrictRealtime=yes",
		"RestrictSUIDSGID=yes",
		"LockPersonality=yes",
		"MemoryDenyWriteExecute=yes",
		"SystemCallArchitectures=native",
		"SystemCallFilter=@system-service",
		"UMask=0077",
	}
	if !h.tunables {
		lines = append(lines, "ProtectKernelTunables=yes")
	}
	// These two would hide a program that lies in the folders they cover.
	if !below(binaries, "/home", "/root", "/run/user") {
		lines = append(lines, "ProtectHome=yes")
	}
	if !below(binaries, "/tmp", "/var/tmp") {
		lines = append(lines, "PrivateTmp=yes")
	}
	return lines
}

func below(path string, folders ...string) bool {
	for _, folder := range folders {
		if path == folder || strings.HasPrefix(path, folder+"/") {
			return true
		}
	}
	return false
}

// stateDirectory gives a shut-in unit a folder to write to; systemd makes it
// before the unit starts. Under a root that is not "/" the folder is named as
// it is, and whoever made the root makes it.
func stateDirectory(root layout.Root, dir string) []string {
	return ownDirectory(root, "StateDirectory", "/var/lib/", dir)
}

// runtimeDirectory gives it one that systemd removes when the unit has ended.
func runtimeDirectory(root layout.Root, dir string) []string {
	return ownDirectory(root, "RuntimeDirectory", "/run/", dir)
}

func ownDirectory(root layout.Root, setting, parent, dir string) []string {
	if name, ok := strings.CutPrefix(dir, parent); ok && root == "" {
		return []string{setting + "=" + name, setting + "Mode=0700"}
	}
	return []string{"ReadWritePaths=-" + dir}
}
