package etcdops

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

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
		tag, err := binary.ReadUvarint(r)
		if err != nil {
			return err
		}
		number, kind := protowire.DecodeTag(tag)
		skip := uint64(0)
		switch kind {
		case protowire.VarintType:
			value, err := binary.ReadUvarint(r)
			if err != nil {
				return err
			}
			if number == fieldRemaining {
				b.remaining = value
			}
		case protowire.BytesType:
			if skip, err = binary.ReadUvarint(r); err != nil {
				return err
			}
		case protowire.Fixed64Type:
			skip = 8
		case protowire.Fixed32Type:
			skip = 4
		default:
			return fmt.Errorf("field %d has the type %d, which no message of etcd has", number, kind)
		}
		if skip > uint64(r.Remaining()) {
			return fmt.Errorf("field %d: %w", number, io.ErrUnexpectedEOF)
		}
		if number == fieldBlob && kind == protowire.BytesType {
			if b.parts, err = r.Peek(int(skip), nil); err != nil {
				return err
			}
			b.size = int(skip)
		}
		if _, err := r.Discard(int(skip)); err != nil {
			return err
		}
	}
	message.Ref()
	b.buffers = message
	return nil
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
