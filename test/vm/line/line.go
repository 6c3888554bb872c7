// Package line is what a test and its virtual machine say to each
// other over a serial line: one JSON value a line, requests one way, replies
// the other. Commands may run at the same time; a reply names its request.
package line

import (
	"encoding/json"
	"io"
	"sync"
)

// Request asks the guest for one thing: the field that is set.
type Request struct {
	// ID is the caller's, not 0, and new for each request but Kill's.
	ID int
	// Run runs a command.
	Run *Command `json:",omitempty"`
	// Kill sends SIGKILL to the process group of the command of this ID.
	Kill bool `json:",omitempty"`
	// Write writes a file.
	Write *File `json:",omitempty"`
	// PowerOff ends the guest; there is no reply.
	PowerOff bool `json:",omitempty"`
}

// Command is a program with its arguments and what it reads.
type Command struct {
	Args  []string
	Env   []string // beside the guest's own
	Dir   string   // "" for /
	Input []byte
}

// File is a file with its content.
type File struct {
	Path    string
	Mode    uint32
	Content []byte
}

// Reply is a part of the answer to a request, in order.
type Reply struct {
	// ID is the request's; 0 once, when the guest is ready.
	ID int
	// Output is more output of a command; Errors tells that it is of its
	// standard error.
	Output []byte `json:",omitempty"`
	Errors bool   `json:",omitempty"`
	// Done is set in the last reply. Exit is the command's exit status, -1 where
	// a signal ended it, and Failure says why it was not started or how it ended.
	Done    bool   `json:",omitempty"`
	Exit    int    `json:",omitempty"`
	Failure string `json:",omitempty"`
}

// Sender writes values to a line, one at a time.
type Sender struct {
	mu sync.Mutex
	w  io.Writer
}

// NewSender returns a Sender that writes to w.
func NewSender(w io.Writer) *Sender { return &Sender{w: w} }

// Send writes one value.
func (s *Sender) Send(value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err = s.w.Write(append(text, '\n'))
	return err
}
