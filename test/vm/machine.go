// Package vm boots a virtual machine with Debian's own kernel and runs programs
// in it, for what the kernel of the machine that runs the tests may lack or
// must not be touched for: loading modules, bonds, VLANs, VRFs, WireGuard.
//
// The guest is a kernel and an initial root file system with systemd and little
// else, without a disk. A service of its own (guestd) does what the test asks
// for over a serial line (package line). Its
// network cards are joined to each other and to nothing else. Everything is
// gone when it is powered off.
package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// emulator is the program that runs the guest.
const emulator = "qemu-system-x86_64"

// How long the guest may give no sign of life. An emulated processor is 10 to
// 30 times slower than the real one, and the machine may be busy.
const (
	bootStall     = 2 * time.Minute
	commandStall  = 3 * time.Minute
	powerOffLimit = time.Minute
	// hardwareStall is for the kernel's first line where the processor runs the
	// guest itself; the line comes within a second there, or never.
	hardwareStall = 5 * time.Second
)

// Config is what a guest is made of.
type Config struct {
	Kernel string // its image
	Initrd string // an archive that Image.Save wrote
	Memory int    // MiB
	// Cards are the hardware addresses of the guest's network cards, which are
	// on one hub together, in the order of their places on the PCI bus.
	Cards []string
	Log   io.Writer
}

// Boot starts a guest and waits for its service. The guest ends with the context
// at the latest.
func Boot(ctx context.Context, c Config) (*Guest, error) {
	if usable("/dev/kvm") {
		g, err := boot(ctx, c, "kvm", "host")
		if err == nil || !errors.Is(err, errNoFirstLine) {
			return g, err
		}
		fmt.Fprintf(c.Log, "this machine's KVM does not run the guest (%v); emulating the processor\n", err)
	}
	return boot(ctx, c, "tcg,thread=multi", "max")
}

// usable tells whether a file can be opened for reading and writing.
func usable(name string) bool {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	return f.Close() == nil
}

func boot(ctx context.Context, c Config, accel, cpu string) (*Guest, error) {
	dir, err := os.MkdirTemp("", "vm")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // the socket is connected by then
	listener, err := net.Listen("unix", filepath.Join(dir, "line"))
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	m, err := start(ctx, arguments(c, accel, cpu, listener.Addr().String()))
	if err != nil {
		return nil, err
	}
	g, err := m.meet(ctx, listener, accel == "kvm")
	if err != nil {
		err = fmt.Errorf("boot a virtual machine: %w\nits console:\n%s", err, m.console.tail())
		return nil, errors.Join(err, m.end(0))
	}
	return g, nil
}

func arguments(c Config, accel, cpu, line string) []string {
	args := []string{
		"-accel", accel, "-cpu", cpu, "-smp", strconv.Itoa(min(2, runtime.NumCPU())), "-m", strconv.Itoa(c.Memory),
		"-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot",
		"-kernel", c.Kernel, "-initrd", c.Initrd,
		// no_timer_check: on a busy machine an emulated timer misses the kernel's
		// test of it, which is a panic. nodeagent.vm: by which tests that must not
		// run on a machine know the guest.
		"-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1 no_timer_check rdinit=/usr/lib/systemd/systemd net.ifnames=0 nodeagent.vm",
		"-serial", "stdio",
		"-chardev", "socket,id=line,path=" + line, "-serial", "chardev:line",
	}
	for i, mac := range c.Cards {
		card := strconv.Itoa(i)
		args = append(args, "-netdev", "hubport,hubid=0,id=hub"+card,
			"-device", fmt.Sprintf("virtio-net-pci,netdev=hub%s,mac=%s,addr=%#x", card, mac, 0x10+i))
	}
	return args
}

// machine is a running emulator.
type machine struct {
	process *os.Process
	console console
	done    chan struct{}
	err     error // of the emulator, once done
}

// start starts the emulator from a thread that lives as long as it does: the
// kernel kills it when that thread ends, so that it never outlives the test.
func start(ctx context.Context, args []string) (*machine, error) {
	m := &machine{done: make(chan struct{})}
	cmd := exec.CommandContext(ctx, emulator, args...)
	cmd.Stdout, cmd.Stderr = &m.console, &m.console
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		m.process = cmd.Process
		started <- err
		if err == nil {
			m.err = cmd.Wait()
			close(m.done)
		}
	}()
	return m, <-started
}

var errNoFirstLine = errors.New("its kernel printed nothing")

// meet waits for the guest's service, and before that, where quick is set, for the
// kernel's first line.
func (m *machine) meet(ctx context.Context, listener net.Listener, quick bool) (*Guest, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	accepted := make(chan result, 1)
	go func() {
		conn, err := listener.Accept()
		accepted <- result{conn, err}
	}()
	var r result
	select {
	case r = <-accepted:
	case <-m.done:
		return nil, m.exited()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if r.err != nil {
		return nil, r.err
	}
	if quick {
		select {
		case <-m.console.contains("Linux version"):
		case <-time.After(hardwareStall):
			return nil, fmt.Errorf("%w within %s", errNoFirstLine, hardwareStall)
		case <-m.done:
			return nil, fmt.Errorf("%w: %w", errNoFirstLine, m.exited())
		}
	}
	return connect(ctx, m, r.conn)
}

// exited says how the emulator ended, where it has.
func (m *machine) exited() error {
	select {
	case <-m.done:
		if m.err == nil {
			return fmt.Errorf("the guest powered off or died, and %s with it", emulator)
		}
		return fmt.Errorf("%s ended: %w", emulator, m.err)
	default:
		return nil
	}
}

// end waits for the emulator to end by itself, and kills it after the limit.
func (m *machine) end(limit time.Duration) error {
	if limit > 0 {
		select {
		case <-m.done:
			return m.err
		case <-time.After(limit):
		}
	}
	err := m.process.Kill()
	<-m.done
	if limit == 0 || errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return errors.Join(fmt.Errorf("the guest did not power off within %s", limit), err)
}

// console keeps what the kernel prints.
type console struct {
	mu     sync.Mutex
	text   bytes.Buffer
	wanted []byte
	found  chan struct{}
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.text.Write(p)
	c.look()
	return n, err
}

// contains returns a channel that is closed once the console has the text.
func (c *console) contains(text string) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := make(chan struct{})
	c.wanted, c.found = []byte(text), found
	c.look()
	return found
}

func (c *console) look() {
	if c.found != nil && bytes.Contains(c.text.Bytes(), c.wanted) {
		close(c.found)
		c.found = nil
	}
}

func (c *console) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Len()
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

// tail is the end of what was printed.
func (c *console) tail() string {
	const length = 4000
	text := c.String()
	return text[max(0, len(text)-length):]
}
