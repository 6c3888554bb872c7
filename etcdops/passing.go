package etcdops

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"

	"go.etcd.io/etcd/server/v3/storage/schema"
)

// errUnusual is the error of a database that could not be checked while it passed:
// not as bbolt and etcd write one, or damaged. It is to be inspected as a file.
var errUnusual = errors.New("cannot be checked in passing")

// passingCheck checks a database while it goes by, and learns what inspect learns
// from a file, without the file. Pages come in the order of their numbers, not in
// that of the tree, and among them are old ones that are not in the tree any more;
// so of each that may be in it goes to a spool what the walk through the tree needs
// afterwards: of a page of objects the CRC of its bytes and the objects' names, of
// other pages all. That is a hundredth of a database of objects of 10 KiB.
//
// It errs on one side alone: what it cannot tell for sure is errUnusual.
type passingCheck struct {
	ctx   context.Context
	spool *spool
	meta  meta
	at    int64 // bytes that have gone by
	open  []*openRun
	held  int // bytes of the open ones
}

// openRun is a page whose overflow goes on in the next piece.
type openRun struct {
	id   uint64
	size int
	b    []byte
}

// maxOpen bounds the bytes of open runs, of which there is one, unless old pages
// look as if they overflowed into newer ones. One of four objects of the largest
// size that etcd takes has 6 MiB.
const maxOpen = 32 << 20

// newPassingCheck spools in the scratch folder, so many bytes at most.
func newPassingCheck(ctx context.Context, dir string, most int64) (*passingCheck, error) {
	s, err := newSpool(dir, most)
	if err != nil {
		return nil, err
	}
	return &passingCheck{ctx: ctx, spool: s}, nil
}

func (p *passingCheck) Close() error { return p.spool.Close() }

// look takes the next piece of the database; all but the last have pieceSize. After
// an error, as contents has them, no more is to come.
func (p *passingCheck) look(piece []byte) error {
	return p.judge(guarded(func() error { return p.take(piece) }))
}

// judge tells what speaks of the database from what speaks of this host.
func (p *passingCheck) judge(err error) error {
	switch {
	case err == nil:
		return nil
	case p.ctx.Err() != nil:
		return p.ctx.Err()
	case isSystem(err):
		return fmt.Errorf("note what is to be checked: %w", err)
	}
	return fmt.Errorf("%w: %w", errUnusual, err)
}

func (p *passingCheck) take(piece []byte) (err error) {
	if p.at == 0 {
		if p.meta, err = bothMetas(piece); err != nil {
			return err
		}
	}
	if err := p.goOn(piece); err != nil {
		return err
	}
	size := int(p.meta.pageSize)
	for off := 0; off+pageHeader <= len(piece); off += size {
		id := uint64(p.at+int64(off)) / uint64(size)
		if id < 2 || id >= p.meta.pages || binary.LittleEndian.Uint64(piece[off:]) != id {
			continue
		}
		if err := p.begin(id, piece[off:]); err != nil {
			return err
		}
	}
	p.at += int64(len(piece))
	return nil
}

// minUsualPage is the size of the smallest pages that a system has, which bbolt takes.
const minUsualPage = 4096

// bothMetas returns the meta page that counts, of two sound ones: a member writes
// both into each snapshot, and which one bbolt takes otherwise is not so plain.
func bothMetas(piece []byte) (meta, error) {
	first, err := readMeta(piece)
	if err != nil {
		return meta{}, err
	}
	second, err := readMeta(piece[min(len(piece), int(first.pageSize)):])
	if err != nil {
		return meta{}, fmt.Errorf("second meta page: %w", err)
	}
	if first.pageSize < minUsualPage {
		return meta{}, fmt.Errorf("pages of %d bytes", first.pageSize)
	}
	if second.pageSize != first.pageSize {
		return meta{}, fmt.Errorf("meta pages tell of pages of %d and %d bytes", first.pageSize, second.pageSize)
	}
	if second.txid > first.txid {
		return second, nil
	}
	return first, nil
}

// goOn gives the piece's beginning to those runs that wait for it.
func (p *passingCheck) goOn(piece []byte) error {
	still := p.open[:0]
	for _, run := range p.open {
		run.b = append(run.b, piece[:min(len(piece), run.size-len(run.b))]...)
		if len(run.b) < run.size {
			still = append(still, run)
			continue
		}
		p.held -= run.size
		if err := p.spool.page(run.id, run.b); err != nil {
			return err
		}
	}
	clear(p.open[len(still):])
	p.open = still
	return nil
}

// begin takes the page that may begin in b. A page that is within another's
// overflow may be a live one all the same, if the other one is old.
func (p *passingCheck) begin(id uint64, b []byte) error {
	span := uint64(binary.LittleEndian.Uint32(b[12:])) + 1
	if id+span > p.meta.pages {
		return nil
	}
	size := int(span) * int(p.meta.pageSize)
	if size <= len(b) {
		return p.spool.page(id, b[:size])
	}
	if p.held+size <= maxOpen { // or else it is missing, if it is in the tree
		p.held += size
		p.open = append(p.open, &openRun{id: id, size: size, b: append(make([]byte, 0, size), b...)})
	}
	return nil
}

// contents ends the database, which has size bytes, and reads it. Its errors wrap
// errUnusual, or are those of the context or of the operating system.
func (p *passingCheck) contents(size int64) (found Contents, err error) {
	err = guarded(func() (err error) { found, err = p.walk(size); return err })
	return found, p.judge(err)
}

func (p *passingCheck) walk(size int64) (_ Contents, err error) {
	if err := p.meta.enough(min(size, p.at)); err != nil {
		return Contents{}, err
	}
	if err := p.spool.read(); err != nil {
		return Contents{}, err
	}
	var found Contents
	v := &spoolVisitor{contentsReader: newContentsReader(p.ctx, &found, true), spool: p.spool, entered: map[string]bool{}}
	w := pageWalk{from: p.spool.from, meta: p.meta, tick: p.ctx.Err, visitor: v}
	if err := w.all(); err != nil {
		return Contents{}, err
	}
	for _, b := range etcdBuckets {
		if !v.entered[string(b.Name())] {
			return Contents{}, fmt.Errorf("without etcd's bucket %q", b.Name())
		}
	}
	v.end()
	return found, nil
}

// usualVersion is how etcd writes the version of its data's format.
var usualVersion = regexp.MustCompile(`^(0|[1-9]\d{0,8})(\.(0|[1-9]\d{0,8})){2}$`)

// spoolVisitor reads what the spool has of each page, and hashes what the page had.
type spoolVisitor struct {
	*contentsReader
	spool     *spool
	entered   map[string]bool
	bucket    string
	condensed bool
}

func (v *spoolVisitor) enter(bucket []byte) error {
	v.bucket = string(bucket)
	v.entered[v.bucket] = true
	return v.contentsReader.enter(bucket)
}

func (v *spoolVisitor) page(id uint64) {
	crc, n := v.spool.hash(id)
	if v.condensed = n > 0; v.condensed {
		v.sum = joinCRC(v.sum, crc, n)
	}
}

func (v *spoolVisitor) pair(key, value []byte) error {
	if !v.condensed {
		v.hash(key, value)
	} else if v.bucket != string(schema.Key.Name()) {
		return fmt.Errorf("keys like revisions in the bucket %q", v.bucket)
	}
	if v.bucket == string(schema.Meta.Name()) && string(key) == string(schema.MetaStorageVersionName) {
		if !usualVersion.Match(value) {
			return fmt.Errorf("storage version %q", value)
		}
		v.StorageVersion = string(value)
	}
	return v.contentsReader.pair(key, value)
}
