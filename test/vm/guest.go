package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/nodeagent/nodeagent/test/vm/line"
)

// Guest is a virtual machine that runs our service.
type Guest struct {
	machine *machine
	sender  *line.Sender

	mu      sync.Mutex
	last    int // request
	waiting map[int]chan line.Reply
	over    chan struct{} // closed when no reply will come any more
	err     error         // why
}

// connect waits for the guest's service on the accepted line.
func connect(ctx context.Context, m *machine, conn net.Conn) (*Guest, error) {
	g := &Guest{machine: m, sender: line.NewSender(conn), waiting: map[int]chan line.Reply{}, over: make(chan struct{})}
	ready := make(chan line.Reply, 1)
	g.waiting[0] = ready
	go g.receive(conn)
	if _, err := g.wait(ctx, ready, bootStall); err != nil {
		return nil, fmt.Errorf("wait for the guest's service: %w", err)
	}
	return g, nil
}

// receive hands out the replies until the line ends.
func (g *Guest) receive(r io.Reader) {
	replies := json.NewDecoder(r)
	for {
		var reply line.Reply
		if err := replies.Decode(&reply); err != nil {
			g.err = fmt.Errorf("the line to the guest ended: %w", err)
			close(g.over)
			return
		}
		g.mu.Lock()
		to := g.waiting[reply.ID]
		if reply.Done {
			delete(g.waiting, reply.ID)
		}
		g.mu.Unlock()
		if to != nil {
			to <- reply
		}
	}
}

// Process is a command that runs in the guest.
type Process struct {
	guest          *Guest
	id             int
	replies        chan line.Reply
	Stdout, Stderr io.Writer
}

// Start starts a command. Wait must be called for it.
func (g *Guest) Start(c line.Command) (*Process, error) {
	p := &Process{guest: g, Stdout: io.Discard, Stderr: io.Discard}
	var err error
	p.id, p.replies, err = g.request(line.Request{Run: &c})
	return p, err
}

// Kill sends SIGKILL to the command and what it started in its process group.
func (p *Process) Kill() error {
	return p.guest.sender.Send(line.Request{ID: p.id, Kill: true})
}

// Wait copies the command's output until it ends. It gives up where the command
// prints nothing, and the kernel says nothing, for as long as stall.
func (p *Process) Wait(ctx context.Context, stall time.Duration) error {
	for {
		reply, err := p.guest.wait(ctx, p.replies, stall)
		if err != nil {
			return err
		}
		to := p.Stdout
		if reply.Errors {
			to = p.Stderr
		}
		if _, err := to.Write(reply.Output); err != nil {
			return err
		}
		if reply.Done {
			return failure(reply)
		}
	}
}

// ExitError is the end of a command that was not a success.
type ExitError struct {
	Status int // -1 where a signal ended it, or it was not started
	Reason string
}

func (e *ExitError) Error() string { return e.Reason }

func failure(reply line.Reply) error {
	if reply.Failure == "" {
		return nil
	}
	return &ExitError{Status: reply.Exit, Reason: reply.Failure}
}

// Exec runs a command and returns what it printed, standard error included.
func (g *Guest) Exec(ctx context.Context, c line.Command) (string, error) {
	p, err := g.Start(c)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	p.Stdout, p.Stderr = &out, &out
	err = p.Wait(ctx, commandStall)
	return out.String(), err
}

// WriteFile writes a file in the guest, with the folders above it.
func (g *Guest) WriteFile(ctx context.Context, f line.File) error {
	_, replies, err := g.request(line.Request{Write: &f})
	if err != nil {
		return err
	}
	reply, err := g.wait(ctx, replies, commandStall)
	if err != nil {
		return err
	}
	return failure(reply)
}

// Console is what the kernel has printed.
func (g *Guest) Console() string { return g.machine.console.String() }

// Close powers the guest off, and kills it where it does not.
func (g *Guest) Close() error {
	sent := g.sender.Send(line.Request{ID: -1, PowerOff: true})
	return errors.Join(sent, g.machine.end(powerOffLimit))
}

func (g *Guest) request(r line.Request) (int, chan line.Reply, error) {
	g.mu.Lock()
	g.last++
	r.ID = g.last
	replies := make(chan line.Reply, 64)
	g.waiting[r.ID] = replies
	g.mu.Unlock()
	return r.ID, replies, g.sender.Send(r)
}

// wait waits for the next reply, for as long as there are signs of life: any
// growth of the console starts the time anew.
func (g *Guest) wait(ctx context.Context, replies <-chan line.Reply, stall time.Duration) (line.Reply, error) {
	seen := g.machine.console.size()
	for {
		limit := time.NewTimer(stall)
		select {
		case reply := <-replies:
			limit.Stop()
			return reply, nil
		case <-ctx.Done():
			return line.Reply{}, context.Cause(ctx)
		case <-g.over:
			select { // replies that came before
			case reply := <-replies:
				return reply, nil
			default:
				return line.Reply{}, errors.Join(g.err, g.machine.exited())
			}
		case <-limit.C:
			if now := g.machine.console.size(); now != seen {
				seen = now
				continue
			}
			return line.Reply{}, fmt.Errorf("the guest was silent for %s", stall)
		}
	}
}
