package confirm

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ticks is USER_HZ, the unit of /proc/<pid>/stat, which is 100 on every
// architecture that Go runs on.
const ticks = 100

// Now is the present moment.
func Now() (Moment, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Moment{}, fmt.Errorf("read the boot's id: %w", err)
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return Moment{}, fmt.Errorf("read the time since boot: %w", err)
	}
	return Moment{Boot: strings.TrimSpace(string(id)), Up: time.Duration(ts.Nano())}, nil
}

// Here is the session that this process belongs to.
func Here() (Session, error) {
	var ancestors []Process
	for pid := os.Getppid(); pid > 1; {
		p, parent, err := process(pid)
		if err != nil {
			return Session{}, fmt.Errorf("find out which connection this is: %w", err)
		}
		ancestors = append(ancestors, p)
		pid = parent
	}
	return SessionOf(ancestors, os.Getenv("SSH_CONNECTION") != "" || os.Getenv("SSH_CLIENT") != ""), nil
}

// Parent is the process that a process came from, 0 for the first.
func Parent(pid int) (int, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, parent, err := parseStat(string(stat))
	return parent, err
}

func process(pid int) (Process, int, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, 0, err
	}
	p, parent, err := parseStat(string(stat))
	if err == nil && servers[p.Name] {
		err = p.readSockets(pid)
	}
	return p, parent, err
}

// parseStat reads proc_pid_stat(5): the name in parentheses may hold anything;
// the parent is field 4, the start time field 22.
func parseStat(stat string) (Process, int, error) {
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return Process{}, 0, fmt.Errorf("parse %q: no name", stat)
	}
	fields := strings.Fields(stat[end+1:])
	if len(fields) < 20 {
		return Process{}, 0, fmt.Errorf("parse %q: too few fields", stat)
	}
	parent, err := strconv.Atoi(fields[1])
	started, startErr := strconv.ParseInt(fields[19], 10, 64)
	return Process{Name: stat[open+1 : end], Started: time.Duration(started) * time.Second / ticks}, parent, errors.Join(err, startErr)
}

// readSockets looks at a process's TCP sockets: does it wait for connections,
// and does one come from this very host?
func (p *Process) readSockets(pid int) error {
	own, err := ownAddresses()
	if err != nil {
		return err
	}
	sockets := map[string]socket{}
	for _, table := range []string{"tcp", "tcp6"} {
		if err := readSockets(fmt.Sprintf("/proc/%d/net/%s", pid, table), sockets); err != nil {
			return err
		}
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		target, _ := os.Readlink(filepath.Join(dir, e.Name())) // closed meanwhile
		s, ok := sockets[target]
		p.Listens = p.Listens || ok && s.listens
		// What else the server connects to, such as a forwarded port, comes from
		// the host itself too; the port that it serves tells the two apart.
		p.OwnHost = p.OwnHost || ok && !s.listens && s.served && (own[s.remote] || s.remote.IsLoopback())
	}
	return err
}

// ownAddresses are all addresses of the host's links.
func ownAddresses() (map[netip.Addr]bool, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	own := map[netip.Addr]bool{}
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if address, ok := netip.AddrFromSlice(n.IP); ok {
				own[address.Unmap()] = true
			}
		}
	}
	return own, nil
}

// socket is one TCP socket: it listens, or is connected to remote.
type socket struct {
	listens bool
	// served tells that another socket listens on its own port: it was accepted.
	served bool
	remote netip.Addr
}

// readSockets reads proc_net_tcp: fields 2 and 3 are the ends, 4 the state,
// 10 the inode.
func readSockets(path string, into map[string]socket) error {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel without IPv6
	}
	if err != nil {
		return err
	}
	const listening, established = "0A", "01"
	ports := map[string]bool{}
	var rows [][]string
	for line := range strings.Lines(string(content)) {
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != listening && f[3] != established {
			continue
		}
		rows = append(rows, f)
		if f[3] == listening {
			_, port, _ := strings.Cut(f[1], ":")
			ports[port] = true
		}
	}
	for _, f := range rows {
		remote, err := parseEnd(f[2])
		if err != nil {
			return fmt.Errorf("parse %q of %s: %w", f[2], path, err)
		}
		_, port, _ := strings.Cut(f[1], ":")
		into["socket:["+f[9]+"]"] = socket{listens: f[3] == listening, served: ports[port], remote: remote}
	}
	return nil
}

// parseEnd reads the address of "0100007F:0016": words of 32 bits in the byte
// order of the machine.
func parseEnd(end string) (netip.Addr, error) {
	word, _, _ := strings.Cut(end, ":")
	raw, err := hex.DecodeString(word)
	if err != nil {
		return netip.Addr{}, err
	}
	for i := 0; i+4 <= len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	address, ok := netip.AddrFromSlice(raw)
	if !ok {
		return address, errors.New("no address")
	}
	return address.Unmap(), nil
}
