package proof

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// look is one look at the ports: what several of its questions need of the disk
// is read once, and a chain that several see is checked once.
type look struct {
	root   layout.Root
	pools  memo[*x509.CertPool]
	pairs  memo[tls.Certificate]
	chains memo[[][]*x509.Certificate]
}

func newLook(root layout.Root) *look { return &look{root: root} }

// memo remembers what was found under a name.
type memo[T any] struct {
	mu    sync.Mutex
	found map[string]func() (T, error)
}

func (m *memo[T]) get(name string, find func() (T, error)) (T, error) {
	m.mu.Lock()
	once, ok := m.found[name]
	if !ok {
		if m.found == nil {
			m.found = map[string]func() (T, error){}
		}
		once = sync.OnceValues(find)
		m.found[name] = once
	}
	m.mu.Unlock()
	return once()
}

// pair reads a pair that is in use.
func (l *look) pair(certificate string) (tls.Certificate, error) {
	return l.pairs.get(certificate, func() (tls.Certificate, error) {
		files := l.root.Certificate(certificate)
		return tls.LoadX509KeyPair(files.Cert, files.Key)
	})
}

// trusted checks a chain that a port showed against the bundle on disk.
func (l *look) trusted(at Port, chain []*x509.Certificate) error {
	key := bytes.NewBufferString(at.CA + "\x00" + at.name())
	for _, c := range chain {
		key.WriteByte(0)
		key.Write(c.Raw)
	}
	_, err := l.chains.get(key.String(), func() ([][]*x509.Certificate, error) {
		roots, err := l.pools.get(at.CA, func() (*x509.CertPool, error) { return readPool(l.root.Trust(at.CA)) })
		if err != nil {
			return nil, err
		}
		intermediates := x509.NewCertPool()
		for _, c := range chain[1:] {
			intermediates.AddCert(c)
		}
		return chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, DNSName: at.name()})
	})
	return err
}

func readPool(bundle string) (*x509.CertPool, error) {
	content, err := os.ReadFile(bundle)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(content)
	return pool, nil
}

// shown is what a port showed of itself in a handshake.
type shown struct {
	// leaf is nil where the server ended the handshake with an alert instead:
	// it runs and has no pair that it can use.
	leaf  *x509.Certificate
	alert string
	// distrust is why it cannot be trusted, nil where it can.
	distrust error
}

// answer is the check of a port's certificate; nil has seen nothing.
func (s *shown) answer(want Check) Check {
	have := want
	have.Serial, have.PutBack = "", false
	switch {
	case s == nil:
		have.Down = true
		return have
	case s.leaf == nil:
		have.Problem = "the port shows no certificate: " + s.alert
		return have
	case s.distrust != nil:
		have.Problem = s.distrust.Error()
	}
	have.Serial = s.leaf.SerialNumber.Text(16)
	return have
}

// dial makes a TLS connection, as a client with the pair own, nil for none. It
// is an error where the port cannot be trusted, before it hears who asks. What
// it showed until an error is returned all the same, nil for nothing.
//
// The keys are exchanged on P-256, for less than half of the work of what
// crypto/tls would choose: nothing passes that must be secret in a later age.
// Every server of TLS 1.3 has it (RFC 8446, section 9.1) unless its flags
// exclude it; that one is asked again with all that there is.
func (l *look) dial(ctx context.Context, at Port, own *tls.Certificate) (*tls.Conn, *shown, error) {
	conn, seen, err := l.handshake(ctx, at, own, []tls.CurveID{tls.CurveP256})
	if seen == nil && alert(err) != "" {
		conn, seen, err = l.handshake(ctx, at, own, nil)
	}
	if said := alert(err); seen == nil && said != "" {
		seen = &shown{alert: said}
	}
	return conn, seen, err
}

func (l *look) handshake(ctx context.Context, at Port, own *tls.Certificate, curves []tls.CurveID) (*tls.Conn, *shown, error) {
	var seen *shown
	config := &tls.Config{
		ServerName: at.name(), MinVersion: tls.VersionTLS12, CurvePreferences: curves,
		InsecureSkipVerify: true, // checked here, and told apart from what is served
		VerifyConnection: func(s tls.ConnectionState) error {
			seen = &shown{leaf: s.PeerCertificates[0], distrust: l.trusted(at, s.PeerCertificates)}
			return seen.distrust
		},
	}
	if own != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", at.Address)
	if err != nil {
		return nil, seen, fmt.Errorf("connect to %s: %w", at.Address, err)
	}
	return conn.(*tls.Conn), seen, nil
}
