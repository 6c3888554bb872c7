package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/test/lab"
)

// load is requests to a cluster's API servers and etcd members, from outside
// and without a pause, while something is done to the cluster. Each request is
// made on a connection of its own, with the certificates that lie on the first
// host at that moment: what does not fit together is found within a request's
// time.
//
// A request may have to go to another host, as every client of several servers
// does when the one that it talks to is restarted: where the connection breaks,
// where the server says Retry-After, and where the API server is not ready, which
// load balancers see by /readyz. Everything else counts as a failure: an answer
// that is an error, a certificate that one side does not trust, or that no host
// answers within patience; and that an API server denies what is allowed, ready or
// not, since no client asks another one then.
type load struct {
	cluster  *trio
	patience time.Duration
	stop     context.CancelFunc
	done     sync.WaitGroup
	count    atomic.Int64
	moved    atomic.Int64

	mu       sync.Mutex
	failures []string
}

// loadPatience is for how long no host may answer; a client with retries
// outlives that. Where there is one host alone nobody answers while it restarts
// its etcd and its API server, which wait for each other.
const (
	loadPatience = 10 * time.Second
	lonePatience = 2 * time.Minute
)

// target is one kind of request.
type target struct {
	name   string
	port   int
	ca     string // signs what the port shows
	pair   string // that the client presents
	method string
	path   string
	body   string
	ready  string // asked first; empty where a load balancer asks nothing
}

var targets = []target{
	{"apiserver", 6443, layout.CAK8sServer, layout.CertAdmin, http.MethodGet, "/api/v1/namespaces/default", "", "/readyz"},
	{
		"etcd read", 2379, layout.CAEtcdServer, layout.CertNodeagentEtcdClient, http.MethodPost, "/v3/kv/range",
		`{"key":"` + base64.StdEncoding.EncodeToString([]byte("/load")) + `"}`, "",
	},
	{
		"etcd write", 2379, layout.CAEtcdServer, layout.CertNodeagentEtcdClient, http.MethodPost, "/v3/kv/put",
		`{"key":"` + base64.StdEncoding.EncodeToString([]byte("/load")) + `","value":"eA=="}`, "",
	},
}

// startLoad begins; report ends it.
func (c *trio) startLoad() *load { return c.startPatientLoad(loadPatience) }

func (c *trio) startPatientLoad(patience time.Duration) *load {
	ctx, cancel := context.WithCancel(c.ctx)
	l := &load{cluster: c, patience: patience, stop: cancel}
	for _, kind := range targets {
		l.done.Go(func() {
			for ctx.Err() == nil {
				if err := l.request(ctx, kind); err != nil && ctx.Err() == nil {
					l.mu.Lock()
					l.failures = append(l.failures, fmt.Sprintf("%s %s: %v", time.Now().UTC().Format("15:04:05.000"), kind.name, err))
					l.mu.Unlock()
				}
				l.count.Add(1)
			}
		})
	}
	return l
}

// end stops the load and returns what failed.
func (l *load) end() (requests, moved int64, failures []string) {
	l.stop()
	l.done.Wait()
	return l.count.Load(), l.moved.Load(), l.failures
}

// report ends the load, logs what was asked meanwhile, and fails the test for
// each request that failed.
func (l *load) report(t *testing.T, what string) {
	t.Helper()
	requests, moved, failures := l.end()
	t.Logf("%s; %d requests meanwhile, %d tries at another host, %d failures", what, requests, moved, len(failures))
	failFor(t, failures)
}

// failFor fails the test for requests that failed.
func failFor(t *testing.T, failures []string) {
	t.Helper()
	if len(failures) > 0 {
		t.Errorf("requests that failed, by kind:\n%s", strings.Join(kinds(failures), "\n"))
	}
}

// kinds groups failures that say the same at different moments, each with its
// count and its first moment.
func kinds(failures []string) []string {
	count, first := map[string]int{}, map[string]string{}
	var order []string
	for _, f := range failures {
		moment, what, _ := strings.Cut(f, " ")
		if count[what]++; count[what] == 1 {
			first[what] = moment
			order = append(order, what)
		}
	}
	for i, what := range order {
		order[i] = fmt.Sprintf("%6d times, first %s: %s", count[what], first[what], what)
	}
	return order
}

