package etcdops

import (
	"io"
	"sync"
)

// aheadSize is how much is read ahead at once, and aheadDepth how often. A goroutine
// that waits for more is woken once for each: on a virtual machine a core that sleeps
// takes long to wake, and with blocks of 128 KiB, as zstd has them, two cores were no
// faster than one.
const (
	aheadSize  = 1 << 20
	aheadDepth = 3
)

// ahead reads in a goroutine of its own, so that one core decrypts, or unpacks, what
// another works on.
type ahead struct {
	filled chan filled
	free   chan []byte
	end    func() // tells the goroutine that nobody reads any more
	done   chan struct{}
	now    filled // being read
	rest   []byte // of it
}

// filled is a part of what was read, and the error that came with its end.
type filled struct {
	bytes []byte
	err   error
}

// readAhead begins to read r; Close waits until nobody reads it any more.
func readAhead(r io.Reader) *ahead {
	ended := make(chan struct{})
	a := &ahead{
		filled: make(chan filled, aheadDepth), free: make(chan []byte, aheadDepth),
		end: sync.OnceFunc(func() { close(ended) }), done: make(chan struct{}),
	}
	for range aheadDepth {
		a.free <- nil
	}
	go a.run(r, ended)
	return a
}

func (a *ahead) run(r io.Reader, ended <-chan struct{}) {
	defer close(a.done)
	for {
		select {
		case buffer := <-a.free:
			if buffer == nil { // a small snapshot needs one
				buffer = make([]byte, aheadSize)
			}
			n, err := readFull(r, buffer)
			a.filled <- filled{buffer[:n], err}
			if err != nil {
				return
			}
		case <-ended:
			return
		}
	}
}

func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.now.err != nil {
			return 0, a.now.err
		}
		if a.now.bytes != nil {
			a.free <- a.now.bytes[:aheadSize]
		}
		a.now = <-a.filled
		a.rest = a.now.bytes
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

func (a *ahead) Close() error {
	a.end()
	<-a.done
	return nil
}
