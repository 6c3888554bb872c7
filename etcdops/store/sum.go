package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
)

// sum is a writer that counts and hashes what goes through it.
type sum struct {
	w io.Writer
	h hash.Hash
	n int64
}

func newSum(w io.Writer) *sum { return &sum{w: w, h: sha256.New()} }

func (s *sum) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.h.Write(p[:n])
	s.n += int64(n)
	return n, err
}

func (s *sum) hex() string { return hex.EncodeToString(s.h.Sum(nil)) }

// readFrom reads the rest of the object, of which s.n bytes have come, up to its
// size.
func (s *sum) readFrom(ctx context.Context, from Store, name string, size int64, progress func(done, total int64)) (err error) {
	r, err := from.Get(ctx, name, s.n)
	if err != nil {
		return err
	}
	defer closing(&err, r.Close)
	buffer := make([]byte, copyBuffer)
	for {
		n, err := r.Read(buffer)
		if s.n+int64(n) > size {
			return fmt.Errorf("%w: it has more than the %d bytes that its manifest says", ErrChanged, size)
		}
		if _, err := s.Write(buffer[:n]); err != nil {
			return err
		}
		progress(s.n, size)
		if errors.Is(err, io.EOF) {
			if s.n < size {
				return fmt.Errorf("it ended after %d bytes of %d: %w", s.n, size, io.ErrUnexpectedEOF)
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}
