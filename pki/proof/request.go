package proof

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// request makes one request with a pair and returns the status of the answer,
// and what the port showed of itself, nil for nothing.
//
// It speaks over the bare connection: an http.Transport for each question takes
// more than the question.
func (l *look) request(ctx context.Context, c Check, pair tls.Certificate) (int, *shown, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.Address+c.Path, nil)
	if err != nil {
		return 0, nil, err
	}
	r.Close = true
	if c.Certificate == layout.CertFrontProxyClient {
		// A front proxy is believed about its users; this one may do nothing.
		r.Header.Set("X-Remote-User", "nodeagent:proof")
	}
	conn, shown, err := l.dial(ctx, c.Port, &pair)
	if err != nil {
		return 0, shown, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	// In TLS 1.3 a server that refuses the pair says so after the handshake: its
	// alert may be there to read although nothing more can be written.
	writeErr := r.Write(conn)
	response, err := http.ReadResponse(bufio.NewReader(conn), r)
	if err != nil {
		return 0, shown, errors.Join(err, writeErr)
	}
	return response.StatusCode, shown, nil
}

// alert is what the server said instead of going on, empty where it said
// nothing.
func alert(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" {
		return op.Err.Error()
	}
	return ""
}

// refusal is what a server said against the pair; empty where the error is
// about something else. TLS alerts of certificates are 42 to 49 (RFC 8446,
// section 6.2), 116 asks for one.
func refusal(err error) string {
	text := alert(err)
	for _, word := range []string{"certificate", "unknown ca", "access denied", "handshake failure"} {
		if strings.Contains(strings.ToLower(text), word) {
			return "refused in the handshake: " + text
		}
	}
	return ""
}
