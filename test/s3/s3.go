// Package s3 starts a real S3 server for tests: versitygw over a folder of its
// own, on loopback, with TLS or without.
//
// The executable is built by "go run ./test/servers/build s3". Without it a test
// is skipped, and fails where CI=true.
package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/nodeagent/nodeagent/test/certs"
	"github.com/nodeagent/nodeagent/test/servers"
)

// The root account of every server.
const (
	AccessKey = "test-access"
	SecretKey = "test-secret-key"
)

// Region is that of every server.
const Region = "us-east-1"

// patience is for how long a server may take to start or to end.
const patience = 2 * time.Minute

// Server is an S3 server that ends with its test.
type Server struct {
	// URL is where it listens, "https://127.0.0.1:40613", and CAFile the CA of its
	// certificate, empty without TLS.
	URL, CAFile string
	// Dir has its buckets as folders, and their objects as files.
	Dir string

	t       testing.TB
	program string
	args    []string
	log     string
	run     *exec.Cmd
	ended   chan struct{}
}

// Option changes how a server is started.
type Option func(*settings)

type settings struct {
	plain    bool
	versions bool
	dir      string
}

// Plain leaves TLS away.
func Plain() Option { return func(s *settings) { s.plain = true } }

// Versions lets buckets keep versions and lock objects.
func Versions() Option { return func(s *settings) { s.versions = true } }

// Over keeps the buckets in another folder than one of the test's own, such as
// one of a file system that is soon full.
func Over(dir string) Option { return func(s *settings) { s.dir = dir } }

// Program is the executable. The test is skipped when it is not built; see the
// package.
func Program(t testing.TB) string {
	t.Helper()
	var file string
	servers.Require(t, "runs an S3 server", func() error {
		builder, err := servers.New(t.Output())
		if err == nil {
			file, err = builder.FindS3()
		}
		return err
	}, "CI=true")
	return file
}

// Start starts a new server without buckets. It returns when the server answers.
func Start(t testing.TB, opts ...Option) *Server {
	t.Helper()
	program := Program(t)
	var set settings
	for _, opt := range opts {
		opt(&set)
	}
	dir := t.TempDir()
	s := &Server{Dir: set.dir, t: t, program: program, log: filepath.Join(dir, "log")}
	if s.Dir == "" {
		s.Dir = folder(t, dir, "buckets")
	}
	listen, err := servers.Reserve(t, "127.0.0.1:0")
	if err != nil {
		t.Fatalf("find a port for the S3 server: %v", err)
	}
	s.URL = "http://" + listen
	s.args = []string{"--port", listen, "--region", Region, "--quiet"}
	if !set.plain {
		s.URL = "https://" + listen
		cert, key := Certificate(t, dir)
		s.CAFile = cert
		s.args = append(s.args, "--cert", cert, "--key", key)
	}
	// Metadata in files: not every file system has extended attributes.
	s.args = append(s.args, "posix", "--sidecar", folder(t, dir, "metadata"))
	if set.versions {
		s.args = append(s.args, "--versioning-dir", folder(t, dir, "versions"))
	}
	s.args = append(s.args, s.Dir)
	t.Cleanup(s.end)
	s.Restart()
	return s
}

func folder(t testing.TB, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// Restart starts the server, again if it runs.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	file, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer file.Close()
	cmd := exec.Command(s.program, s.args...)
	cmd.Stdout, cmd.Stderr = file, file
	cmd.Env = []string{"ROOT_ACCESS_KEY=" + AccessKey, "ROOT_SECRET_KEY=" + SecretKey, "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // with a killed test
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread() // the signal comes when the thread ends that started it
		defer close(ended)
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		_ = cmd.Wait() // its log says why
	}()
	if err := <-started; err != nil {
		s.t.Fatalf("start the S3 server: %v", err)
	}
	s.run, s.ended = cmd, ended
	s.await()
}

// await waits until the server answers.
func (s *Server) await() {
	s.t.Helper()
	client := s.Client()
	for deadline := time.Now().Add(patience); ; {
		_, err := client.ListBuckets(context.Background())
		if err == nil {
			return
		}
		select {
		case <-s.ended:
			s.t.Fatalf("the S3 server ended: %s", tail(s.log))
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the S3 server does not answer after %s: %v; its log:\n%s", patience, err, tail(s.log))
		}
	}
}

// Stop ends the server, if it runs. Its address stays its own.
func (s *Server) Stop() {
	s.t.Helper()
	if s.run == nil {
		return
	}
	_ = s.run.Process.Signal(syscall.SIGCONT) // a frozen one ends, too
	_ = s.run.Process.Kill()                  // it must stand that, as stores do
	<-s.ended
	s.run = nil
}

// Freeze lets the server hang until Thaw.
func (s *Server) Freeze() { s.signal(syscall.SIGSTOP) }

// Thaw ends Freeze.
func (s *Server) Thaw() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(signal syscall.Signal) {
	s.t.Helper()
	if err := s.run.Process.Signal(signal); err != nil {
		s.t.Fatalf("send %v to the S3 server: %v", signal, err)
	}
}

func (s *Server) end() {
	s.Stop()
	if s.t.Failed() {
		s.t.Logf("the end of the log of the S3 server:\n%s", tail(s.log))
	}
}

// Client is a client of the root account.
func (s *Server) Client() *minio.Client {
	s.t.Helper()
	return Connect(s.t, s.URL, s.CAFile, nil)
}

// Connect makes a client of the root account of a server at the URL, whose
// certificate the CA file checks where it has one. Connections are made by dial,
// or as usual where that is nil.
func Connect(t testing.TB, url, caFile string, dial func(ctx context.Context, network, address string) (net.Conn, error)) *minio.Client {
	t.Helper()
	host := strings.TrimPrefix(strings.TrimPrefix(url, "https://"), "http://")
	transport := &http.Transport{DisableKeepAlives: true, DialContext: dial}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	client, err := minio.New(host, &minio.Options{
		Creds: credentials.NewStaticV4(AccessKey, SecretKey, ""), Secure: caFile != "",
		Transport: transport, Region: Region, BucketLookup: minio.BucketLookupPath, MaxRetries: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// Bucket makes a bucket; locked, it can lock objects.
func (s *Server) Bucket(name string, locked bool) {
	s.t.Helper()
	err := s.Client().MakeBucket(context.Background(), name, minio.MakeBucketOptions{Region: Region, ObjectLocking: locked})
	if err != nil {
		s.t.Fatalf("make bucket %s: %v", name, err)
	}
}

// Certificate makes a certificate for loopback and further addresses that is its
// own CA, and its key, in files of the folder.
func Certificate(t testing.TB, dir string, addresses ...net.IP) (certFile, keyFile string) {
	t.Helper()
	certFile, keyFile = filepath.Join(dir, "s3.crt"), filepath.Join(dir, "s3.key")
	certs.CA(t, "s3", func(c *x509.Certificate) { c.IPAddresses = append(c.IPAddresses, addresses...) }).Write(t, certFile, keyFile)
	return certFile, keyFile
}

// tail is the end of a file, or why there is none.
func tail(name string) string {
	content, err := os.ReadFile(name)
	if err != nil {
		return fmt.Sprint(err)
	}
	return string(content[max(0, len(content)-2000):])
}
