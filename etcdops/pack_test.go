package etcdops

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// Pieces come out whole and in order, however they were written, and each has been
// looked at; what is packed is a zstd file for others, too.
func TestPieces(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 9))
	for _, size := range []int{0, 1, pieceSize - 1, pieceSize, pieceSize + 1, 5*pieceSize + 12345} {
		content := make([]byte, size)
		for i := range content {
			content[i] = byte(random.Uint32() & 0x33)
		}
		for _, compress := range []bool{false, true} {
			var out, looked bytes.Buffer
			w, err := Sealing{Compress: compress}.seal(&out, func(piece []byte) error { looked.Write(piece); return nil })
			if err != nil {
				t.Fatal(err)
			}
			for rest := content; len(rest) > 0; {
				part := rest[:min(len(rest), 1+random.IntN(3*pieceSize/2))]
				if n, err := w.Write(part); err != nil || n != len(part) {
					t.Fatal(n, err)
				}
				rest = rest[len(part):]
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			got := out.Bytes()
			if compress {
				if got, err = unzstd(got); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, content) || !bytes.Equal(looked.Bytes(), content) {
				t.Errorf("of %d bytes, compressed %v: %d came out, %d were looked at", size, compress, len(got), looked.Len())
			}
		}
	}
}

func unzstd(b []byte) ([]byte, error) {
	r, err := zstd.NewReader(nil)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.DecodeAll(b, nil)
}

// full is a disk with room for n bytes.
type full struct{ n int }

func (f *full) Write(p []byte) (int, error) {
	if f.n -= len(p); f.n < 0 {
		return 0, errDisk
	}
	return len(p), nil
}

// A disk that is full ends packing with its error, told once, soon and without
// anybody waiting for ever, whichever piece meets it.
func TestPiecesOnAFullDisk(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(4, 2))
	noise := make([]byte, pieceSize)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	for room := range 7 {
		w, err := Sealing{Compress: true}.seal(&full{room*pieceSize + pieceSize/2}, nil)
		if err != nil {
			t.Fatal(err)
		}
		written := 0
		for err == nil && written < 100 {
			_, err = io.Copy(w, bytes.NewReader(noise))
			written++
		}
		if !errors.Is(err, errDisk) || written > room+6 {
			t.Errorf("with room for %d pieces %d were written, then %v", room, written, err)
		}
		if err := w.Close(); err != nil {
			t.Errorf("told again: %v", err)
		}
	}
	w, err := Sealing{Compress: true}.seal(&full{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(noise[:100]); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); !errors.Is(err, errDisk) {
		t.Errorf("the last piece: %v", err)
	}
}
