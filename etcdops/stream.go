package etcdops

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"golang.org/x/sync/errgroup"
)

// ErrStalled is the error of a stream that brought no byte for too long. A
// server that fails to read its own database sends empty messages for ever, so
// a connection that is alive proves nothing.
var ErrStalled = errors.New("no data came")

// trailerSize is the length of the SHA-256 that ends a snapshot.
const trailerSize = sha256.Size

// trailerHash hashes a snapshot as it goes by, always holding back the last 32
// bytes, which are the trailer if the stream ends there.
type trailerHash struct {
	h    hash.Hash
	tail []byte
	n    int64
	// Set once the stream has ended.
	ok    bool
	whole string
}

func newTrailerHash() *trailerHash {
	return &trailerHash{h: sha256.New(), tail: make([]byte, 0, 2*trailerSize)}
}

func (t *trailerHash) Write(p []byte) (int, error) {
	n := len(p)
	t.n += int64(n)
	if n >= trailerSize {
		t.h.Write(t.tail)
		t.h.Write(p[:n-trailerSize])
		t.tail = append(t.tail[:0], p[n-trailerSize:]...)
		return n, nil
	}
	t.tail = append(t.tail, p...)
	if over := len(t.tail) - trailerSize; over > 0 {
		t.h.Write(t.tail[:over])
		t.tail = append(t.tail[:0], t.tail[over:]...)
	}
	return n, nil
}

// sums ends the stream: whether the trailer is the hash of what came before it,
// the trailer, and the hash of everything, both hexadecimal.
func (t *trailerHash) sums() (ok bool, trailer, whole string) {
	if t.whole == "" {
		t.ok = len(t.tail) == trailerSize && bytes.Equal(t.h.Sum(nil), t.tail)
		t.h.Write(t.tail)
		t.whole = hex.EncodeToString(t.h.Sum(nil))
	}
	return t.ok, hex.EncodeToString(t.tail), t.whole
}

// countingHash hashes and counts what is written to it.
type countingHash struct {
	h hash.Hash
	n int64
}

func newCountingHash() *countingHash { return &countingHash{h: sha256.New()} }

func (c *countingHash) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.h.Write(p)
}

// sum is the SHA-256, hexadecimal.
func (c *countingHash) sum() string { return hex.EncodeToString(c.h.Sum(nil)) }

// receiver is the part of the snapshot stream that is read.
type receiver interface {
	Recv() (blob, error)
}

// blobs in flight between the network and the disk: 32 KiB each as etcd sends
// them, so that memory does not depend on the size of the database.
const blobsInFlight = 32

// receive gives each blob of a snapshot stream to put, which holds what it needs
// for longer, and calls progress with the bytes so far and in all. It fails when
// no byte came for the time stall, when the stream is longer or shorter than its
// server said, or on the first error of either side. cancel must end the
// stream's context.
func receive(ctx context.Context, stream receiver, cancel context.CancelFunc, put func(blob) error, stall time.Duration, progress func(done, total int64)) error {
	type message struct {
		blob
		total int64
	}
	messages := make(chan message, blobsInFlight)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(messages)
		watch := newStallWatch(stall, cancel)
		total, got := int64(-1), int64(0)
		for {
			watch.wait()
			blob, err := stream.Recv()
			if watch.came(blob.size) {
				return fmt.Errorf("%w for %s, after %s", ErrStalled, stall, bytesText(got))
			}
			if errors.Is(err, io.EOF) {
				if got != total {
					return fmt.Errorf("stream ended after %d bytes of %d: %w", got, max(total, 0), io.ErrUnexpectedEOF)
				}
				return nil
			}
			if err != nil {
				return err
			}
			if total < 0 {
				total = int64(blob.remaining) + int64(blob.size) + trailerSize
			}
			got += int64(blob.size)
			if got > total {
				return fmt.Errorf("stream is longer than the %d bytes that its server announced", total)
			}
			select {
			case messages <- message{blob, total}:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	var failed error
	group.Go(func() error {
		var done int64
		for m := range messages {
			failed = put(m.blob)
			done += int64(m.size)
			m.release()
			if failed != nil {
				cancel() // wakes the Recv above, which may be told of first
				return failed
			}
			progress(done, m.total)
		}
		return nil
	})
	err := group.Wait()
	return cmp.Or(failed, err)
}

// stallWatch cancels a stream when the time spent waiting for it adds up to the
// limit without a byte. Only waiting counts: a slow disk is no stall of etcd.
type stallWatch struct {
	limit, waited time.Duration
	began         time.Time
	timer         *time.Timer
}

func newStallWatch(limit time.Duration, cancel context.CancelFunc) *stallWatch {
	timer := time.AfterFunc(limit, cancel)
	timer.Stop()
	return &stallWatch{limit: limit, timer: timer}
}

func (s *stallWatch) wait() {
	s.began = time.Now()
	s.timer.Reset(s.limit - s.waited)
}

// came notes that a wait is over with n bytes and tells whether it was too long.
func (s *stallWatch) came(n int) (stalled bool) {
	s.timer.Stop()
	if n > 0 {
		s.waited = 0
		return false
	}
	s.waited += time.Since(s.began)
	return s.waited >= s.limit
}
