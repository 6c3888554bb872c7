package kernel

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// ownMachine returns the running kernel for tests that load modules into it,
// which a virtual machine made for the tests puts up with.
func ownMachine(t *testing.T) *System {
	t.Helper()
	if os.Getenv("NODEAGENT_VM") != "1" {
		t.Skip("loads modules into the running kernel; runs in the VM stage (make test-vm)")
	}
	// The modules are the machine's, what nodeagent keeps is the test's.
	sys, err := Open(layout.Root(t.TempDir()))
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(string(sys.Root), "lib/modules"), 0o755))
	must(t, os.Symlink(filepath.Join("/lib/modules", sys.Release), filepath.Join(string(sys.Root), "lib/modules", sys.Release)))
	return sys
}

// again returns the same kernel, seen anew as by the next run of nodeagent.
func (s *System) again() *System {
	return &System{Root: s.Root, Proc: s.Proc, Sys: s.Sys, Release: s.Release}
}

// loaded returns the modules of /proc/modules, the newest first.
func loaded(t *testing.T) []string {
	t.Helper()
	content, err := os.ReadFile("/proc/modules")
	must(t, err)
	var modules []string
	for line := range strings.Lines(string(content)) {
		name, _, _ := strings.Cut(line, " ")
		modules = append(modules, name)
	}
	return modules
}

// unload takes modules out of the kernel, in this order.
func unload(t *testing.T, modules ...string) {
	t.Helper()
	for _, module := range modules {
		if err := unix.DeleteModule(module, unix.O_NONBLOCK); err != nil && !errors.Is(err, unix.ENOENT) {
			t.Fatalf("unload %s: %v", module, err)
		}
	}
}

func TestLoadWithWhatItNeeds(t *testing.T) {
	sys := ownMachine(t)
	unload(t, "ip_vs_rr", "ip_vs", "ipip", "sit", "tunnel4")
	k := hosts.Kernel{Modules: []hosts.Module{
		{Name: "ip-vs-rr"}, // the name as modprobe takes it, too
		{Name: "ipip"},
		{Name: "ifb", Parameters: map[string]string{"numifbs": "3"}},
	}, Sysctls: map[string]string{"net.ipv4.vs.drop_entry": "1"}} // which a module brings
	converge(t, sys, k)
	there := loaded(t)
	for _, pair := range [][2]string{{"ip_vs_rr", "ip_vs"}, {"ip_vs", "nf_conntrack"}, {"ipip", "tunnel4"}, {"ipip", "ip_tunnel"}} {
		module, needed := slices.Index(there, pair[0]), slices.Index(there, pair[1])
		if module < 0 || needed < module {
			t.Errorf("%s is not there, or not after %s; newest first: %s", pair[0], pair[1], there)
		}
	}
	for _, link := range []string{"ifb0", "ifb1", "ifb2"} {
		if _, err := os.Stat("/sys/class/net/" + link); err != nil {
			t.Errorf("numifbs=3: %v", err)
		}
	}
	if _, err := os.Stat("/sys/class/net/ifb3"); err == nil {
		t.Error("numifbs=3 made ifb3")
	}
	t.Run("unloaded by hand", func(t *testing.T) {
		unload(t, "ipip", "tunnel4")
		sys := sys.again()
		if got := changes(t, sys, k); len(got) != 1 || got[0].Key != "module ipip" {
			t.Fatalf("changes %v, want ipip's alone", got)
		}
		converge(t, sys, k)
	})
}

// xt_LOG works with the logger that it names only as a soft dependency.
func TestLoadSoftNeeds(t *testing.T) {
	sys := ownMachine(t)
	unload(t, "xt_LOG", "nf_log_syslog")
	converge(t, sys, hosts.Kernel{Modules: []hosts.Module{{Name: "xt_LOG"}, {Name: "act_mpls"}}})
	there := loaded(t)
	for _, module := range []string{"xt_LOG", "nf_log_syslog", "act_mpls", "mpls_gso"} {
		if !slices.Contains(there, module) {
			t.Errorf("%s is not loaded, there are %s", module, there)
		}
	}
}

func TestLoadByAlias(t *testing.T) {
	sys := ownMachine(t)
	unload(t, "geneve")
	converge(t, sys, hosts.Kernel{Modules: []hosts.Module{{Name: "rtnl-link-geneve"}}})
	if there := loaded(t); !slices.Contains(there, "geneve") {
		t.Errorf("geneve is not loaded, there are %s", there)
	}
}

