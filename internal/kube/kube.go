// Package kube turns a host's spec into the systemd units and configuration
// files of its Kubernetes components: etcd, containerd, kube-apiserver,
// kube-controller-manager, kube-scheduler, kubelet and kube-proxy. It is pure:
// the same spec and facts give the same bytes, and nothing is read or written.
//
// Words: a component is one program with its unit, its flags and its files; the
// restart files of a component are those files of the PKI that it reads only
// when it starts, so that a change of them calls for a restart.
//
// Every connection between components is mTLS, with the exception of health and
// metrics endpoints on loopback that carry no secret (kubelet 10248, kube-proxy
// 10249 and 10256, etcd 2381). Flags and fields are those of Kubernetes 1.36,
// etcd 3.7 and containerd 2.x; a test holds them against the real programs.
package kube

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/internal/units"
)

// Facts is what the host knows and the spec does not.
type Facts struct {
	// Digests maps the path of a PKI file to a digest of its content. Those
	// matter that a component reads only when it starts; a file that is missing
	// here counts as one that does not exist yet.
	Digests map[string]string
	// PathEnv is where components find the programs that they call (mount, nft,
	// runc …), separated by colons; the folder of the component binaries is
	// searched first. Empty means [DefaultPath].
	PathEnv string
}

// DefaultPath is searched for helper programs where Facts gives no other. The
// last folder is NixOS's; elsewhere it does not exist, which hurts nothing.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin"

// component is one program before it is written down as a unit.
type component struct {
	name         string
	description  string
	flags        flags
	files        []units.File
	hardening    hardening
	unitSettings []string        // further lines of the unit's [Unit] section
	service      []string        // further lines of the unit's [Service] section
	after        []string        // components that start earlier at boot
	needs        []string        // components that must be ready first
	programs     []units.Program // those without folders are searched for in PATH
	ready        *units.Probe
	server       *units.Server
	effect       plan.Effect
	restart      []string // restart files
}

// Render returns the units and files of the host's roles. Units are in the
// order in which they start, files are sorted by path. A host without a
// Kubernetes role gets an empty State.
func Render(spec *hosts.Spec, root layout.Root, facts Facts) units.State {
	var state units.State
	for _, c := range components(spec, root) {
		state.Files = append(state.Files, c.files...)
		state.Units = append(state.Units, c.unit(spec, facts))
	}
	if spec.Has(hosts.RoleControlPlane) {
		state.Files = append(state.Files, kubeconfig(spec, root, layout.Admin, layout.CertAdmin))
	}
	slices.SortFunc(state.Files, func(a, b units.File) int { return strings.Compare(a.Path, b.Path) })
	return state
}

// components returns those of the host's roles, in start order.
func components(spec *hosts.Spec, root layout.Root) []component {
	var all []component
	if spec.Has(hosts.RoleEtcd) {
		all = append(all, etcd(spec, root))
	}
	if spec.Has(hosts.RoleWorker) {
		all = append(all, containerd(spec, root))
	}
	if spec.Has(hosts.RoleControlPlane) {
		all = append(all, apiServer(spec, root), controllerManager(spec, root), scheduler(spec, root))
	}
	if spec.Has(hosts.RoleWorker) {
		all = append(all, kubelet(spec, root), kubeProxy(spec, root))
	}
	return all
}

// unit writes the component down.
func (c component) unit(spec *hosts.Spec, facts Facts) units.Unit {
	binary := filepath.Join(spec.Kubernetes.Binaries, c.name)
	content := c.unitText(spec, binary, pathEnv(spec, facts))
	return units.Unit{
		Name:    layout.Unit(c.name),
		Content: content,
		Enabled: true,
		Active:  true,
		Inputs:  inputs(content, c.files, c.restart, facts.Digests),
		Effect:  c.effect,
		Needs:   unitNames(c.needs),
		Binary:  binary,
		Missing: missing(spec, c.name),
		Ready:   c.ready,
		Server:  c.server,

		Programs: c.inFolders(filepath.SplitList(pathEnv(spec, facts))),
	}
}

// inFolders are the component's programs with the folders of PATH where they
// have none of their own.
func (c component) inFolders(path []string) []units.Program {
	programs := slices.Clone(c.programs)
	for i := range programs {
		if len(programs[i].Folders) == 0 {
			programs[i].Folders = path
		}
	}
	return programs
}

// missing completes the error about a component without a binary.
func missing(spec *hosts.Spec, name string) string {
	const field = "kubernetes.binaries"
	return fmt.Sprintf("searched for %s in the folder %s (%s); put %s %s there, or name its folder in %s",
		name, spec.Kubernetes.Binaries, setAt(spec, field), name, wantedVersion(spec, name), field)
}

// setAt says where a field of the spec was set.
func setAt(spec *hosts.Spec, field string) string {
	if line, ok := spec.Defined[field]; ok {
		return field + " at " + line
	}
	return "the default of " + field
}

// wantedVersion says which release of a component to install.
func wantedVersion(spec *hosts.Spec, name string) string {
	switch name {
	case layout.Etcd:
		return "3.6 or later"
	case layout.Containerd:
		return "2.x, its shim and runc"
	}
	return spec.Kubernetes.Version
}

func unitNames(components []string) []string {
	var names []string
	for _, name := range components {
		names = append(names, layout.Unit(name))
	}
	return names
}

func pathEnv(spec *hosts.Spec, facts Facts) string {
	rest := facts.PathEnv
	if rest == "" {
		rest = DefaultPath
	}
	return spec.Kubernetes.Binaries + ":" + rest
}
