package store

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // what S3 calls an ETag; nothing is secured by it
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"strconv"

	"github.com/minio/minio-go/v7"
)

const (
	headerChecksum  = "X-Amz-Checksum-Crc32c"
	headerAlgorithm = "X-Amz-Checksum-Algorithm"
	// metaSHA256 is the hash of the whole object in its metadata: S3 itself has
	// none of an object that came in parts.
	metaSHA256 = "Sha256"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Put implements Store. Each request's body is signed with its SHA-256, and
// carries its CRC-32C too, which the store compares and keeps; afterwards what
// the store says that it has is compared with what was sent. Until the parts are
// put together, nothing is to be seen of them.
func (s *S3) Put(ctx context.Context, name string, body io.ReaderAt, meta Meta, progress func(done, total int64)) error {
	p := &putting{s: s, ctx: ctx, name: name, body: body, meta: meta, progress: progress, buffer: make([]byte, min(s.part, max(meta.Size, 1)))}
	err := p.send()
	if err == nil || p.there() {
		return nil
	}
	return s.explain(ctx, "write "+s.where(name), err)
}

// putting is one Put under way.
type putting struct {
	s        *S3
	ctx      context.Context
	name     string
	body     io.ReaderAt
	meta     Meta
	progress func(done, total int64)
	buffer   []byte

	sums []byte // the CRC-32C of each part
	crc  uint32 // of the whole
	sent bool   // whether the request that makes the object was made
}

func (p *putting) send() error {
	if err := p.size(); err != nil {
		return err
	}
	if p.meta.Size <= p.s.part {
		return p.whole()
	}
	return p.parts()
}

// there tells whether the object is there though an error came: the answer to
// the last request may have been lost, or a second one of it been refused.
func (p *putting) there() bool {
	if !p.sent || p.ctx.Err() != nil {
		return false
	}
	has, err := p.has()
	return err == nil && has
}

// size refuses a file that is longer than it is said to be.
func (p *putting) size() error {
	if n, _ := p.body.ReadAt(make([]byte, 1), p.meta.Size); n > 0 {
		return fmt.Errorf("%w: it has more than %d bytes", ErrChanged, p.meta.Size)
	}
	return nil
}

// read fills the buffer with what is at an offset.
func (p *putting) read(from int64) ([]byte, error) {
	block := p.buffer[:min(int64(len(p.buffer)), p.meta.Size-from)]
	n, err := p.body.ReadAt(block, from)
	if n == len(block) {
		return block, nil
	}
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it ends after %d bytes of %d", ErrChanged, from+int64(n), p.meta.Size)
	}
	return nil, err
}

// options are the headers of the object that is made.
func (p *putting) options(checksum, value string) minio.PutObjectOptions {
	about := map[string]string{metaSHA256: p.meta.SHA256, checksum: value}
	for key, value := range p.meta.About {
		about[key] = value
	}
	return minio.PutObjectOptions{
		ContentType: p.meta.ContentType, UserMetadata: about, ServerSideEncryption: p.s.sse,
		DisableContentSha256: true, // of chunks, each by itself: the whole body's is signed
	}
}

// whole sends a small object in one request.
func (p *putting) whole() error {
	block, err := p.read(0)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(block)
	if err := p.meta.compare(int64(len(block)), hex.EncodeToString(sum[:])); err != nil {
		return err
	}
	crc := p.add(block)
	p.sent = true
	_, err = p.s.core.PutObject(sending(p.ctx, block), p.s.at.Bucket, p.s.object(p.name), bytes.NewReader(block), int64(len(block)), "", p.meta.SHA256, p.options(headerChecksum, crc))
	if err != nil {
		return err
	}
	p.progress(p.meta.Size, p.meta.Size)
	return p.check()
}

// add notes the checksum of the next block and returns it as headers have it.
func (p *putting) add(block []byte) string {
	p.crc = crc32.Update(p.crc, castagnoli, block)
	sum := binary.BigEndian.AppendUint32(nil, crc32.Checksum(block, castagnoli))
	p.sums = append(p.sums, sum...)
	return base64.StdEncoding.EncodeToString(sum)
}

// parts sends a large object in parts, those excepted that an interrupted upload
// has brought there.
func (p *putting) parts() error {
	upload, have, err := p.begin()
	if err != nil {
		return err
	}
	var complete []minio.CompletePart
	whole := sha256.New()
	for from := int64(0); from < p.meta.Size; from += p.s.part {
		block, err := p.read(from)
		if err != nil {
			return err
		}
		whole.Write(block)
		part, err := p.part(upload, len(complete)+1, block, have)
		if err != nil {
			return err
		}
		complete = append(complete, part)
		p.progress(from+int64(len(block)), p.meta.Size)
	}
	if err := p.meta.compare(p.meta.Size, hex.EncodeToString(whole.Sum(nil))); err != nil {
		return errors.Join(err, p.s.abort(p.ctx, p.s.object(p.name), upload))
	}
	p.sent = true
	if _, err := p.s.core.CompleteMultipartUpload(p.ctx, p.s.at.Bucket, p.s.object(p.name), upload, complete, minio.PutObjectOptions{}); err != nil {
		return err
	}
	return p.check()
}

