package servers

import "strings"

// A program is one executable of a server: the package it is built from and
// the names it is installed under. The first name is the file, the others are
// symbolic links to it.
type program struct {
	pkg   string
	names []string
}

// A server is one nested module and the programs built from it.
type server struct {
	name     string                                 // of its folder here and in the cache
	modfile  string                                 // in that folder, if it is not go.mod
	module   string                                 // whose version in the mod file is the server's version
	variable func(version string) map[string]string // package variables set by the linker
	tags     string                                 // build tags, comma separated
	compiler string                                 // flags of the compiler
	programs []program
	expect   string // how long a build from empty caches takes, for the user
}

// quick leaves out of a build what takes time and the lab can do without:
// debug information, which the linker would drop anyway, and inlining, which
// makes the servers a little slower. It saves a third of all compiling.
const quick = "all=-dwarf=false -l"

// asReleased is the server compiled as those who release it do, who inline: for
// what nodeagent is measured beside.
func asReleased(s server) *server {
	s.compiler = "all=-dwarf=false"
	return &s
}

var all = []server{
	{
		name:     "kubernetes",
		module:   "k8s.io/kubernetes",
		variable: kubernetesVersion,
		programs: []program{{pkg: ".", names: []string{
			"kube", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl",
		}}},
		compiler: quick,
		expect:   "about 7 minutes on 2 cores",
	},
	etcd,
	{
		name:   "containerd",
		module: "github.com/containerd/containerd/v2",
		variable: func(version string) map[string]string {
			return map[string]string{"github.com/containerd/containerd/v2/version.Version": version}
		},
		// Snapshotters that no lab host has the kernel or the tools for.
		tags: "no_btrfs,no_devmapper,no_zfs",
		programs: []program{
			{pkg: "github.com/containerd/containerd/v2/cmd/containerd", names: []string{"containerd"}},
			{pkg: "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2", names: []string{"containerd-shim-runc-v2"}},
			{pkg: "github.com/containerd/containerd/v2/cmd/ctr", names: []string{"ctr"}},
		},
		compiler: quick,
		expect:   "about 1 minute on 2 cores",
	},
}

// etcd is today's, with the tools that its users save and restore with.
var etcd = server{
	name:   "etcd",
	module: "go.etcd.io/etcd/server/v3",
	programs: []program{
		{pkg: "go.etcd.io/etcd/server/v3", names: []string{"etcd"}},
		{pkg: "go.etcd.io/etcd/etcdctl/v3", names: []string{"etcdctl"}},
		{pkg: "go.etcd.io/etcd/etcdutl/v3", names: []string{"etcdutl"}},
	},
	compiler: quick,
	expect:   "about 1 minute on 2 cores",
}

// etcds are older releases of etcd, whose data nodeagent restores: the servers
// alone, and no programs of lab hosts. etcd 3.4 came as a module under its old path
// and without a version; this is the commit of 3.4.15.
var etcds = []server{
	etcdServer("v3.4.mod", "go.etcd.io/etcd"),
	etcdServer("v3.5.mod", "go.etcd.io/etcd/server/v3"),
	etcdServer("v3.6.mod", "go.etcd.io/etcd/server/v3"),
}

func etcdServer(modfile, pkg string) server {
	return server{
		name: "etcd", modfile: modfile, module: pkg, compiler: quick,
		programs: []program{{pkg: pkg, names: []string{"etcd"}}},
		expect:   "about 1 minute on 2 cores",
	}
}

// vaults are the Vault servers, the oldest first: one source, and a mod file
// for each version. They are no programs of lab hosts.
var vaults = []server{
	// The newest release that builds as a module and is free software (Mozilla
	// Public License 2.0).
	vaultServer("go.mod", "vault1.13", "about 5 minutes on 2 cores"),
	// A current release. It is under the Business Source License 1.1, so it is
	// for testing alone; nothing of it is part of nodeagent.
	vaultServer("v1.21.mod", "", "about 6 minutes on 2 cores"),
}

// vaultAgent is the whole vault command, which has the agent that hosts move from.
// It shares two thirds of its packages with the newest Vault server.
var vaultAgent = server{
	name:     "vaultagent",
	module:   "github.com/hashicorp/vault",
	programs: []program{{pkg: "github.com/hashicorp/vault", names: []string{"vault"}}},
	compiler: quick,
	expect:   "about 6 minutes on 2 cores",
}

// versitygw is an S3 server over a folder. It is no program of lab hosts. Its
// speed is part of no measurement.
var versitygw = server{
	name:     "versitygw",
	module:   "github.com/versity/versitygw",
	programs: []program{{pkg: "github.com/versity/versitygw/cmd/versitygw", names: []string{"versitygw"}}},
	compiler: quick,
	expect:   "about 3 minutes on 2 cores",
}

func vaultServer(modfile, tags, expect string) server {
	return server{
		name:     "vault",
		modfile:  modfile,
		module:   "github.com/hashicorp/vault",
		tags:     tags,
		programs: []program{{pkg: ".", names: []string{"vaultserver"}}},
		compiler: quick,
		expect:   expect,
	}
}

// kubernetesVersion sets the version in the two places where Kubernetes keeps
// it: component-base prints it, client-go sends it as the user agent. Without
// them every component says v0.0.0-master, and its node shows that too.
func kubernetesVersion(version string) map[string]string {
	number := strings.Split(strings.TrimPrefix(version, "v"), ".")
	variables := map[string]string{}
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		variables[pkg+".gitVersion"] = version
		variables[pkg+".gitMajor"] = number[0]
		variables[pkg+".gitMinor"] = number[1]
		variables[pkg+".gitTreeState"] = "clean"
	}
	return variables
}
