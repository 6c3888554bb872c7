package etcdops

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"math/bits"
)

// bbolt's file format, from go.etcd.io/bbolt/internal/common (page.go, meta.go,
// inode.go). A file is checked with our own reader, in which every offset is
// compared with its bounds, before bbolt maps it: bbolt trusts what it reads and
// answers damage with a panic or a memory fault.
const (
	pageHeader  = 16 // id 8, flags 2, count 2, overflow 4
	elementSize = 16 // branch: pos 4, ksize 4, page 8; leaf: flags 4, pos 4, ksize 4, vsize 4
	bucketSize  = 16 // root 8, sequence 8

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagMeta     = 0x04
	flagFreelist = 0x10

	flagBucket = 0x01 // of a leaf's element

	boltMagic   = 0xED0CDAED
	boltVersion = 2
	metaSize    = 64
	noFreelist  = math.MaxUint64

	minPageSize, maxPageSize = 512, 1 << 16
	maxDepth                 = 64
)

// meta is a bbolt meta page.
type meta struct {
	pageSize uint32
	root     uint64
	freelist uint64
	pages    uint64 // the high water mark: pages in use are below it
	txid     uint64
}

var errNoMeta = errors.New("no bbolt database begins in it")

// readMeta reads the meta page that begins b.
func readMeta(b []byte) (meta, error) {
	if len(b) < pageHeader+metaSize {
		return meta{}, errNoMeta
	}
	m := b[pageHeader : pageHeader+metaSize]
	le := binary.LittleEndian
	if le.Uint32(m) != boltMagic || le.Uint32(m[4:]) != boltVersion {
		return meta{}, errNoMeta
	}
	h := fnv.New64a()
	h.Write(m[:56])
	if h.Sum64() != le.Uint64(m[56:]) {
		return meta{}, errors.New("meta page does not match its checksum")
	}
	found := meta{pageSize: le.Uint32(m[8:]), root: le.Uint64(m[16:]), freelist: le.Uint64(m[32:]), pages: le.Uint64(m[40:]), txid: le.Uint64(m[48:])}
	if found.pageSize < minPageSize || found.pageSize > maxPageSize || bits.OnesCount32(found.pageSize) != 1 {
		return meta{}, fmt.Errorf("page size %d is not possible", found.pageSize)
	}
	if found.pages < 4 || found.pages > math.MaxInt64/maxPageSize {
		return meta{}, fmt.Errorf("%d pages are not possible", found.pages)
	}
	return found, nil
}

// findMeta returns the meta page that bbolt would choose: of the first two
// pages the valid one with the higher transaction.
func findMeta(f io.ReaderAt, size int64) (meta, error) {
	at := func(offset int64) (meta, error) {
		b := make([]byte, pageHeader+metaSize)
		if offset+int64(len(b)) > size {
			return meta{}, errNoMeta
		}
		if _, err := f.ReadAt(b, offset); err != nil {
			return meta{}, err
		}
		return readMeta(b)
	}
	first, firstErr := at(0)
	if firstErr == nil {
		if second, err := at(int64(first.pageSize)); err == nil && second.pageSize == first.pageSize && second.txid > first.txid {
			return second, nil
		}
		return first, nil
	}
	for pageSize := int64(minPageSize); pageSize <= maxPageSize; pageSize *= 2 {
		if second, err := at(pageSize); err == nil && int64(second.pageSize) == pageSize {
			return second, nil
		}
	}
	return meta{}, firstErr
}

// pageWalk checks the structure of a database: every page that is reachable
// lies within the file, names itself, is referenced once, and holds elements
// that lie within it with keys in order. It is what bbolt's Check does, on
// bytes that may be anything.
type pageWalk struct {
	// from returns the bytes from the beginning of a page, at least those that its
	// elements need.
	from func(id uint64) ([]byte, error)
	meta meta
	seen []uint64 // bit by page
	// tick is called for each page, to notice that nobody waits any more.
	tick func() error
	// visitor, if set, is shown what is in etcd's buckets, in order.
	visitor pageVisitor
	buckets int // how many buckets the page that is read lies in
}

// pageVisitor is shown what a walk finds.
type pageVisitor interface {
	// enter begins a bucket.
	enter(bucket []byte) error
	// page begins a page of the tree; id is 0 for one that lies in a bucket's header.
	page(id uint64)
	pair(key, value []byte) error
}

