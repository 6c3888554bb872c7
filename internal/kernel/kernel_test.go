package kernel

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// files makes a kernel of plain files below a temporary folder. What is about
// files (keeping, putting back, what a crash leaves) behaves there as it does
// on procfs; what is the kernel's is tested on the kernel.
func files(t *testing.T, content map[string]string) *System {
	t.Helper()
	root := t.TempDir()
	for path, text := range content {
		writeFile(t, filepath.Join(root, path), text)
	}
	return &System{Root: layout.Root(root), Proc: filepath.Join(root, "proc"), Sys: filepath.Join(root, "sys"), Release: "6.1.0-test"}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func changes(t *testing.T, sys *System, k hosts.Kernel) []plan.Change {
	t.Helper()
	originals, err := LoadOriginals(sys.Root)
	if err != nil {
		t.Fatal(err)
	}
	want, err := Want(&hosts.Spec{Kernel: k}, originals)
	if err != nil {
		t.Fatal(err)
	}
	have, err := Observe(t.Context(), sys, want)
	if err != nil {
		t.Fatal(err)
	}
	return Diff(have, want)
}

func converge(t *testing.T, sys *System, k hosts.Kernel) {
	t.Helper()
	if err := Apply(t.Context(), sys, changes(t, sys, k), plan.Silent{}); err != nil {
		t.Fatal(err)
	}
	if left := changes(t, sys, k); len(left) > 0 {
		t.Fatalf("changes left after converging: %v", left)
	}
}

func read(t *testing.T, sys *System, name string) string {
	t.Helper()
	value, exists, err := sys.readSysctl(name)
	if err != nil || !exists {
		t.Fatalf("read %s: exists %v, %v", name, exists, err)
	}
	return value
}

func TestOriginalsAreKeptAndPutBack(t *testing.T) {
	sys := files(t, map[string]string{
		"proc/sys/net/ipv4/ip_forward":              "0\n",
		"proc/sys/net/ipv4/conf/eth0.100/rp_filter": "1\n",
		"proc/sys/net/ipv4/ip_local_port_range":     "32768\t60999\n",
		"proc/sys/net/ipv4/ip_local_reserved_ports": "\n",
		"proc/sys/net/ipv4/not_ours":                "7\n",
		"proc/sys/vm/overcommit_memory":             "1\n",
	})
	first := hosts.Kernel{Sysctls: map[string]string{
		"net.ipv4.ip_forward":              "1",
		"net.ipv4.conf.eth0/100.rp_filter": "2",
		"net.ipv4.ip_local_port_range":     "10000 60999",
		"net.ipv4.ip_local_reserved_ports": "30000-32767",
		"vm.overcommit_memory":             "1",
	}}
	converge(t, sys, first)
	originals, err := LoadOriginals(sys.Root)
	if err != nil {
		t.Fatal(err)
	}
	want := Originals{
		"net.ipv4.ip_forward": "0", "net.ipv4.conf.eth0/100.rp_filter": "1",
		"net.ipv4.ip_local_port_range": "32768\t60999", "net.ipv4.ip_local_reserved_ports": "",
	}
	if diff := cmp.Diff(want, originals); diff != "" {
		t.Fatal(diff)
	}
	// Another value of ours, and drift: neither becomes the original.
	first.Sysctls["net.ipv4.conf.eth0/100.rp_filter"] = "0"
	converge(t, sys, first)
	writeFile(t, filepath.Join(sys.Proc, "sys/net/ipv4/ip_forward"), "5\n")
	converge(t, sys, first)
	if originals, err = LoadOriginals(sys.Root); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, originals); diff != "" {
		t.Fatal(diff)
	}
	// The spec drops all: the originals are back, and forgotten.
	converge(t, sys, hosts.Kernel{})
	for name, value := range want {
		if got := read(t, sys, name); got != value {
			t.Errorf("%s = %q, want its original %q", name, got, value)
		}
	}
	if originals, err = LoadOriginals(sys.Root); err != nil || len(originals) > 0 {
		t.Errorf("originals left: %v, %v", originals, err)
	}
	if got := read(t, sys, "net.ipv4.not_ours"); got != "7" {
		t.Errorf("a foreign sysctl became %q", got)
	}
	// What somebody sets from now on is theirs.
	writeFile(t, filepath.Join(sys.Proc, "sys/net/ipv4/ip_forward"), "1\n")
	if left := changes(t, sys, hosts.Kernel{}); len(left) > 0 {
		t.Errorf("changes to what is not ours: %v", left)
	}
}

