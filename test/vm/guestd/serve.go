package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/test/vm/line"
)

// server runs what is asked for.
type server struct {
	out *line.Sender
	mu  sync.Mutex
	// groups are the process groups of the commands that run, by request.
	groups map[int]int
}

// serve answers the requests on a serial port until it fails.
func serve(port string) error {
	tty, err := openRaw(port)
	if err != nil {
		return err
	}
	defer tty.Close()
	s := &server{out: line.NewSender(tty), groups: map[int]int{}}
	if err := s.out.Send(line.Reply{Done: true}); err != nil {
		return err
	}
	requests := json.NewDecoder(tty)
	for {
		var r line.Request
		if err := requests.Decode(&r); err != nil {
			return fmt.Errorf("read a request: %w", err)
		}
		switch {
		case r.PowerOff:
			powerOff()
		case r.Kill:
			s.kill(r.ID)
		case r.Write != nil:
			s.answer(r.ID, 0, write(*r.Write))
		case r.Run != nil:
			go s.run(r.ID, *r.Run)
		}
	}
}

// openRaw opens a serial port that passes every byte on as it is.
func openRaw(port string) (*os.File, error) {
	// Blocking, so that reads and writes are system calls and nothing more.
	fd, err := unix.Open(port, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", port, err)
	}
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("set up %s: %w", port, errors.Join(err, unix.Close(fd)))
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	t.Cflag = unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return nil, fmt.Errorf("set up %s: %w", port, errors.Join(err, unix.Close(fd)))
	}
	return os.NewFile(uintptr(fd), port), nil
}

func write(f line.File) error {
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(f.Path, f.Content, os.FileMode(f.Mode)); err != nil {
		return err
	}
	return os.Chmod(f.Path, os.FileMode(f.Mode))
}

func (s *server) run(id int, c line.Command) {
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Env = append(append(os.Environ(), "HOME=/root", "USER=root", "LANG=C.UTF-8"), c.Env...)
	cmd.Dir = c.Dir
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.Stdin = bytes.NewReader(c.Input)
	cmd.Stdout, cmd.Stderr = &output{s, id, false}, &output{s, id, true}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err := cmd.Start()
	if err == nil {
		s.mu.Lock()
		s.groups[id] = cmd.Process.Pid
		s.mu.Unlock()
		err = cmd.Wait()
		s.mu.Lock()
		delete(s.groups, id)
		s.mu.Unlock()
	}
	exit := -1
	if cmd.ProcessState != nil {
		exit = cmd.ProcessState.ExitCode()
	}
	s.answer(id, exit, err)
}

func (s *server) kill(id int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if group := s.groups[id]; group > 0 {
		_ = unix.Kill(-group, unix.SIGKILL) // it may have ended meanwhile
	}
}

func (s *server) answer(id, exit int, err error) {
	reply := line.Reply{ID: id, Done: true, Exit: exit}
	if err != nil {
		reply.Failure = err.Error()
	}
	s.send(reply)
}

func (s *server) send(reply line.Reply) {
	if err := s.out.Send(reply); err != nil {
		fmt.Fprintln(os.Stderr, "guestd: answer request:", err)
	}
}

// output sends what a command prints as it comes.
type output struct {
	server *server
	id     int
	errors bool
}

func (o *output) Write(p []byte) (int, error) {
	o.server.send(line.Reply{ID: o.id, Output: p, Errors: o.errors})
	return len(p), nil
}