// enough refuses a database of fewer bytes than its meta page tells of.
func (m meta) enough(size int64) error {
	if need := int64(m.pages) * int64(m.pageSize); need > size {
		return fmt.Errorf("%w: %d bytes of %d", ErrTruncated, size, need)
	}
	return nil
}

// checkPages checks the database in data, whose meta page is m.
func checkPages(data []byte, m meta, tick func() error) error {
	if err := m.enough(int64(len(data))); err != nil {
		return err
	}
	from := func(id uint64) ([]byte, error) { return data[id*uint64(m.pageSize):], nil }
	return (&pageWalk{from: from, meta: m, tick: tick}).all()
}

// all walks through the database.
func (w *pageWalk) all() error {
	m := w.meta
	w.seen = make([]uint64, (m.pages+63)/64)
	w.mark(0)
	w.mark(1)
	if err := w.bucket(m.root, 0); err != nil {
		return err
	}
	return w.freelist()
}

// mark notes a page and tells whether it was noted before.
func (w *pageWalk) mark(page uint64) (again bool) {
	word, bit := page/64, uint64(1)<<(page%64)
	again = w.seen[word]&bit != 0
	w.seen[word] |= bit
	return again
}

// page returns the bytes of a page with those that it overflows into.
func (w *pageWalk) page(id uint64) ([]byte, error) {
	if id < 2 || id >= w.meta.pages {
		return nil, fmt.Errorf("page %d is out of range", id)
	}
	b, err := w.from(id)
	if err != nil {
		return nil, err
	}
	if got := binary.LittleEndian.Uint64(b); got != id {
		return nil, fmt.Errorf("page %d calls itself %d", id, got)
	}
	span := uint64(binary.LittleEndian.Uint32(b[12:])) + 1
	if id+span > w.meta.pages {
		return nil, fmt.Errorf("page %d overflows the file", id)
	}
	for i := range span {
		if w.mark(id + i) {
			return nil, fmt.Errorf("page %d is referenced twice", id+i)
		}
	}
	return b[:min(span*uint64(w.meta.pageSize), uint64(len(b)))], w.tick()
}

func (w *pageWalk) bucket(root uint64, depth int) error {
	return w.tree(root, nil, nil, depth)
}

// tree checks the page and those below it; its keys are at least low and below
// high, where these are not nil.
func (w *pageWalk) tree(id uint64, low, high []byte, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("page %d is nested too deep", id)
	}
	b, err := w.page(id)
	if err != nil {
		return err
	}
	if w.visitor != nil {
		w.visitor.page(id)
	}
	if err := w.elements(b, low, high, depth); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// elements checks the elements of a page, which begins with its header.
func (w *pageWalk) elements(b, low, high []byte, depth int) error {
	flags, count := binary.LittleEndian.Uint16(b[8:]), int(binary.LittleEndian.Uint16(b[10:]))
	if pageHeader+count*elementSize > len(b) {
		return fmt.Errorf("%d elements do not fit", count)
	}
	switch flags {
	case flagBranch:
		return w.branch(b, count, low, high, depth)
	case flagLeaf:
		return w.leaf(b, count, low, high, depth)
	default:
		return fmt.Errorf("flags %#x are those of no tree page", flags)
	}
}

func (w *pageWalk) branch(b []byte, count int, low, high []byte, depth int) error {
	if count == 0 {
		return errors.New("a branch without children")
	}
	le := binary.LittleEndian
	key := func(i int) ([]byte, error) {
		at := pageHeader + i*elementSize
		return within(b, at, le.Uint32(b[at:]), le.Uint32(b[at+4:]))
	}
	this, err := key(0)
	if err != nil {
		return err
	}
	for i := range count {
		next := high
		if i+1 < count {
			if next, err = key(i + 1); err != nil {
				return err
			}
		}
		if err := inOrder(this, low, next, i == 0); err != nil {
			return err
		}
		if err := w.tree(le.Uint64(b[pageHeader+i*elementSize+8:]), this, next, depth+1); err != nil {
			return err
		}
		low, this = this, next
	}
	return nil
}