// Every prefix of the writes that an apply makes is a place to die at. The
// steps are what Apply does; after each the next run must converge and, when
// everything is dropped, the very first values must come back.
func TestDyingBetweenSteps(t *testing.T) {
	start := map[string]string{"proc/sys/a/one": "1\n", "proc/sys/a/two": "2\n"}
	k := hosts.Kernel{Sysctls: map[string]string{"a.one": "10", "a.two": "20"}}
	steps := []struct {
		name string
		do   func(t *testing.T, sys *System, a *applier)
	}{
		{"originals kept", func(t *testing.T, _ *System, a *applier) { must(t, a.keepOriginals()) }},
		{"first set", func(t *testing.T, sys *System, _ *applier) { must(t, sys.setSysctl("a.one", "10")) }},
		{"second set", func(t *testing.T, sys *System, _ *applier) { must(t, sys.setSysctl("a.two", "20")) }},
	}
	for died := range len(steps) + 1 {
		t.Run(fmt.Sprint(died), func(t *testing.T) {
			sys := files(t, start)
			a := &applier{sys: sys, changes: changes(t, sys, k)}
			for _, step := range steps[:died] {
				step.do(t, sys, a)
			}
			converge(t, sys, k)
			// Dying after an original is put back and before it is forgotten.
			must(t, sys.setSysctl("a.one", "1"))
			converge(t, sys, hosts.Kernel{})
			if one, two := read(t, sys, "a.one"), read(t, sys, "a.two"); one != "1" || two != "2" {
				t.Errorf("after dropping: %q and %q, want 1 and 2", one, two)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Law: after any sequence of specs and outside edits a converge is complete, a
// second one is empty, planning changes no file, and what no spec ever named
// keeps its value.
func TestConvergeLaw(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	names := []string{"a.one", "a.two", "b.c/d.e", "b.c.f", "net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding"}
	values := []string{"0", "1", "2\t3", "2 3", "x"}
	for range 20 {
		content := map[string]string{"proc/sys/other/key": "left alone\n"}
		first := map[string]string{}
		for _, name := range names {
			parts, err := sysctlParts(name)
			must(t, err)
			value := values[random.IntN(len(values))]
			first[name] = value
			content[filepath.Join(append([]string{"proc/sys"}, parts...)...)] = value + "\n"
		}
		sys := files(t, content)
		for range 6 {
			k := hosts.Kernel{Sysctls: map[string]string{}}
			for _, name := range names {
				if random.IntN(2) == 0 {
					k.Sysctls[name] = values[random.IntN(len(values))]
				}
			}
			before := snapshot(t, string(sys.Root))
			planned := changes(t, sys, k)
			if diff := cmp.Diff(before, snapshot(t, string(sys.Root))); diff != "" {
				t.Fatalf("planning wrote: %s", diff)
			}
			if diff := cmp.Diff(planned, changes(t, sys, k), cmp.AllowUnexported(setSysctl{}, revertSysctl{})); diff != "" {
				t.Fatalf("two plans differ: %s", diff)
			}
			converge(t, sys, k)
		}
		converge(t, sys, hosts.Kernel{})
		for name, value := range first {
			if got := read(t, sys, name); !sameValue(got, value) {
				t.Errorf("%s = %q after all was dropped, at first it was %q", name, got, value)
			}
		}
		if got := read(t, sys, "other.key"); got != "left alone" {
			t.Errorf("a foreign sysctl became %q", got)
		}
	}
}

func snapshot(t *testing.T, root string) map[string]string {
	t.Helper()
	content := map[string]string{}
	must(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		content[path] = string(text)
		return err
	}))
	return content
}

func TestMissingSysctlNamesTheModule(t *testing.T) {
	for name, hint := range map[string]string{
		"net.bridge.bridge-nf-call-iptables": "br_netfilter",
		"net.netfilter.nf_conntrack_max":     "nf_conntrack",
		"net.ipv4.conf.eth9/5.rp_filter":     "the link eth9.5",
		"kernel.no_such_key":                 "check the spelling",
	} {
		sys := files(t, map[string]string{"proc/sys/kernel/x": "1\n"})
		k := hosts.Kernel{Sysctls: map[string]string{name: "1"}}
		planned := changes(t, sys, k)
		if len(planned) != 1 || planned[0].Before != "" || planned[0].Action != plan.ActionUpdate {
			t.Fatalf("%s: plan %v", name, planned)
		}
		err := Apply(t.Context(), sys, planned, plan.Silent{})
		if err == nil || !strings.Contains(err.Error(), hint) || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v, want one that names %s and %s", err, name, hint)
		}
		if originals, err := LoadOriginals(sys.Root); err != nil || len(originals) > 0 {
			t.Errorf("originals of a missing key: %v, %v", originals, err)
		}
	}
}

func TestBadOriginalsFileStopsSysctlChanges(t *testing.T) {
	for _, content := range []string{"{", `{"version":2,"sysctls":{}}`, "<html>"} {
		sys := files(t, map[string]string{"proc/sys/a/one": "1\n"})
		want, err := Want(&hosts.Spec{Kernel: hosts.Kernel{Sysctls: map[string]string{"a.one": "2"}}}, nil)
		must(t, err)
		have, err := Observe(t.Context(), sys, want)
		must(t, err)
		writeFile(t, OriginalsPath(sys.Root), content)
		if err := Apply(t.Context(), sys, Diff(have, want), plan.Silent{}); err == nil {
			t.Errorf("applied over the file %q", content)
		}
		if got := read(t, sys, "a.one"); got != "1" {
			t.Errorf("the sysctl became %q with its original unkept", got)
		}
		if got, err := os.ReadFile(OriginalsPath(sys.Root)); err != nil || string(got) != content {
			t.Errorf("the file became %q, %v", got, err)
		}
	}
}

func TestOneFailureDoesNotStopTheRest(t *testing.T) {
	sys := files(t, map[string]string{"proc/sys/a/one": "1\n", "proc/sys/a/dir/x": "1\n", "proc/sys/a/three": "3\n"})
	want, err := Want(&hosts.Spec{Kernel: hosts.Kernel{Sysctls: map[string]string{"a.one": "2", "a.dir": "1", "a.three": "4"}}}, nil)
	must(t, err)
	have, err := Observe(t.Context(), sys, want)
	if err == nil || !strings.Contains(err.Error(), "a.dir") {
		t.Errorf("observe error %v, want one that names a.dir", err)
	}
	must(t, Apply(t.Context(), sys, Diff(have, want), plan.Silent{}))
	if one, three := read(t, sys, "a.one"), read(t, sys, "a.three"); one != "2" || three != "4" {
		t.Errorf("got %q and %q", one, three)
	}
}

func TestWantRefuses(t *testing.T) {
	for name, k := range map[string]hosts.Kernel{
		"two spellings":      {Sysctls: map[string]string{"a.b": "1", "a/b": "2"}},
		"outside":            {Sysctls: map[string]string{"../x": "1"}},
		"two lines":          {Sysctls: map[string]string{"a.b": "1\n2"}},
		"module path":        {Modules: []hosts.Module{{Name: "../evil"}}},
		"module twice":       {Modules: []hosts.Module{{Name: "a-b", Parameters: map[string]string{"x": "1"}}, {Name: "a_b", Parameters: map[string]string{"x": "2"}}}},
		"parameter with = ":  {Modules: []hosts.Module{{Name: "a", Parameters: map[string]string{"x=1 y": "1"}}}},
		"parameter with \" ": {Modules: []hosts.Module{{Name: "a", Parameters: map[string]string{"x": `"`}}}},
	} {
		if _, err := Want(&hosts.Spec{Kernel: k}, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestModuleRecognition(t *testing.T) {
	sys := files(t, map[string]string{
		"sys/module/loaded_one/initstate":        "live\n",
		"sys/module/coming_one/initstate":        "coming\n",
		"sys/module/builtin_one/parameters/x":    "Y\n",
		"lib/modules/6.1.0-test/modules.builtin": "kernel/fs/overlayfs/overlay.ko\nkernel/net/nf-thing.ko\n",
		"lib/modules/6.1.0-test/modules.dep":     "kernel/a/real.ko:\n",
		"lib/modules/6.1.0-test/modules.alias":   "alias some-name loaded_one\nalias other-name real\n",
		"boot/config-6.1.0-test":                 "CONFIG_BRIDGE_NETFILTER=y\nCONFIG_VXLAN=m\n",
		"boot/config-6.1.0-other":                "CONFIG_VXLAN=y\n",
	})
	want := map[string]Presence{
		"loaded-one": Loaded, "coming_one": Absent, "builtin_one": BuiltIn, "overlay": BuiltIn, "nf_thing": BuiltIn,
		"br_netfilter": BuiltIn, "vxlan": Absent, "nothing": Absent, "some_name": Loaded, "other_name": Absent,
	}
	var k hosts.Kernel
	for _, name := range slices.Sorted(maps.Keys(want)) {
		k.Modules = append(k.Modules, hosts.Module{Name: name})
	}
	wanted, err := Want(&hosts.Spec{Kernel: k}, nil)
	must(t, err)
	have, err := Observe(t.Context(), sys, wanted)
	must(t, err)
	for _, m := range have.Modules {
		presence, ok := want[m.Name]
		if !ok {
			presence = want[strings.ReplaceAll(m.Name, "_", "-")]
		}
		if m.Presence != presence {
			t.Errorf("%s: presence %v, want %v", m.Name, m.Presence, presence)
		}
	}
	var keys []string
	for _, c := range Diff(have, wanted) {
		keys = append(keys, string(c.Action)+" "+c.Key)
	}
	if diff := cmp.Diff([]string{"load module coming_one", "load module nothing", "load module other_name", "load module vxlan"}, keys); diff != "" {
		t.Error(diff)
	}
}

func TestParameters(t *testing.T) {
	sys := files(t, map[string]string{
		"sys/module/m/initstate":           "live\n",
		"sys/module/m/parameters/writable": "1\n",
		"sys/module/m/parameters/fixed":    "N\n",
		"sys/module/m/parameters/same":     "Y\n",
		"sys/module/b/parameters/fixed":    "4\n",
	})
	for _, path := range []string{"m/parameters/fixed", "b/parameters/fixed"} {
		must(t, os.Chmod(filepath.Join(sys.Sys, "module", path), 0o444))
	}
	k := hosts.Kernel{Modules: []hosts.Module{
		{Name: "m", Parameters: map[string]string{"writable": "2", "fixed": "1", "same": "1", "typo": "1"}},
		{Name: "b", Parameters: map[string]string{"fixed": "8"}},
	}}
	planned := changes(t, sys, k)
	err := Apply(context.Background(), sys, planned, plan.Silent{})
	if err == nil {
		t.Fatal("parameters that cannot be changed were reported as changed")
	}
	for _, part := range []string{"module m parameter fixed", "a reload of the module or a reboot", `no parameter "typo"`, "b.fixed=8 on the kernel's command line"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %v does not say %q", err, part)
		}
	}
	var keys []string
	for _, c := range changes(t, sys, k) {
		keys = append(keys, c.Key)
	}
	if diff := cmp.Diff([]string{"module b parameter fixed", "module m parameter fixed", "module m parameter typo"}, keys); diff != "" {
		t.Error(diff)
	}
}

func TestOrderOfSysctls(t *testing.T) {
	want, err := Want(&hosts.Spec{Kernel: hosts.Kernel{
		Modules: []hosts.Module{{Name: "br_netfilter"}},
		Sysctls: map[string]string{
			"net.ipv4.conf.a.forwarding": "0", "net.ipv4.conf.all.accept_redirects": "0", "net.ipv4.ip_forward": "1",
			"kernel.panic": "10", "net.ipv4.conf.default.rp_filter": "1",
		},
	}}, Originals{"net.ipv4.conf.all.rp_filter": "0"})
	must(t, err)
	var keys []string
	for _, c := range Diff(State{}, want) {
		keys = append(keys, string(c.Action)+" "+c.Key)
	}
	if diff := cmp.Diff([]string{
		"load module br_netfilter",
		"update sysctl net.ipv4.ip_forward",
		"update sysctl net.ipv4.conf.all.accept_redirects",
		"revert sysctl net.ipv4.conf.all.rp_filter",
		"update sysctl net.ipv4.conf.default.rp_filter",
		"update sysctl kernel.panic",
		"update sysctl net.ipv4.conf.a.forwarding",
	}, keys); diff != "" {
		t.Error(diff)
	}
}
