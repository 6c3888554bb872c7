package etcdops

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// pieceSize is how much of a snapshot is looked at and packed at once. Each piece is
// packed without what came before it, which costs: pieces of 1 MiB take a tenth more
// of the processor's time. It is a multiple of every page size.
const pieceSize = 4 << 20

// pieces gathers what is written to it into pieces of pieceSize, shows each to look
// and packs it.
type pieces struct {
	piece []byte
	// look, if set, sees each piece, in order, before it is packed, and may refuse it;
	// it keeps nothing of it.
	look   func(piece []byte) error
	pack   packer
	failed bool
}

// packer takes pieces, in order.
type packer interface {
	// put takes a piece for good, and returns an empty buffer for the next one.
	put(piece []byte) ([]byte, error)
	// Close returns when all pieces are written.
	Close() error
}

func newPieces(pack packer, look func([]byte) error) *pieces {
	return &pieces{piece: make([]byte, 0, pieceSize), look: look, pack: pack}
}

func (p *pieces) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		part := b[:min(len(b), pieceSize-len(p.piece))]
		p.piece, b = append(p.piece, part...), b[len(part):]
		if len(p.piece) < pieceSize {
			break
		}
		if err := p.next(); err != nil {
			return n - len(b), err
		}
	}
	return n, nil
}

func (p *pieces) next() (err error) {
	defer func() { p.failed = err != nil }()
	if p.look != nil {
		if err := p.look(p.piece); err != nil {
			return err
		}
	}
	p.piece, err = p.pack.put(p.piece)
	return err
}

func (p *pieces) Close() (err error) {
	if len(p.piece) > 0 && !p.failed {
		err = p.next()
	}
	return errors.Join(err, p.pack.Close())
}

// loose packs nothing.
type loose struct{ w io.Writer }

func (l loose) put(piece []byte) ([]byte, error) {
	_, err := l.w.Write(piece)
	return piece[:0], err
}

func (l loose) Close() error { return nil }

// frames packs each piece into a zstd frame of its own, several at once on as many
// cores, and writes them in order. Frames one after another are a zstd file like
// any other (RFC 8878, 3.1).
type frames struct {
	w       io.Writer
	encoder *zstd.Encoder
	free    chan *frame // whose plain may be filled
	work    chan *frame // to be packed, by whoever has time
	order   chan *frame // to be written
	all     sync.WaitGroup
	// failed is closed after err is set; nothing more is written then.
	failed chan struct{}
	err    error
	told   bool // put has returned it
}

type frame struct {
	plain, packed []byte
	ready         chan struct{}
}

// maxPackers is how many pieces are packed at once. Two cores pack faster than etcd
// sends; more would take more memory.
const maxPackers = 2

// newFrames writes to w. A checksum in each frame is left out where something else
// tells of each changed bit.
func newFrames(w io.Writer, checksum bool) (*frames, error) {
	packers := min(runtime.GOMAXPROCS(0), maxPackers)
	// SpeedFastest: the next level takes a third more time for a twentieth less
	// space. What repeats in a database does so nearby.
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(packers),
		zstd.WithWindowSize(512<<10), zstd.WithEncoderCRC(checksum))
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	n := packers + 1 // so that one is written meanwhile
	f := &frames{w: w, encoder: encoder, free: make(chan *frame, n), work: make(chan *frame, n), order: make(chan *frame, n), failed: make(chan struct{})}
	for range n {
		f.free <- &frame{plain: make([]byte, 0, pieceSize), ready: make(chan struct{}, 1)}
	}
	for range packers {
		f.all.Go(f.packAll)
	}
	f.all.Go(f.writeAll)
	return f, nil
}

func (f *frames) packAll() {
	for frame := range f.work {
		frame.packed = f.encoder.EncodeAll(frame.plain, frame.packed[:0])
		frame.ready <- struct{}{}
	}
}

func (f *frames) writeAll() {
	for frame := range f.order {
		<-frame.ready
		if f.err == nil {
			if _, f.err = f.w.Write(frame.packed); f.err != nil {
				close(f.failed)
			}
		}
		f.free <- frame
	}
}

func (f *frames) put(piece []byte) ([]byte, error) {
	frame := <-f.free
	select {
	case <-f.failed:
		f.free <- frame
		f.told = true
		return piece[:0], f.err
	default:
	}
	next := frame.plain[:0]
	frame.plain = piece
	f.work <- frame
	f.order <- frame
	return next, nil
}

// Close waits for all frames. An error comes from it or from put: once.
func (f *frames) Close() error {
	close(f.work)
	close(f.order)
	f.all.Wait()
	if err := f.encoder.Close(); f.err == nil || f.told {
		return err
	}
	return f.err
}
