package netcfg

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// machineNamespace is the environment variable in which the process that was
// started tells the one that runs the tests which network namespace is the
// machine's own: "net:[4026531840]".
const machineNamespace = "NODEAGENT_TEST_MACHINE_NETNS"

// TestMain runs the tests in a process of its own network namespace, and of its
// own user namespace when it is not root. No test can reach the machine's own
// network, not even by a goroutine that left its thread.
func TestMain(m *testing.M) {
	if os.Getenv(machineNamespace) != "" {
		os.Exit(m.Run())
	}
	os.Exit(runApart())
}

func runApart() int {
	here, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		fmt.Fprintln(os.Stderr, "find the machine's network namespace:", err)
		return 1
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), machineNamespace+"="+here)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	runtime.LockOSThread() // Pdeathsig is about the thread that started it
	err = cmd.Run()
	if cmd.ProcessState == nil {
		// The pure tests need no namespace; the kernel's say what they lack.
		fmt.Fprintln(os.Stderr, "start the tests in an own network namespace:", err)
		cmd = exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), machineNamespace+"="+here)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		err = cmd.Run()
		if cmd.ProcessState == nil {
			fmt.Fprintln(os.Stderr, "start the tests:", err)
			return 1
		}
	}
	return cmd.ProcessState.ExitCode()
}

// newNamespace gives the test a fresh network namespace with lo up, on a thread
// that ends with the test. Everything that touches the network must happen on
// the test's own goroutine.
func newNamespace(t testing.TB) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("own network namespace: %v; the kernel tests must run in CI", err)
		}
		t.Skipf("own network namespace: %v; run as root, or allow unprivileged user namespaces", err)
	}
	assertApart(t)
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
}

// assertApart ends the test if its thread is in the machine's own namespace.
func assertApart(t testing.TB) {
	t.Helper()
	machine := os.Getenv(machineNamespace)
	here, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(machine, "net:[") || here == machine {
		t.Fatalf("the test runs in %s, the machine's own namespace is %s", here, machine)
	}
}

func TestNamespaceIsNotTheMachines(t *testing.T) {
	newNamespace(t)
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	if len(links) != 1 || links[0].Attrs().Name != "lo" {
		t.Errorf("a fresh namespace has links %v, want lo alone", links)
	}
}
