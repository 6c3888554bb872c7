package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/encrypt"

	"github.com/nodeagent/nodeagent/hosts"
)

// S3 is a store in a bucket. Objects carry what they are in their metadata.
type S3 struct {
	core minio.Core
	at   hosts.S3
	// key is the access key's id, which is no secret.
	key  string
	sse  encrypt.ServerSide
	part int64
	// way has the connections.
	way *http.Transport
}

// Close ends connections that are idle.
func (s *S3) Close() { s.way.CloseIdleConnections() }

// partSize is how much is sent at once, and so how much is in memory. A bucket
// takes 10,000 parts of an object, so that there is room for 48 GiB; etcd's data
// has 8 at most. It is the least that stores take.
const partSize = 5 << 20

// tries is how often a request is made that failed in a way that may pass.
const tries = 4

// Keys are an access key. It does not print itself.
type Keys struct {
	AccessKey, SecretKey, SessionToken string
}

// String hides the secret part, and so do GoString and Format's other ways.
func (k Keys) String() string { return "access key " + k.AccessKey }

// GoString implements fmt.GoStringer.
func (k Keys) GoString() string { return k.String() }

// OpenS3 is the store in the bucket. It asks nothing of it.
func OpenS3(at hosts.S3, keys Keys) (*S3, error) { return openS3(at, keys, stallPatience, partSize) }

func openS3(at hosts.S3, keys Keys, stall time.Duration, part int64) (*S3, error) {
	endpoint, err := url.Parse(at.Endpoint)
	if err != nil {
		return nil, err
	}
	pool, err := trusted(at.CAFile)
	if err != nil {
		return nil, err
	}
	lookup := minio.BucketLookupDNS
	if at.PathStyle {
		lookup = minio.BucketLookupPath
	}
	way := transport(pool, stall)
	core, err := minio.NewCore(endpoint.Host, &minio.Options{
		Creds:        credentials.NewStaticV4(keys.AccessKey, keys.SecretKey, keys.SessionToken),
		Secure:       endpoint.Scheme == "https",
		Transport:    checking{fresh{way}},
		Region:       at.Region,
		BucketLookup: lookup,
		MaxRetries:   tries,
	})
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", at.Bucket, err)
	}
	s := &S3{core: *core, at: at, key: keys.AccessKey, part: part, way: way}
	switch at.Encryption {
	case hosts.EncryptionS3:
		s.sse = encrypt.NewSSE()
	case hosts.EncryptionKMS:
		if s.sse, err = encrypt.NewSSEKMS(at.KMSKey, nil); err != nil {
			return nil, fmt.Errorf("open bucket %s: %w", at.Bucket, err)
		}
	}
	return s, nil
}

// trusted are the CAs that may vouch for the store, nil for the system's.
func trusted(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the store's CAs: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("read the store's CAs: there is no certificate in %q", file)
	}
	return pool, nil
}

// transport speaks HTTP over connections that end when nothing moves on them.
// It takes no proxy from the environment: the way to the store is the spec's
// business. HTTP/1.1 alone, since in HTTP/2 other streams' bytes would hide that
// one stands still.
func transport(pool *x509.CertPool, stall time.Duration) *http.Transport {
	dialer := &net.Dialer{Timeout: min(stall, 15*time.Second)}
	return &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return newMoving(conn, stall), nil
		},
		TLSClientConfig:        &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    stall,
		IdleConnTimeout:        stall,
		MaxIdleConnsPerHost:    manifestsAtOnce,
		MaxResponseHeaderBytes: 1 << 20,
		DisableCompression:     true, // what is stored is what is meant
		ReadBufferSize:         64 << 10,
		WriteBufferSize:        64 << 10,
	}
}

// moving is a connection that ends when no byte goes either way for too long.
type moving struct {
	net.Conn
	stall time.Duration
}

func newMoving(conn net.Conn, stall time.Duration) *moving {
	m := &moving{conn, stall}
	m.moved(1)
	return m
}

// moved puts the end off. It holds for a Read that waits already.
func (m *moving) moved(n int) {
	if n > 0 {
		_ = m.SetDeadline(time.Now().Add(m.stall)) // of a closed one, which says so itself
	}
}

func (m *moving) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	m.moved(n)
	return n, err
}

func (m *moving) Write(p []byte) (int, error) {
	m.moved(1) // a request begins now, on a connection that may have been idle
	n, err := m.Conn.Write(p)
	m.moved(n)
	return n, err
}

// object is the name in the bucket.
func (s *S3) object(name string) string { return path.Join(s.at.Prefix, name) }

// folder is the beginning of names in the bucket, with a slash at its end.
func (s *S3) folder(dir string) string {
	if folder := path.Join(s.at.Prefix, dir); folder != "" {
		return folder + "/"
	}
	return ""
}

// name is the store's name of an object in the bucket.
func (s *S3) name(object string) string {
	return strings.TrimPrefix(strings.TrimPrefix(object, s.at.Prefix), "/")
}

// List implements Store.
func (s *S3) List(ctx context.Context, dir string) ([]Object, error) {
	ctx, cancel := context.WithCancel(ctx) // ends the listing where we leave early
	defer cancel()
	folder := s.folder(dir)
	var objects []Object
	for object := range s.core.Client.ListObjects(ctx, s.at.Bucket, minio.ListObjectsOptions{Prefix: folder, Recursive: true}) {
		if object.Err != nil {
			return nil, s.explain(ctx, "list "+s.where(dir), object.Err)
		}
		if !strings.HasPrefix(object.Key, folder) {
			return nil, s.explain(ctx, "list "+s.where(dir), fmt.Errorf("%w: it lists %q, which is not in %q", ErrRubbish, object.Key, folder))
		}
		if !strings.HasSuffix(object.Key, "/") { // what some tools make as a folder
			objects = append(objects, Object{Name: s.name(object.Key), Size: object.Size, Modified: object.LastModified})
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return objects, nil
}

// where names an object for errors.
func (s *S3) where(name string) string {
	return fmt.Sprintf("%s/%s", s.at.Bucket, s.object(name))
}

// Get implements Store.
func (s *S3) Get(ctx context.Context, name string, from int64) (io.ReadCloser, error) {
	var opts minio.GetObjectOptions
	if from > 0 {
		if err := opts.SetRange(from, 0); err != nil {
			return nil, err
		}
	}
	body, info, _, err := s.core.GetObject(ctx, s.at.Bucket, s.object(name), opts)
	if err != nil {
		return nil, s.explain(ctx, "read "+s.where(name), err)
	}
	if from > 0 && info.Headers.Get("Content-Range") == "" {
		return nil, errors.Join(s.explain(ctx, "read "+s.where(name), fmt.Errorf("%w: it was asked for a part and sends the whole", ErrRubbish)), body.Close())
	}
	return &explaining{body, func(err error) error { return s.explain(ctx, "read "+s.where(name), err) }}, nil
}

// explaining says what an error of reading means.
type explaining struct {
	io.ReadCloser
	explain func(error) error
}

func (e *explaining) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = e.explain(err)
	}
	return n, err
}

// Tidy implements Store.
func (s *S3) Tidy(ctx context.Context, dir string, except []string) error {
	unfinished, err := s.unfinished(ctx, s.folder(dir))
	if err != nil {
		return err
	}
	spared := map[string]bool{}
	for _, name := range except {
		spared[s.object(name)] = true
	}
	for _, upload := range unfinished {
		if spared[upload.Key] {
			continue
		}
		if err := s.abort(ctx, upload.Key, upload.UploadID); err != nil {
			return err
		}
	}
	return nil
}
