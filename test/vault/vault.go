// Package vault starts real Vault servers for tests: one of each version that
// nodeagent is tried with, each over a folder of its own, on loopback with TLS.
//
// The executables are built by "go run ./test/servers/build vault". Without
// them a test is skipped, and fails where CI=true. Tests run against every
// version:
//
//	for _, version := range vault.Versions() {
//		t.Run(version, func(t *testing.T) {
//			server := vault.Start(t, version)
//			…
//
// A test may do to its server what may happen to a real one: stop it and start
// it again with its data (Stop, Restart), seal it (Seal, Unseal,
// RestartSealed), let it hang (Freeze, Thaw). The address stays the same and
// belongs to the server until the test ends, also while nothing listens there.
package vault

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/test/servers"
)

// Server is a Vault server that ends with its test. Its methods fail the test
// when they cannot do what they say. They may be called from several
// goroutines; the fields never change.
type Server struct {
	Address   string // of the API, "https://127.0.0.1:40613"
	CAFile    string // PEM, with the CA of the certificate that it shows
	RootToken string
	UnsealKey string // hexadecimal; one is enough
	Version   string // of Vault, "v1.13.0"
	Dir       string // has the data; what the server logs is in the file log

	t       testing.TB
	program string
	args    []string

	mu  sync.Mutex
	run *process // nil while stopped
}

// Option changes how a server is started.
type Option func(*settings)

type settings struct {
	listen        string
	names         []string
	cert, key, ca string
}

// Listen is the IP address and the port to listen on instead of 127.0.0.1 and
// a free one. Port 0 is a free one, too.
func Listen(address string) Option { return func(s *settings) { s.listen = address } }

// Names are names and IP addresses that the server's certificate has beside
// localhost, 127.0.0.1, ::1 and the address that it listens on.
func Names(names ...string) Option {
	return func(s *settings) { s.names = append(s.names, names...) }
}

// Certificate gives the server a certificate, read at each start, in place of
// one from a CA of its own. caFile has the CA that signed it.
func Certificate(certFile, keyFile, caFile string) Option {
	return func(s *settings) { s.cert, s.key, s.ca = certFile, keyFile, caFile }
}

// Versions are the versions of Vault to test with, the oldest first.
func Versions() []string {
	builder, err := servers.New(nil)
	if err == nil {
		var versions []string
		if versions, err = builder.VaultVersions(); err == nil {
			return versions
		}
	}
	panic(fmt.Sprintf("find versions of Vault: %v", err)) // the clone is broken
}

// Program is the executable of a version's server, for a test that copies it
// into a lab host. The test is skipped when it is not built; see the package.
func Program(t testing.TB, version string) string {
	t.Helper()
	var file string
	servers.Require(t, "runs a Vault server", func() error {
		builder, err := servers.New(t.Output())
		if err == nil {
			file, err = builder.FindVault(version)
		}
		return err
	}, "CI=true")
	return file
}

// Start starts a new server of the version: unsealed, with nothing mounted
// but what Vault always has, and with the audit device file (see AuditLog). It
// returns when the server answers requests.
func Start(t testing.TB, version string, opts ...Option) *Server {
	t.Helper()
	program := Program(t, version)
	set := settings{listen: "127.0.0.1:0"}
	for _, opt := range opts {
		opt(&set)
	}
	s := &Server{Version: version, Dir: t.TempDir(), t: t, program: program}
	listen, err := servers.Reserve(t, set.listen)
	if err != nil {
		t.Fatalf("find a port for Vault: %v", err)
	}
	s.args = []string{"-dir", s.Dir, "-listen", listen, "-san", strings.Join(set.names, ","), "-stdin"}
	if set.cert != "" {
		s.args = append(s.args, "-tls-cert", set.cert, "-tls-key", set.key)
	}
	t.Cleanup(s.end)
	line := s.start()
	s.Address, s.CAFile, s.RootToken, s.UnsealKey = line.Address, line.CAFile, line.RootToken, line.UnsealKey
	if set.ca != "" {
		s.CAFile = set.ca
	}
	s.waitSealed(false)
	err = s.Client().Sys().EnableAuditWithOptions("file", &api.EnableAuditOptions{
		Type: "file", Options: map[string]string{"file_path": s.AuditLog()},
	})
	if err != nil {
		t.Fatalf("enable audit device of Vault: %v", err)
	}
	return s
}

// Client returns a new client with the root token. It tries each request once
// and takes nothing from the environment.
func (s *Server) Client() *api.Client {
	s.t.Helper()
	config := api.DefaultConfig()
	err := config.Error
	if err == nil {
		config.Address, config.MaxRetries = s.Address, 0
		err = config.ConfigureTLS(&api.TLSConfig{CACert: s.CAFile})
	}
	var client *api.Client
	if err == nil {
		client, err = api.NewClient(config)
	}
	if err != nil {
		s.t.Fatalf("make client of Vault: %v", err)
	}
	client.ClearNamespace()
	client.SetToken(s.RootToken)
	return client
}

// AuditLog is the file that the audit device "file" writes to, a JSON object a
// line: every request with its path and answer, secrets as HMACs.
func (s *Server) AuditLog() string { return filepath.Join(s.Dir, "audit.log") }

// Host is the address and port without the scheme, for a plain connection.
func (s *Server) Host() string { return strings.TrimPrefix(s.Address, "https://") }

// Port is the TCP port that the server listens on.
func (s *Server) Port() string {
	_, port, err := net.SplitHostPort(s.Host())
	if err != nil {
		s.t.Fatalf("read address of Vault: %v", err)
	}
	return port
}