// request makes one request, at the hosts one after another until one answers.
func (l *load) request(ctx context.Context, kind target) error {
	began := time.Now()
	for n := 0; ; n++ {
		h := l.cluster.hosts[n%len(l.cluster.hosts)]
		err := l.once(ctx, kind, n%len(l.cluster.hosts))
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if !remade(err) {
			return fmt.Errorf("at %s: %w", h.Name(), err)
		}
		l.moved.Add(1)
		if time.Since(began) > l.patience {
			return fmt.Errorf("no host answered for %s, at last %s: %w", l.patience, h.Name(), err)
		}
		_ = lab.Within(ctx, 50*time.Millisecond, "the next try", func(context.Context) error { return errors.New("wait") })
	}
}

// remade tells whether a connection broke or was refused, which a client mends
// by making another one.
//
// etcd's gateway is itself a client of its member, and says so (code 14,
// Unavailable) while that one stops or starts, or the leader changes.
func remade(err error) bool {
	if errors.Is(err, errNotReady) || strings.Contains(err.Error(), `{"code":14,`) {
		return true
	}
	// net/http's error, which it does not export, of a server that closes a
	// connection instead of reading the request.
	if strings.Contains(err.Error(), "http: server closed idle connection") {
		return true
	}
	var timeout interface{ Timeout() bool }
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &timeout) && timeout.Timeout()
}

// once makes one request at one host.
func (l *load) once(ctx context.Context, kind target, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client, err := l.client(kind)
	if err != nil {
		return err
	}
	server := fmt.Sprintf("https://192.0.2.%d:%d", 11+n, kind.port)
	var notReady error
	if kind.ready != "" {
		notReady = ask(ctx, client, http.MethodGet, server+kind.ready, "")
		if answer := (*answerError)(nil); notReady != nil && !errors.As(notReady, &answer) {
			return notReady
		}
	}
	err = ask(ctx, client, kind.method, server+kind.path, kind.body)
	if answer := (*answerError)(nil); notReady != nil && !(errors.As(err, &answer) && answer.code == http.StatusForbidden) {
		return fmt.Errorf("%w: %w", errNotReady, notReady)
	}
	return err
}

// errNotReady is the error of a server that another one is to be asked for.
var errNotReady = errors.New("not ready")

// answerError is an answer that is an error.
type answerError struct {
	code         int
	status, body string
}

func (e *answerError) Error() string { return e.status + ": " + e.body }

func ask(ctx context.Context, client *http.Client, method, url, body string) error {
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode == http.StatusOK {
		return err
	}
	err = &answerError{answer.StatusCode, answer.Status, string(bytes.TrimSpace(content))}
	if answer.Header.Get("Retry-After") != "" {
		err = fmt.Errorf("%w: %w", errNotReady, err)
	}
	return err
}

// client reads the certificates as they are on the first host now.
func (l *load) client(kind target) (*http.Client, error) {
	root := l.cluster.hosts[0].Root()
	read := func(path string) ([]byte, error) { return os.ReadFile(filepath.Join(root, path)) }
	bundle, err := read(layout.Root("").Trust(kind.ca))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(bundle)
	pair, err := l.pair(read, kind.pair)
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return l.cluster.lab.DialWire(ctx, network, address)
		},
		TLSClientConfig:   &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}},
		DisableKeepAlives: true,
	}}, nil
}

// pair reads a certificate with its key. The link to the pair may be switched
// between the two reads, so they are read until they fit together.
func (l *load) pair(read func(string) ([]byte, error), name string) (pair tls.Certificate, err error) {
	files := layout.Root("").Certificate(name)
	for range 20 {
		cert, certErr := read(files.Cert)
		key, keyErr := read(files.Key)
		if err = errors.Join(certErr, keyErr); err != nil {
			continue
		}
		if pair, err = tls.X509KeyPair(cert, key); err == nil {
			return pair, nil
		}
	}
	return pair, err
}
