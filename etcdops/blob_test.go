package etcdops

import (
	"bytes"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// A message of the snapshot stream is read as protobuf reads it, wherever it is
// cut into buffers; and what protobuf refuses ends in an error or in a blob that
// the stream's length and trailer refuse, never in a panic.
func FuzzBlob(f *testing.F) {
	whole, err := proto.Marshal(&pb.SnapshotResponse{
		Header: &pb.ResponseHeader{ClusterId: 1 << 60, MemberId: 7, Revision: 300, RaftTerm: 2}, RemainingBytes: 1 << 40, Blob: bytes.Repeat([]byte("page"), 300), Version: "3.7.3",
	})
	if err != nil {
		f.Fatal(err)
	}
	for at := 0; at < len(whole); at += 100 {
		f.Add(whole, at)
		f.Add(whole[:at], at/2)
	}
	f.Add([]byte{0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, 1) // a blob of nearly 2^64 bytes
	f.Fuzz(func(t *testing.T, message []byte, at int) {
		at = min(max(at, 0), len(message))
		var b blob
		err := b.decode(mem.BufferSlice{mem.SliceBuffer(message[:at]), mem.SliceBuffer(message[at:])})
		var want pb.SnapshotResponse
		if proto.Unmarshal(message, &want) != nil {
			return
		}
		if err != nil {
			// Groups are the one thing of protobuf that etcd has never used.
			if len(want.ProtoReflect().GetUnknown()) > 0 {
				return
			}
			t.Fatal(err)
		}
		var got bytes.Buffer
		if err := b.writeTo(&got); err != nil || !bytes.Equal(got.Bytes(), want.Blob) || b.size != len(want.Blob) || b.remaining != want.RemainingBytes {
			t.Errorf("%d bytes of %d, %d remaining of %d, %v", got.Len(), len(want.Blob), b.remaining, want.RemainingBytes, err)
		}
	})
}