func TestParametersOfLoadedModules(t *testing.T) {
	sys := ownMachine(t)
	k := hosts.Kernel{Modules: []hosts.Module{
		{Name: "nf_conntrack", Parameters: map[string]string{"hashsize": "8192"}}, // writable
		{Name: "nbd", Parameters: map[string]string{"nbds_max": "2"}},             // not
	}}
	converge(t, sys, k)
	k.Modules[0].Parameters["hashsize"] = "16384"
	converge(t, sys.again(), k)
	if size, err := os.ReadFile("/sys/module/nf_conntrack/parameters/hashsize"); err != nil || strings.TrimSpace(string(size)) != "16384" {
		t.Errorf("hashsize is %q, %v", size, err)
	}
	k.Modules[1].Parameters["nbds_max"] = "4"
	err := Apply(t.Context(), sys.again(), changes(t, sys.again(), k), plan.Silent{})
	if err == nil || !strings.Contains(err.Error(), "nbds_max") || !strings.Contains(err.Error(), keepsParameters) {
		t.Errorf("error %v, want one that says that the loaded module keeps nbds_max", err)
	}
}

func TestUnknownParameterLoadsNothing(t *testing.T) {
	sys := ownMachine(t)
	unload(t, "sit")
	k := hosts.Kernel{Modules: []hosts.Module{{Name: "sit", Parameters: map[string]string{"no_such": "1"}}}}
	err := Apply(t.Context(), sys, changes(t, sys, k), plan.Silent{})
	if err == nil || !strings.Contains(err.Error(), `"no_such"`) {
		t.Errorf("error %v, want one that names the parameter", err)
	}
	if slices.Contains(loaded(t), "sit") {
		t.Error("the module is loaded without the parameter")
	}
}

// What Debian's kernel has built in must not be looked for in a file.
func TestBuiltIntoDebiansKernel(t *testing.T) {
	sys := ownMachine(t)
	for _, module := range []string{"ext4", "unix", "tcp_cubic"} {
		if sys.presence(module) != BuiltIn {
			t.Errorf("%s is not seen to be built in", module)
		}
	}
	if got := changes(t, sys, hosts.Kernel{Modules: []hosts.Module{{Name: "ext4"}}}); len(got) != 0 {
		t.Errorf("changes %v for a module that is built in", got)
	}
}

// Debian 13, Fedora, Arch and others ship their modules compressed.
func TestCompressedModules(t *testing.T) {
	sys := ownMachine(t)
	for _, test := range []struct {
		extension, module string
		unload            []string
		compress          func(io.Writer) (io.WriteCloser, error)
	}{
		{".gz", "ipip", []string{"ipip", "sit", "tunnel4"}, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }},
		{".xz", "sit", []string{"ipip", "sit", "tunnel4"}, func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }},
		{".zst", "ip_gre", []string{"ip_gre", "gre"}, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }},
	} {
		t.Run(test.extension, func(t *testing.T) {
			unload(t, test.unload...)
			real, err := sys.again().modules()
			must(t, err)
			root := t.TempDir()
			dir := filepath.Join(root, "lib/modules", sys.Release)
			order, _ := real.loadOrder(test.module)
			if len(order) < 2 {
				t.Fatalf("%s needs nothing: %s", test.module, order)
			}
			for _, path := range order {
				image, err := os.ReadFile(filepath.Join(real.dir, path))
				must(t, err)
				var packed bytes.Buffer
				w, err := test.compress(&packed)
				must(t, err)
				_, err = w.Write(image)
				must(t, errors.Join(err, w.Close()))
				writeFile(t, filepath.Join(dir, path+test.extension), packed.String())
			}
			var dep strings.Builder
			for _, name := range slices.Sorted(maps.Keys(real.files)) {
				file := real.files[name]
				dep.WriteString(file.path + test.extension + ":")
				for _, need := range file.needs {
					dep.WriteString(" " + need + test.extension)
				}
				dep.WriteString("\n")
			}
			writeFile(t, filepath.Join(dir, "modules.dep"), dep.String())
			packed := &System{Root: layout.Root(root), Proc: sys.Proc, Sys: sys.Sys, Release: sys.Release}
			converge(t, packed, hosts.Kernel{Modules: []hosts.Module{{Name: test.module}}})
			if there := loaded(t); !slices.Contains(there, test.module) {
				t.Errorf("%s is not loaded, there are %s", test.module, there)
			}
		})
	}
}
