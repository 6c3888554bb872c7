package kube

import (
	"encoding/json"
	"path/filepath"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/internal/units"
)

func containerd(spec *hosts.Spec, root layout.Root) component {
	confDir := cniFolder(spec, root)
	config := tomlFile(filepath.Join(root.Component(layout.Containerd), "config.toml"), 0o600, containerdConfig(spec, root, confDir))
	files := []units.File{config}
	if spec.Kubernetes.CNI == "bridge" {
		files = append(files, bridgeNetwork(spec, confDir))
	}
	return component{
		name:        layout.Containerd,
		description: "containerd container runtime",
		flags:       flags{{"config", config.Path}},
		files:       files,
		service: []string{
			"Type=notify",
			"TimeoutStartSec=3min",
			"Delegate=yes",
			// Containers and their shims go on while containerd restarts.
			"KillMode=process",
			"LimitNPROC=infinity",
			"LimitCORE=infinity",
			"TasksMax=infinity",
			"OOMScoreAdjust=-999",
		},
		programs: containerPrograms(spec),
		effect:   plan.Restart,
	}
}

// containerPrograms are what containerd runs to make pods. Where the fleet's
// settings choose other runtimes or plugin folders it knows better.
func containerPrograms(spec *hosts.Spec) []units.Program {
	plugins, _ := spec.Kubernetes.Config[layout.Containerd]["plugins"].(map[string]any)
	runtime, _ := plugins["io.containerd.cri.v1.runtime"].(map[string]any)
	var programs []units.Program
	if runtime["containerd"] == nil {
		for _, name := range []string{"containerd-shim-runc-v2", "runc"} {
			programs = append(programs, units.Program{
				Name: name, Missing: "containerd runs it for every container; put it beside containerd (" + setAt(spec, "kubernetes.binaries") + ")",
			})
		}
	}
	if runtime["cni"] == nil && spec.Kubernetes.CNI == "bridge" {
		for _, name := range []string{"bridge", "host-local", "portmap"} {
			programs = append(programs, units.Program{
				Name: name, Folders: []string{spec.Kubernetes.CNIBinaries},
				Missing: "pods get no network without this CNI plugin; put the reference plugins there, or name their folder (" + setAt(spec, "kubernetes.cni_binaries") + ")",
			})
		}
	}
	return programs
}

// cniFolder is where containerd looks for its network: a folder of nodeagent's
// own for the bridge that it writes, the usual one where the fleet brings its
// own CNI.
func cniFolder(spec *hosts.Spec, root layout.Root) string {
	if spec.Kubernetes.CNI == "bridge" {
		return filepath.Join(root.Component(layout.Containerd), "cni", "net.d")
	}
	return "/etc/cni/net.d"
}

// containerdConfig is config.toml in its version 3 (containerd 2.0 and later)
// with the fleet's settings merged over it. Cgroups are made by systemd where
// the kubelet's settings say so: the two must agree.
func containerdConfig(spec *hosts.Spec, root layout.Root, confDir string) map[string]any {
	driver, _ := kubeletConfig(spec, root)["cgroupDriver"].(string)
	config := object{
		"root":  "/var/lib/containerd",
		"state": "/run/containerd",
		"plugins": object{
			"io.containerd.cri.v1.images": object{
				"pinned_images": object{"sandbox": spec.Kubernetes.PauseImage},
				"registry":      object{"config_path": "/etc/containerd/certs.d"},
			},
			"io.containerd.cri.v1.runtime": object{
				"containerd": object{
					"default_runtime_name": "runc",
					"runtimes": object{
						"runc": object{
							"runtime_type": "io.containerd.runc.v2",
							"options":      object{"SystemdCgroup": driver == "systemd"},
						},
					},
				},
				"cni": object{
					"bin_dirs": []string{spec.Kubernetes.CNIBinaries},
					"conf_dir": confDir,
					// Loopback comes up without a plugin.
					"use_internal_loopback": true,
				},
			},
		},
	}
	return merge(merge(config, spec.Kubernetes.Config[layout.Containerd]), object{"version": 3})
}

// bridgeNetwork is the CNI network of a host: a bridge with the host's part of
// the pod range, by the reference plugins alone.
//
// The plugin does not masquerade (ipMasq): it would do so with everything that
// leaves the host, so that pods of other hosts saw a node's address in the place
// of the pod's. Whose address pods' packets leave the fleet by is the firewall
// part's to say (hosts.Firewall.Masquerade).
//
// On a host whose file said otherwise before, the rules that the plugin made for
// the pods of that time (iptables, table nat, chains CNI-...) masquerade as
// before, by the pod's address. The plugin takes them away with the pod only
// while its file says ipMasq; so drain such a host and reboot it.
func bridgeNetwork(spec *hosts.Spec, confDir string) units.File {
	everywhere := "0.0.0.0/0"
	if !spec.Kubernetes.HostPodRange.Addr().Is4() {
		everywhere = "::/0"
	}
	network := object{
		"cniVersion": "1.0.0",
		"name":       "nodeagent",
		"plugins": []any{
			object{
				"type":        "bridge",
				"bridge":      "cni0",
				"isGateway":   true,
				"ipMasq":      false,
				"hairpinMode": true,
				"mtu":         spec.Kubernetes.PodMTU,
				"ipam": object{
					"type":   "host-local",
					"ranges": []any{[]any{object{"subnet": spec.Kubernetes.HostPodRange.String()}}},
					"routes": []any{object{"dst": everywhere}},
				},
			},
			object{"type": "portmap", "capabilities": object{"portMappings": true}},
		},
	}
	path := filepath.Join(confDir, "10-nodeagent.conflist")
	content, err := json.MarshalIndent(network, "", "  ")
	if err != nil {
		panic(unwritable(path, err))
	}
	return units.File{Path: path, Mode: 0o644, Content: append(content, '\n')}
}
