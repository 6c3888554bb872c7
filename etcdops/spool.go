package etcdops

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
)

// spool has of each page of a database what a walk through it needs, in a file
// without a name. Of the values of objects it has none, unless these are so few that
// their bucket lies in a page of its parent's; other buckets it has as they are.
type spool struct {
	file  scratchFile
	out   *bufio.Writer
	size  int64
	most  int64    // how large it may become
	index []uint32 // by page: where its record begins, in units of recordUnit, plus 1
	room  []byte   // for condensing
	data  []byte   // the file, mapped, once it is read
}

// A record is the length of a page's bytes (4), the CRC-32 (4) and the length (8)
// of what a condensed page had, both 0 for another one, and the page's bytes.
const (
	recordHeader = 16
	recordUnit   = 8
	// maxWhole bounds a page that is not condensed. Those of other buckets than
	// that of objects are small, and so is a free list of up to 130,000 pages.
	maxWhole = 1 << 20
)

func newSpool(dir string, most int64) (*spool, error) {
	f, err := scratch(dir)
	if err != nil {
		return nil, err
	}
	return &spool{file: f, most: most, out: bufio.NewWriterSize(f, writeSize)}, nil
}

// page adds a page with what it overflows into. It leaves out what is in no tree, and
// what etcd would not have in one: the walk then misses it.
func (s *spool) page(id uint64, b []byte) error {
	switch binary.LittleEndian.Uint16(b[8:]) {
	case flagLeaf:
		if page, crc, n, ok := condense(s.room[:0], b); ok {
			s.room = page
			return s.add(id, page, crc, n)
		}
		if beginsWithRevision(b) {
			return nil
		}
	case flagBranch, flagFreelist:
	default:
		return nil
	}
	if len(b) > maxWhole {
		return nil
	}
	return s.add(id, b, 0, 0)
}

func (s *spool) add(id uint64, page []byte, crc uint32, n uint64) error {
	if s.size+recordHeader+int64(len(page)) > min(s.most, math.MaxUint32*recordUnit) {
		return fmt.Errorf("more than %s would have to be noted", bytesText(s.most))
	}
	for uint64(len(s.index)) <= id {
		s.index = append(s.index, 0)
	}
	s.index[id] = uint32(s.size/recordUnit) + 1
	var header [recordHeader]byte
	le := binary.LittleEndian
	le.PutUint32(header[:], uint32(len(page)))
	le.PutUint32(header[4:], crc)
	le.PutUint64(header[8:], n)
	var padding [recordUnit]byte
	for _, part := range [][]byte{header[:], page, padding[:-len(page)&(recordUnit-1)]} {
		if _, err := s.out.Write(part); err != nil {
			return err
		}
		s.size += int64(len(part))
	}
	return nil
}

// read ends the writing and makes the records readable.
func (s *spool) read() error {
	if err := s.out.Flush(); err != nil {
		return err
	}
	if s.size == 0 {
		return errors.New("no page in it")
	}
	data, err := unix.Mmap(int(s.file.Fd()), 0, int(s.size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return &os.PathError{Op: "map", Path: s.file.path, Err: err}
	}
	s.data = data
	return nil
}

// record returns the record of a page, nil if it has none.
func (s *spool) record(id uint64) []byte {
	if id >= uint64(len(s.index)) || s.index[id] == 0 {
		return nil
	}
	return s.data[int64(s.index[id]-1)*recordUnit:]
}

// from returns a page's bytes, or of a condensed one what is left of them.
func (s *spool) from(id uint64) ([]byte, error) {
	r := s.record(id)
	if r == nil {
		return nil, fmt.Errorf("page %d did not look like one", id)
	}
	return r[recordHeader:][:binary.LittleEndian.Uint32(r)], nil
}

// hash returns the CRC-32 of the elements that a condensed page had, and their
// length; 0 for another page.
func (s *spool) hash(id uint64) (crc uint32, n uint64) {
	r := s.record(id)
	if r == nil {
		return 0, 0
	}
	return binary.LittleEndian.Uint32(r[4:]), binary.LittleEndian.Uint64(r[8:])
}

func (s *spool) Close() error {
	var err error
	if s.data != nil {
		err = unix.Munmap(s.data)
	}
	return errors.Join(err, s.file.Close())
}

// condense appends to room a leaf page with the same keys as b's, all of which must
// be revisions, and values that begin like b's as far as contentsReader reads them.
// It returns the CRC-32 and the length of b's keys and values, which lie without a
// gap, as bbolt writes them. What is otherwise is not condensed.
func condense(room, b []byte) (page []byte, crc uint32, n uint64, ok bool) {
	le := binary.LittleEndian
	count := int(le.Uint16(b[10:]))
	begin := pageHeader + count*elementSize
	if count == 0 || begin > len(b) {
		return nil, 0, 0, false
	}
	page = append(room, b[:begin]...)
	end := begin
	for at := pageHeader; at < begin; at += elementSize {
		e := b[at : at+elementSize]
		ksize, vsize := le.Uint32(e[8:]), le.Uint32(e[12:])
		if le.Uint32(e) != 0 || at+int(le.Uint32(e[4:])) != end || uint64(end)+uint64(ksize)+uint64(vsize) > uint64(len(b)) {
			return nil, 0, 0, false
		}
		k := b[end:][:ksize]
		v := b[end+int(ksize):][:vsize]
		end += int(ksize) + int(vsize)
		key, value, err := keyOf(v)
		if !isRevision(k) || err != nil {
			return nil, 0, 0, false
		}
		le.PutUint32(page[at+4:], uint32(len(page)-at))
		page = append(page, k...)
		was := len(page)
		page = appendHead(page, key, value)
		le.PutUint32(page[at+12:], uint32(len(page)-was))
	}
	return page, crc32.Checksum(b[begin:end], castagnoli), uint64(end - begin), true
}

// beginsWithRevision tells whether the first key of a leaf page is a revision.
func beginsWithRevision(b []byte) bool {
	if len(b) < pageHeader+elementSize || binary.LittleEndian.Uint16(b[10:]) == 0 {
		return false
	}
	k, err := within(b, pageHeader, binary.LittleEndian.Uint32(b[pageHeader+4:]), binary.LittleEndian.Uint32(b[pageHeader+8:]))
	return err == nil && isRevision(k)
}

// isRevision tells whether a key is one of etcd's revisions: main, '_', sub, and
// 't' after those of keys that were deleted.
func isRevision(k []byte) bool {
	return (len(k) == 17 || len(k) == 18 && k[17] == 't') && k[8] == '_'
}

// appendHead appends an encoded mvccpb.KeyValue with the key, and of the value what
// tells of encryption at rest.
func appendHead(b, key, value []byte) []byte {
	b = protowire.AppendBytes(protowire.AppendTag(b, 1, protowire.BytesType), key)
	if bytes.HasPrefix(value, encryptedPrefix) {
		head := value[:min(len(value), len(encryptedPrefix)+3*maxPrefixBytes)]
		b = protowire.AppendBytes(protowire.AppendTag(b, 5, protowire.BytesType), head)
	}
	return b
}
