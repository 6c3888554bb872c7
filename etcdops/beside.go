package etcdops

import (
	"bytes"
	"errors"
	"io"
)

// besideDepth is how many writes may wait for a writer beside: with the 32 KiB
// that etcd sends at once three megabytes.
const besideDepth = 96

// beside writes what comes to it in a goroutine of its own, so that a hash or a
// compressor works on one core while the network is read on another. What is
// written to it must not be changed afterwards. An error comes back from a later
// Write or put, or else from Close: once.
type beside struct {
	w      io.Writer
	blocks chan blob
	done   chan struct{}
	err    error // once done is closed
	told   bool  // Write has returned it
}

func newBeside(w io.Writer) *beside {
	b := &beside{w: w, blocks: make(chan blob, besideDepth), done: make(chan struct{})}
	go b.run()
	return b
}

func (b *beside) run() {
	defer close(b.done)
	for block := range b.blocks {
		err := block.writeTo(b.w)
		block.release()
		if err != nil {
			b.err = err
			return
		}
	}
}

func (b *beside) Write(p []byte) (int, error) {
	if err := b.put(blob{parts: [][]byte{p}}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// put writes a blob, which is held until it is written.
func (b *beside) put(block blob) error {
	block.hold()
	select {
	case b.blocks <- block:
		return nil
	case <-b.done:
		block.release()
		b.told = true
		return b.err
	}
}

// Close waits until all is written. It does not close the writer.
func (b *beside) Close() error {
	close(b.blocks)
	<-b.done
	if b.told {
		return nil
	}
	return b.err
}

// cloning makes of a beside a writer for those who use their buffers again.
type cloning struct{ *beside }

func (c cloning) Write(p []byte) (int, error) { return c.beside.Write(bytes.Clone(p)) }

// copyBeside copies all of r to the writers, each on a core of its own.
func copyBeside(r io.Reader, writers ...io.Writer) error {
	sides := make([]io.Writer, len(writers))
	var closers []io.Closer
	for i, w := range writers {
		side := newBeside(w)
		sides[i], closers = side, append(closers, side)
	}
	failed := []error{copyFresh(io.MultiWriter(sides...), r)}
	for _, c := range closers {
		failed = append(failed, c.Close())
	}
	return errors.Join(failed...)
}

// copyFresh copies r to w in blocks that it never uses again.
func copyFresh(w io.Writer, r io.Reader) error {
	const size = 128 << 10
	for {
		block := make([]byte, size)
		n, err := readFull(r, block)
		if _, writeErr := w.Write(block[:n]); writeErr != nil {
			return writeErr
		}
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readFull reads until p is full or r ends or fails, whose own error it returns.
func readFull(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var more int
		more, err = r.Read(p[n:])
		n += more
	}
	return n, err
}