// begin finds the upload that was interrupted last, or begins one.
func (p *putting) begin() (upload string, have map[int]minio.ObjectPart, err error) {
	object := p.s.object(p.name)
	unfinished, err := p.s.unfinished(p.ctx, object)
	if err != nil {
		return "", nil, err
	}
	for _, u := range unfinished {
		if u.Key == object {
			upload = u.UploadID // they are in the order in which they were begun
		}
	}
	if upload != "" {
		have, err = p.s.partsOf(p.ctx, object, upload)
		return upload, have, err
	}
	upload, err = p.s.core.NewMultipartUpload(p.ctx, p.s.at.Bucket, object, p.options(headerAlgorithm, "CRC32C"))
	if err == nil && upload == "" {
		err = fmt.Errorf("%w: it begins no upload", ErrRubbish)
	}
	return upload, nil, err
}

// part sends a part, unless the store has it.
func (p *putting) part(upload string, number int, block []byte, have map[int]minio.ObjectPart) (minio.CompletePart, error) {
	crc := p.add(block)
	part, ok := have[number]
	if !ok || !samePart(part, block, crc) {
		sum := sha256.Sum256(block)
		var err error
		part, err = p.s.core.PutObjectPart(sending(p.ctx, block), p.s.at.Bucket, p.s.object(p.name), upload, number, bytes.NewReader(block), int64(len(block)),
			minio.PutObjectPartOptions{Sha256Hex: hex.EncodeToString(sum[:]), CustomHeader: http.Header{headerChecksum: {crc}}, DisableContentSha256: true})
		if err != nil {
			return minio.CompletePart{}, err
		}
		if part.ETag == "" || part.ChecksumCRC32C != "" && part.ChecksumCRC32C != crc {
			return minio.CompletePart{}, fmt.Errorf("%w: it takes part %d without an ETag, or as another one", ErrRubbish, number)
		}
	}
	return minio.CompletePart{PartNumber: number, ETag: part.ETag, ChecksumCRC32C: crc}, nil
}

// samePart tells whether the store has the block as a part already.
func samePart(part minio.ObjectPart, block []byte, crc string) bool {
	if part.Size != int64(len(block)) || part.ETag == "" {
		return false
	}
	if part.ChecksumCRC32C != "" {
		return part.ChecksumCRC32C == crc
	}
	sum := md5.Sum(block) //nolint:gosec // as above
	return part.ETag == hex.EncodeToString(sum[:])
}

// check compares what the store says that it has with what was sent. What is not
// the same is taken away again.
func (p *putting) check() error {
	has, err := p.has()
	if err != nil || has {
		return err
	}
	return errors.Join(fmt.Errorf("%w: it does not have what was sent, as its size, its checksum or its metadata tells", ErrRubbish), p.s.Delete(p.ctx, p.name))
}

func (p *putting) has() (bool, error) {
	info, err := p.s.stat(p.ctx, p.name)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return info.is(p.meta) && (info.ChecksumCRC32C == "" || p.sameChecksum(info.ChecksumCRC32C)), nil
}

// sameChecksum tells whether the store's checksum is that of the whole, or the
// one over those of the parts, with or without their number.
func (p *putting) sameChecksum(got string) bool {
	whole := base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, p.crc))
	parts := base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.Checksum(p.sums, castagnoli)))
	return got == whole || got == parts || got == parts+"-"+strconv.Itoa(len(p.sums)/crc32.Size)
}

// stated is what the store says of an object.
type stated struct{ minio.ObjectInfo }

// is tells whether it is of the size and the hash.
func (o stated) is(meta Meta) bool {
	return o.Size == meta.Size && o.UserMetadata[metaSHA256] == meta.SHA256
}

func (s *S3) stat(ctx context.Context, name string) (stated, error) {
	info, err := s.core.StatObject(ctx, s.at.Bucket, s.object(name), minio.StatObjectOptions{Checksum: true})
	if err != nil {
		return stated{}, s.explain(ctx, "look at "+s.where(name), err)
	}
	return stated{info}, nil
}

// Has implements Store.
func (s *S3) Has(ctx context.Context, name string, meta Meta) (bool, error) {
	info, err := s.stat(ctx, name)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil && info.is(meta), err
}

// unfinished are the uploads that were begun and not ended, of objects whose
// names begin so.
func (s *S3) unfinished(ctx context.Context, begin string) ([]minio.ObjectMultipartInfo, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var list []minio.ObjectMultipartInfo
	for upload := range s.core.ListIncompleteUploads(ctx, s.at.Bucket, begin, true) {
		if upload.Err != nil {
			return nil, s.explain(ctx, "list unfinished uploads to "+s.at.Bucket+"/"+begin, upload.Err)
		}
		list = append(list, upload)
	}
	return list, ctx.Err()
}

// partsOf are the parts that an unfinished upload has.
func (s *S3) partsOf(ctx context.Context, object, upload string) (map[int]minio.ObjectPart, error) {
	have := map[int]minio.ObjectPart{}
	for after := 0; ; {
		result, err := s.core.ListObjectParts(ctx, s.at.Bucket, object, upload, after, 1000)
		if err != nil {
			return nil, err
		}
		for _, part := range result.ObjectParts {
			have[part.PartNumber] = part
		}
		if !result.IsTruncated || result.NextPartNumberMarker <= after {
			return have, nil
		}
		after = result.NextPartNumberMarker
	}
}

// abort ends an upload and frees what its parts take.
func (s *S3) abort(ctx context.Context, object, upload string) error {
	err := s.core.AbortMultipartUpload(ctx, s.at.Bucket, object, upload)
	if minio.ToErrorResponse(err).Code == minio.NoSuchUpload {
		return nil
	}
	if err != nil {
		return s.explain(ctx, "abort an unfinished upload to "+s.at.Bucket+"/"+object, err)
	}
	return nil
}
