package etcdops

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"
)

// TLS names the PEM files of the client certificate with which etcd is spoken
// to, and of the bundle that checks etcd's own. They are read at each
// connection, so that a rotated certificate is picked up.
type TLS struct {
	Cert string `json:"cert"`
	Key  string `json:"key"`
	CA   string `json:"ca"`
}

// answerTimeout bounds a single small request to a member.
const answerTimeout = 5 * time.Second

func (t TLS) config() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("load etcd client certificate %q: %w", t.Cert, err)
	}
	pem, err := os.ReadFile(t.CA)
	if err != nil {
		return nil, fmt.Errorf("load etcd CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("load etcd CA %q: no PEM certificate in it", t.CA)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, MinVersion: tls.VersionTLS13}, nil
}

// dial makes a client of exactly one member that listens. The caller closes it;
// nothing stays open between operations.
func dial(ctx context.Context, files TLS, endpoint string) (*clientv3.Client, error) {
	if err := reachable(ctx, files, endpoint); err != nil {
		return nil, fmt.Errorf("connect to etcd %s: %w", endpoint, err)
	}
	return connect(ctx, files, endpoint)
}

// socketScheme begins the URL of a member's unix socket, which has no TLS.
const socketScheme = "unix://"

// socketURL is the endpoint of a member at the socket with an absolute path.
func socketURL(path string) string { return socketScheme + path }

// reachable makes one connection and closes it: a member that is not there is
// told apart at once and with its reason, where gRPC would try until the time
// is over.
func reachable(ctx context.Context, files TLS, endpoint string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	connection, err := dialOnce(ctx, files, endpoint)
	if err != nil {
		return err
	}
	err = greet(connection)
	return errors.Join(err, connection.Close())
}

func dialOnce(ctx context.Context, files TLS, endpoint string) (net.Conn, error) {
	if path, ok := strings.CutPrefix(endpoint, socketScheme); ok {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	address, err := url.Parse(endpoint)
	if err != nil {
		return nil, err
	}
	cfg, err := files.config()
	if err != nil {
		return nil, err
	}
	cfg.NextProtos = []string{"h2"}
	return (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", address.Host)
}

// greeting begins an HTTP/2 connection: preface and an empty SETTINGS frame
// (RFC 9113, 3.4).
const greeting = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// greet waits for the server's first byte. In TLS 1.3 a server that refuses our
// certificate says so only after our side of the handshake is done.
func greet(connection net.Conn) error {
	if err := connection.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	if _, err := io.WriteString(connection, greeting); err != nil {
		return err
	}
	_, err := connection.Read(make([]byte, 1))
	return err
}

// connect makes a client of exactly one member, so that no request is answered
// by another one. It may not listen yet.
func connect(ctx context.Context, files TLS, endpoint string) (*clientv3.Client, error) {
	settings := clientv3.Config{Context: ctx, Endpoints: []string{endpoint}}
	if !strings.HasPrefix(endpoint, socketScheme) {
		cfg, err := files.config()
		if err != nil {
			return nil, err
		}
		settings.TLS = cfg
	}
	client, err := newClient(settings)
	if err != nil {
		return nil, fmt.Errorf("connect to etcd %s: %w", endpoint, err)
	}
	return client, nil
}

// A snapshot comes in messages of 32 KiB and a few bytes, for which gRPC's own
// buffers have 1 MiB, cleared each time: a fifth of all work. Its decoder takes
// no others but the program's.
func init() {
	experimental.SetDefaultBufferPool(mem.NewTieredBufferPool(256, 4<<10, 16<<10, 36<<10, 1<<20))
}

// streamWindow is how many bytes of a stream may be on their way.
const streamWindow = 2 << 20

// newClient adds to the settings how every client connects.
func newClient(cfg clientv3.Config) (*clientv3.Client, error) {
	cfg.DialTimeout = answerTimeout
	cfg.Logger = zap.NewNop()
	// A snapshot's server sends on while its bytes are hashed and compressed here.
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithInitialWindowSize(streamWindow), grpc.WithInitialConnWindowSize(streamWindow), grpc.WithConnectParams(grpc.ConnectParams{
		// A member that is being started is asked again soon: gRPC's own backoff
		// goes up to two minutes.
		Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: time.Second},
		MinConnectTimeout: answerTimeout,
	}))
	return clientv3.New(cfg)
}

// closeClient closes a client whose context may be done already, which is no
// error of ours.
func closeClient(client *clientv3.Client) error {
	if err := client.Close(); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("close connection to etcd: %w", err)
	}
	return nil
}

func memberStatus(ctx context.Context, client *clientv3.Client, endpoint string) (*clientv3.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	status, err := client.Status(ctx, endpoint)
	if err != nil {
		return nil, fmt.Errorf("ask etcd %s for its status: %w", endpoint, err)
	}
	return status, nil
}
