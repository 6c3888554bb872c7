package etcdops

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// blob is what counts of a message of the snapshot stream: its part of the
// database, where it lies in gRPC's buffers. Decoded as other messages are, each
// is copied twice into fresh memory, which takes a tenth of a save.
type blob struct {
	// remaining is how many bytes follow with later messages, as the server says,
	// without the trailer.
	remaining uint64
	parts     [][]byte
	size      int
	buffers   mem.BufferSlice
}

// hold keeps the bytes for one more user, each of whom calls release.
func (b blob) hold()    { b.buffers.Ref() }
func (b blob) release() { b.buffers.Free() }

// writeTo writes the bytes to w.
func (b blob) writeTo(w io.Writer) error {
	for _, part := range b.parts {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// The fields of etcdserverpb.SnapshotResponse, from etcd's rpc.proto.
const (
	fieldRemaining = 2 // remaining_bytes, uint64
	fieldBlob      = 3 // blob, bytes
)

// decode reads a message, whose blob it does not copy.
func (b *blob) decode(message mem.BufferSlice) error {
	r := message.Reader()
	defer r.Close()
	*b = blob{}
	for r.Remaining() > 0 {
		f, err := readField(r)
		if err != nil {
			return err
		}
		switch {
		case f.kind == protowire.VarintType && f.number == fieldRemaining:
			b.remaining = f.value
		case f.kind == protowire.BytesType && f.number == fieldBlob:
			if b.parts, err = r.Peek(f.length, nil); err != nil {
				return err
			}
			b.size = f.length
		}
		if _, err := r.Discard(f.length); err != nil {
			return err
		}
	}
	message.Ref()
	b.buffers = message
	return nil
}

// field is one of a message in protobuf's wire format.
type field struct {
	number protowire.Number
	kind   protowire.Type
	value  uint64 // of a varint
	length int    // of what follows in the message
}

// readField reads a field up to the bytes of it that follow, if it has any.
func readField(r *mem.Reader) (field, error) {
	tag, err := binary.ReadUvarint(r)
	if err != nil {
		return field{}, err
	}
	var f field
	f.number, f.kind = protowire.DecodeTag(tag)
	switch f.kind {
	case protowire.VarintType, protowire.BytesType:
		f.value, err = binary.ReadUvarint(r)
	case protowire.Fixed64Type:
		f.length = 8
	case protowire.Fixed32Type:
		f.length = 4
	default:
		err = fmt.Errorf("field %d has the type %d, which no message of etcd has", f.number, f.kind)
	}
	if err != nil || f.kind == protowire.VarintType {
		return f, err
	}
	if f.kind == protowire.BytesType {
		f.length = int(min(f.value, math.MaxInt))
	}
	if f.length > r.Remaining() {
		return f, fmt.Errorf("field %d: %w", f.number, io.ErrUnexpectedEOF)
	}
	return f, nil
}

// blobCodec decodes the messages of a snapshot stream into blobs.
type blobCodec struct{}

func (blobCodec) Name() string { return "proto" }

func (blobCodec) Marshal(v any) (mem.BufferSlice, error) {
	request, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("encode a %T: it is no message", v)
	}
	encoded, err := proto.Marshal(request)
	return mem.BufferSlice{mem.SliceBuffer(encoded)}, err
}

func (blobCodec) Unmarshal(message mem.BufferSlice, v any) error {
	b, ok := v.(*blob)
	if !ok {
		return fmt.Errorf("decode a %T: it is no blob", v)
	}
	return b.decode(message)
}

// blobStream is a snapshot stream.
type blobStream struct{ grpc.ClientStream }

// Recv returns the next message, which the caller releases.
func (s blobStream) Recv() (blob, error) {
	var b blob
	err := s.RecvMsg(&b)
	return b, err
}

// openStream asks a member for a snapshot.
func openStream(ctx context.Context, connection *grpc.ClientConn) (blobStream, error) {
	stream, err := connection.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, pb.Maintenance_Snapshot_FullMethodName, grpc.ForceCodecV2(blobCodec{}))
	if err != nil {
		return blobStream{}, err
	}
	// An error of sending is told by receiving.
	if err := stream.SendMsg(&pb.SnapshotRequest{}); err != nil && !errors.Is(err, io.EOF) {
		return blobStream{}, err
	}
	return blobStream{stream}, stream.CloseSend()
}
