package fleets

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// answerLimit is how long an answer that is expected may take: seconds, but for an
// emulated processor on a busy machine. silence is how long, at least, nothing
// must come where nothing is to come: two of TCP's attempts and the answers.
const (
	answerLimit = time.Minute
	silence     = 3 * time.Second
)

// answer is what came of an attempt to connect: the name of the host that
// answered, or silent, or else what was seen instead.
type answer string

// silent means that nothing came back, as from a firewall that drops.
const silent answer = "silent"

// listen answers connections to the ports on every address of the host with the
// host's name.
func (h *host) listen(t *testing.T, ports []uint16) {
	t.Helper()
	for _, port := range ports {
		h.run(t, func() error {
			listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(int(port))))
			if err != nil {
				return err
			}
			t.Cleanup(func() { listener.Close() })
			go func() {
				for {
					c, err := listener.Accept()
					if err != nil {
						return
					}
					_, _ = io.WriteString(c, h.name)
					_ = c.Close()
				}
			}()
			return nil
		})
	}
}

// attempt is a connection from one place, and what is to come of it.
type attempt struct {
	from   *place
	way    string // for people: "by the private network"
	to     *host
	at     netip.AddrPort
	expect bool // an answer of the host; else silence
}

// try makes all the attempts at once and reports those that came out otherwise.
func try(t *testing.T, attempts []attempt) {
	t.Helper()
	for i, got := range connect(t, attempts) {
		a, want := attempts[i], silent
		if a.expect {
			want = answer(a.to.name)
		}
		if got != want {
			t.Errorf("%s to %s %s, %s: %s, want %s", a.from.name, a.to.name, a.way, a.at, got, want)
		}
	}
}

// connect returns what came of each attempt.
func connect(t *testing.T, attempts []attempt) []answer {
	t.Helper()
	answers, sockets := make([]answer, len(attempts)), make([]unix.PollFd, len(attempts))
	for i, a := range attempts {
		a.from.run(t, func() error {
			fd, err := begin(a.at)
			sockets[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
			if err != nil {
				answers[i] = answer(err.Error())
			}
			return nil
		})
	}
	defer func() {
		for _, s := range sockets {
			_ = unix.Close(int(s.Fd))
		}
	}()
	start, over := time.Now(), time.Time{}
	for {
		waiting, of := waitingFor(sockets, answers)
		if over.IsZero() && !slices.ContainsFunc(of, func(i int) bool { return attempts[i].expect }) {
			// All that were to answer have. The others had the same time, and get
			// as much again.
			over = start.Add(max(silence, 2*time.Since(start)))
		}
		left := time.Until(start.Add(answerLimit))
		if !over.IsZero() {
			left = time.Until(over)
		}
		if len(waiting) == 0 || left <= 0 {
			break
		}
		if _, err := unix.Poll(waiting, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
		for i, w := range waiting {
			if w.Revents != 0 {
				answers[of[i]] = read(int(w.Fd))
			}
		}
	}
	for i := range answers {
		if answers[i] == "" {
			answers[i] = silent
		}
	}
	return answers
}

// begin starts to connect, without waiting.
func begin(to netip.AddrPort) (int, error) {
	family, address := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(to.Port()), Addr: firstFour(to.Addr())})
	if to.Addr().Is6() {
		family, address = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, address); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fd, err
	}
	return fd, nil
}

func firstFour(a netip.Addr) (four [4]byte) {
	copy(four[:], a.AsSlice())
	return four
}

// waitingFor are the sockets of which nothing came yet, and which they are.
func waitingFor(sockets []unix.PollFd, answers []answer) (waiting []unix.PollFd, of []int) {
	for i, s := range sockets {
		if answers[i] == "" {
			waiting, of = append(waiting, s), append(of, i)
		}
	}
	return waiting, of
}

// read takes what a socket has to say.
func read(fd int) answer {
	if failed, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || failed != 0 {
		return answer(errors.Join(err, unix.Errno(failed)).Error())
	}
	buffer := make([]byte, 64)
	n, err := unix.Read(fd, buffer)
	if err != nil {
		return answer(err.Error())
	}
	return answer(buffer[:n])
}

// pinged tells whether an echo comes back from the address.
func (p *place) pinged(t *testing.T, to netip.Addr) bool { t.Helper(); return p.pingedWhole(t, to, 28) }

// pingedWhole tells whether an echo comes back from the address where request and
// reply are packets of so many bytes, which must not be cut into pieces.
func (p *place) pingedWhole(t *testing.T, to netip.Addr, size int) bool {
	t.Helper()
	fd := -1
	p.run(t, func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		return err
	})
	defer unix.Close(fd)
	must(t, unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO))
	request := make([]byte, size-20) // type, code, checksum, id, sequence, and nothing more to say
	request[0] = 8
	binary.BigEndian.PutUint16(request[4:], uint16(fd))
	binary.BigEndian.PutUint16(request[2:], ^(8<<8 + uint16(fd)))
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrInet4{Addr: to.As4()}); err != nil {
		t.Logf("%s to %s: %v", p.name, to, err)
		return false
	}
	buffer := make([]byte, 1500)
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); {
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 200); err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
		n, from, err := unix.Recvfrom(fd, buffer, 0)
		// A raw socket hears all: 20 bytes of IP, then the echo reply's type and id.
		if sender, ok := from.(*unix.SockaddrInet4); err == nil && ok && sender.Addr == to.As4() &&
			n == size && buffer[20] == 0 && binary.BigEndian.Uint16(buffer[24:]) == uint16(fd) {
			return true
		}
	}
	return false
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	const limit = time.Minute
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}
