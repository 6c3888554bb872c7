package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/servers"
	"github.com/nodeagent/nodeagent/test/vm/line"
)

// cards are the hardware addresses of the guest's network cards, eth0 and on.
var cards = []string{"52:54:00:00:00:10", "52:54:00:00:00:11", "52:54:00:00:00:12"}

// programs are those of the lab's root folder that the tests look around with,
// and modprobe, which the kernel itself calls.
var programs = []string{
	"usr/lib/systemd/systemd", "usr/bin/kmod", "usr/bin/ip", "usr/sbin/bridge", "usr/sbin/nft", "usr/bin/ping",
	"usr/bin/dash", "usr/bin/cat", "usr/bin/ls", "usr/bin/grep", "usr/bin/mkdir", "usr/bin/mount",
	"usr/bin/readlink", "usr/bin/unshare",
}

// files are those of /etc. systemd, as process 1, starts guestd and nothing else.
var files = map[string]string{
	"/etc/hosts":      "127.0.0.1 localhost\n::1 localhost\n",
	"/etc/hostname":   "vm\n",
	"/etc/machine-id": "76ad0000000000000000000000000001\n",
	"/etc/passwd":     "root:x:0:0:root:/root:/bin/sh\n",
	"/etc/group":      "root:x:0:\n",
	"/etc/systemd/system/default.target": `[Unit]
DefaultDependencies=no
Wants=guestd.service
`,
	"/etc/systemd/system/guestd.service": `[Unit]
DefaultDependencies=no
FailureAction=poweroff-immediate
SuccessAction=poweroff-immediate

[Service]
ExecStart=/usr/local/bin/guestd
StandardOutput=kmsg
TasksMax=infinity
`,
}

// packages are those whose tests run in the guest, and which of them do.
var packages = []struct{ path, tests string }{
	{"internal/kernel", "."},
	// The rest runs on any kernel, and takes minutes on an emulated processor.
	{"netcfg", "Link|VLAN|WireGuard"},
	{"test/fleets", "."},
	{"test/clock", "."}, // the last one: it leaves the clock wrong
}

// TestVM boots one guest for all its parts: a host's first minutes, in order.
func TestVM(t *testing.T) {
	Require(t)
	g := bootGuest(t)
	t.Run("modules", func(t *testing.T) { testModules(t, g) })
	if t.Run("network", func(t *testing.T) { testNetwork(t, g) }) {
		t.Run("drift", func(t *testing.T) { testDrift(t, g) })
	}
	t.Run("tests", func(t *testing.T) {
		for _, pkg := range packages {
			t.Run(filepath.Base(pkg.path), func(t *testing.T) { runTests(t, g, pkg.path, "-test.run", pkg.tests) })
		}
	})
}

// bootGuest makes the image from everything that the tests need, and programs of
// this machine, and boots it.
func bootGuest(t testing.TB, own ...string) *Guest {
	t.Helper()
	b, err := servers.New(os.Stderr)
	must(t, err)
	ctx := t.Context()
	kernel, err := b.Kernel(ctx)
	must(t, err)
	release, err := servers.KernelRelease(kernel)
	must(t, err)
	root, err := b.RootFS(ctx)
	must(t, err)
	agent, err := b.Agent(ctx)
	must(t, err)

	image := Image{}
	must(t, image.AddPrograms(root, programs...))
	// They run with the libraries of the lab's root folder where that has them.
	must(t, image.AddPrograms("/", own...))
	image.Link("/usr/sbin/modprobe", "../bin/kmod")
	must(t, image.AddFiles(root, "usr/lib/modprobe.d"))
	image.Link("/usr/bin/sh", "dash")
	image.Link("/var/run", "/run")
	must(t, image.AddModules(kernel, release))
	image.Copy("/usr/local/bin/nodeagent", agent, 0o755)
	dir := t.TempDir()
	goBuild(t, b.Root, "build", "-o", filepath.Join(dir, "guestd"), "./test/vm/guestd")
	image.Copy("/usr/local/bin/guestd", filepath.Join(dir, "guestd"), 0o755)
	for _, pkg := range packages {
		test := filepath.Join(dir, filepath.Base(pkg.path)+".test")
		goBuild(t, b.Root, "test", "-c", "-o", test, "./"+pkg.path)
		image.Copy(inGuest(pkg.path), test, 0o755)
	}
	must(t, addShippedFleets(image, b.Root))
	for _, folder := range []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/root", "/var/lib", "/etc/systemd/system"} {
		image.Folder(folder)
	}
	for name, content := range files {
		image.Write(name, []byte(content), 0o644)
	}
	initrd := filepath.Join(dir, "initrd")
	must(t, image.Save(initrd))

	start := time.Now()
	// Not the test's context: that one ends before the cleanup powers off.
	g, err := Boot(context.WithoutCancel(ctx), Config{
		Kernel: filepath.Join(kernel, "boot", "vmlinuz-"+release), Initrd: initrd,
		Memory: 1500, Cards: cards, Log: os.Stderr,
	})
	must(t, err)
	t.Logf("%s is up after %s", filepath.Base(kernel), time.Since(start).Round(100*time.Millisecond))
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the end of the guest's console:\n%s", g.machine.console.tail())
		}
	})
	return g
}

