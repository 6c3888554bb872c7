package store

import (
	"bytes"
	"context"
	"io"
	"net/http"
)

// blockKey is under what a context has the block that its request sends.
type blockKey struct{}

// sending is the context of a request whose body is the block.
func sending(ctx context.Context, block []byte) context.Context {
	return context.WithValue(ctx, blockKey{}, block)
}

// fresh gives each try of a request a reader of its own. The S3 client rewinds one
// reader for all of them, which [http.RoundTripper] forbids: an answer may come
// while the transport still reads the body of that try.
type fresh struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (f fresh) RoundTrip(r *http.Request) (*http.Response, error) {
	block, ok := r.Context().Value(blockKey{}).([]byte)
	if ok && r.Body != nil && r.ContentLength == int64(len(block)) {
		own := *r
		own.Body = io.NopCloser(bytes.NewReader(block))
		r = &own
	}
	return f.RoundTripper.RoundTrip(r)
}
