package vault

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	sigStop     = syscall.SIGSTOP
	sigContinue = syscall.SIGCONT
)

// readyLine is what the server prints when it answers; see its main package.
type readyLine struct {
	Address   string `json:"address"`
	CAFile    string `json:"ca_file"`
	RootToken string `json:"root_token"`
	UnsealKey string `json:"unseal_key"`
}

// process is one run of the server.
type process struct {
	cmd   *exec.Cmd
	input io.Closer  // the server ends when this does, so also with a killed test
	ready chan error // gets one value when line is read, or never will be
	line  readyLine
	ended chan struct{} // closed when the process is gone
}

// start starts the process and waits until it says that it is ready.
func (s *Server) start(extra ...string) readyLine {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	run, err := launch(s.program, append(s.args, extra...), s.log())
	if err != nil {
		s.t.Fatalf("start Vault: %v", err)
	}
	s.run = run
	select {
	case err = <-run.ready:
	case <-time.After(patience):
		err = fmt.Errorf("it is not ready after %s", patience)
	}
	if err != nil {
		s.t.Fatalf("start Vault: %v; the end of its log:\n%s", err, tail(s.log()))
	}
	return run.line
}

func launch(program string, args []string, log string) (*process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close() // the child has its own
	cmd := exec.Command(program, args...)
	cmd.Stderr = file
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "VAULT_") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	run := &process{cmd: cmd, input: input, ready: make(chan error, 1), ended: make(chan struct{})}
	go run.read(output)
	return run, nil
}

// read reads the process's one line and sees it end.
func (p *process) read(output io.Reader) {
	defer close(p.ended)
	lines := bufio.NewReader(output)
	line, err := lines.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &p.line)
	} else {
		err = errors.New("it ended before it was ready")
	}
	p.ready <- err
	_, _ = io.Copy(io.Discard, lines)
	_ = p.cmd.Wait() // its log has said why
}

// stop ends the process and waits until it is gone; s.mu is held.
func (s *Server) stop() {
	s.t.Helper()
	if s.run == nil {
		return
	}
	run := s.run
	s.run = nil
	_ = run.cmd.Process.Signal(sigContinue) // a frozen one ends, too
	_ = run.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-run.ended:
	case <-time.After(patience):
		_ = run.cmd.Process.Kill()
		<-run.ended
		s.t.Errorf("Vault did not end within %s after SIGTERM and was killed; the end of its log:\n%s", patience, tail(s.log()))
	}
	run.input.Close()
}

func (s *Server) signal(signal syscall.Signal) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == nil {
		s.t.Fatalf("send %v to Vault: it is stopped", signal)
	}
	if err := s.run.cmd.Process.Signal(signal); err != nil {
		s.t.Fatalf("send %v to Vault: %v", signal, err)
	}
}

// end is the server's end with its test.
func (s *Server) end() {
	s.Stop()
	if s.t.Failed() {
		s.t.Logf("the end of the log of Vault %s:\n%s", s.Version, tail(s.log()))
	}
}

func (s *Server) log() string { return filepath.Join(s.Dir, "log") }

// tail is the last lines of a file, or why there are none.
func tail(name string) string {
	content, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	lines := bytes.SplitAfter(bytes.TrimSpace(content), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-20):], nil))
}
