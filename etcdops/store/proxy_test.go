package store

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
)

// TestMain shortens the client's own pauses between tries.
func TestMain(m *testing.M) {
	minio.DefaultRetryUnit, minio.DefaultRetryCap = 5*time.Millisecond, 20*time.Millisecond
	if os.Getenv(uploaderVariable) != "" {
		uploader()
		return
	}
	os.Exit(m.Run())
}

// proxy stands between a client and a real server, and does what networks do.
type proxy struct {
	*httptest.Server
	to string

	mu    sync.Mutex
	n     int
	fault func(n int, r *http.Request) fault
}

// fault is what becomes of a request.
type fault int

const (
	none     fault = iota
	refused        // the connection breaks before the server hears of it
	halved         // in the middle of its body
	unheard        // after the server has done it, before it is answered
	answered       // the test has answered itself
)

// newProxy puts a proxy before the server, plain.
func newProxy(t testing.TB, server string) *proxy {
	to, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{to: to.Host}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

// on sets what becomes of requests from now on; their numbers begin with 1.
func (p *proxy) on(fault func(n int, r *http.Request) fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n, p.fault = 0, fault
}

func (p *proxy) next(r *http.Request) fault {
	p.mu.Lock()
	p.n++
	n, decide := p.n, p.fault
	p.mu.Unlock()
	if decide == nil {
		return none
	}
	return decide(n, r)
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := p.next(r)
	if f == refused {
		panic(http.ErrAbortHandler)
	}
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host, out.RequestURI = "http", p.to, ""
	if f == halved && r.ContentLength > 1 {
		out.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, r.ContentLength/2), failingReader{}))
	}
	answer, err := http.DefaultTransport.RoundTrip(out)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer answer.Body.Close()
	if f == unheard || f == halved {
		_, _ = io.Copy(io.Discard, answer.Body)
		panic(http.ErrAbortHandler)
	}
	for key, values := range answer.Header {
		w.Header()[key] = values
	}
	w.WriteHeader(answer.StatusCode)
	_, _ = io.Copy(w, answer.Body)
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errors.New("the connection broke") }

// describe names a request in messages.
func describe(r *http.Request) string {
	return r.Method + " " + strings.SplitN(r.URL.RequestURI(), "&", 2)[0]
}