func (w *pageWalk) leaf(b []byte, count int, low, high []byte, depth int) error {
	le := binary.LittleEndian
	for i := range count {
		at := pageHeader + i*elementSize
		ksize := le.Uint32(b[at+8:])
		key, err := within(b, at, le.Uint32(b[at+4:]), ksize)
		if err != nil {
			return err
		}
		value, err := within(b, at+int(le.Uint32(b[at+4:])), ksize, le.Uint32(b[at+12:]))
		if err != nil {
			return err
		}
		if err := inOrder(key, low, high, i == 0); err != nil {
			return err
		}
		low = key
		nested := le.Uint32(b[at:])&flagBucket != 0
		if err := w.show(key, value, nested); err != nil {
			return err
		}
		if !nested {
			continue
		}
		if err := w.child(value, depth+1); err != nil {
			return fmt.Errorf("bucket %q: %w", key, err)
		}
	}
	return nil
}

// show shows an element to the visitor: etcd has buckets, and pairs in these.
func (w *pageWalk) show(key, value []byte, bucket bool) error {
	switch {
	case w.visitor == nil:
		return nil
	case bucket && w.buckets == 0:
		return w.visitor.enter(key)
	case !bucket && w.buckets == 1:
		return w.visitor.pair(key, value)
	case bucket:
		return fmt.Errorf("%q is a bucket in a bucket", key)
	default:
		return fmt.Errorf("%q is no bucket", key)
	}
}

// child checks the bucket whose header and, if it is small, whose only page is
// value.
func (w *pageWalk) child(value []byte, depth int) error {
	if len(value) < bucketSize {
		return errors.New("its header does not fit")
	}
	w.buckets++
	defer func() { w.buckets-- }()
	if root := binary.LittleEndian.Uint64(value); root != 0 {
		return w.bucket(root, depth)
	}
	if len(value) < bucketSize+pageHeader {
		return errors.New("its page does not fit")
	}
	page := value[bucketSize:]
	if flags := binary.LittleEndian.Uint16(page[8:]); flags != flagLeaf {
		return fmt.Errorf("flags %#x of its page are not a leaf's", flags)
	}
	if w.visitor != nil {
		w.visitor.page(0)
	}
	return w.elements(page, nil, nil, depth)
}

// within returns size bytes of b that begin pos bytes after at.
func within(b []byte, at int, pos, size uint32) ([]byte, error) {
	begin := uint64(at) + uint64(pos)
	end := begin + uint64(size)
	if end > uint64(len(b)) {
		return nil, fmt.Errorf("an element ends at %d of %d", end, len(b))
	}
	return b[begin:end], nil
}

// inOrder checks a key: above low (the first of a page may equal it) and below
// high, where these are not nil.
func inOrder(key, low, high []byte, first bool) error {
	if low != nil {
		if c := bytes.Compare(low, key); c > 0 || c == 0 && !first {
			return fmt.Errorf("key %x is out of order", key)
		}
	}
	if high != nil && bytes.Compare(key, high) >= 0 {
		return fmt.Errorf("key %x is out of order", key)
	}
	return nil
}

// freelist checks that no free page is in use or named twice, and, as the list
// is then complete, that no page is lost. etcd itself writes none.
func (w *pageWalk) freelist() error {
	if w.meta.freelist == noFreelist {
		return nil
	}
	b, err := w.page(w.meta.freelist)
	if err != nil {
		return fmt.Errorf("free list: %w", err)
	}
	le := binary.LittleEndian
	if flags := le.Uint16(b[8:]); flags != flagFreelist {
		return fmt.Errorf("free list: flags %#x are not its own", flags)
	}
	ids, count := b[pageHeader:], uint64(le.Uint16(b[10:]))
	if count == math.MaxUint16 {
		count, ids = le.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		return fmt.Errorf("free list: %d pages do not fit", count)
	}
	for i := range count {
		id := le.Uint64(ids[i*8:])
		if id < 2 || id >= w.meta.pages {
			return fmt.Errorf("free list: page %d is out of range", id)
		}
		if w.mark(id) {
			return fmt.Errorf("free list: page %d is in use or free twice", id)
		}
	}
	for id := range w.meta.pages {
		if w.seen[id/64]&(1<<(id%64)) == 0 {
			return fmt.Errorf("page %d is neither in use nor free", id)
		}
	}
	return nil
}