// addShippedFleets puts the fleets where the tests find them, in the folder of
// the packages.
func addShippedFleets(image Image, root string) error {
	from := filepath.Join(root, "hosts", "fleets")
	fleets, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, fleet := range fleets {
		files, err := filepath.Glob(filepath.Join(from, fleet.Name(), "*.toml"))
		if err != nil {
			return err
		}
		for _, file := range files {
			image.Copy(path.Join("/tests/hosts/fleets", fleet.Name(), filepath.Base(file)), file, 0o644)
		}
	}
	return nil
}

// goBuild runs the go command for a static executable.
func goBuild(t testing.TB, root string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append(args[:1:1], append([]string{"-trimpath", "-ldflags=-s -w"}, args[1:]...)...)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}

// inGuest is where the tests of a package lie in the guest, in a folder of
// their own that is their working directory.
func inGuest(pkg string) string { return "/tests/" + pkg + "/test" }

// event is what go tool test2json makes of a test's output.
type event struct {
	Action, Test, Output string
}

// runTests runs a package's tests in the guest and reports each as a subtest,
// with what it printed where it failed.
func runTests(t *testing.T, g *Guest, pkg string, args ...string) {
	test := inGuest(pkg)
	p, err := g.Start(line.Command{
		Args: append([]string{test, "-test.v=test2json"}, args...),
		Env:  []string{"NODEAGENT_VM=1", "CI=true"}, Dir: filepath.Dir(test),
	})
	must(t, err)
	var out bytes.Buffer
	p.Stdout, p.Stderr = &out, &out
	ended := p.Wait(t.Context(), commandStall)
	convert := exec.Command("go", "tool", "test2json")
	convert.Stdin = &out
	text, err := convert.Output()
	must(t, err)
	failed := report(t, text)
	if exit := (*ExitError)(nil); ended != nil && (!errors.As(ended, &exit) || !failed) {
		t.Errorf("run the tests of %s: %v", pkg, ended)
	}
}

// report makes subtests of the events, and tells whether one failed.
func report(t *testing.T, events []byte) (failed bool) {
	output := map[string]*strings.Builder{"": {}}
	var order []string
	action := map[string]string{}
	decoder := json.NewDecoder(bytes.NewReader(events))
	for decoder.More() {
		var e event
		must(t, decoder.Decode(&e))
		name, _, _ := strings.Cut(e.Test, "/")
		if output[name] == nil {
			output[name] = &strings.Builder{}
			order = append(order, name)
		}
		switch e.Action {
		case "output":
			output[name].WriteString(e.Output)
		case "pass", "fail", "skip":
			if name == e.Test {
				action[name] = e.Action
			}
		}
	}
	for _, name := range order {
		failed = !t.Run(name, func(t *testing.T) {
			switch action[name] {
			case "pass":
			case "skip":
				t.Skip(output[name])
			default:
				t.Errorf("%s\n%s", action[name], output[name])
			}
		}) || failed
	}
	if failed || action[""] == "fail" {
		t.Log(output[""])
	}
	return failed
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
