package etcdops

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// Starter decides for one host whether its etcd may be started without data, and
// meanwhile answers the other hosts, who wait to hear the same of this one.
//
// What it decides is written to [layout.Root.EtcdStart], from which the unit
// reads how its member begins, and without which systemd does not start it
// without data. The file goes when the member has been healthy.
type Starter struct {
	Root    layout.Root
	Self    Member
	Members []Member
	// Token names a new cluster: the fleet's cluster.
	Token string
	// Existing: the host only ever joins.
	Existing bool
	// Peer is the certificate with which etcd's peers know each other, Client, if
	// set, that with which clients ask.
	Peer   TLS
	Client TLS

	mu     sync.Mutex
	server *http.Server
	says   []byte // what it answers
	ended  chan struct{}
}

// startPause is the pause between two rounds of asking the others.
const startPause = 500 * time.Millisecond

// Permit returns when etcd may be started. It asks the others over and over, for
// as long as the patience; the error then is the last decision's. While no
// decision allows the start the host goes on answering the others, also after
// Permit has returned, until Close or the next Permit that allows it.
func (s *Starter) Permit(ctx context.Context, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for {
		err := s.permitOnce(ctx)
		if !errors.Is(err, ErrHeld) || !time.Now().Before(deadline) {
			return err
		}
		timer := time.NewTimer(startPause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(ctx.Err(), err)
		case <-timer.C:
		}
	}
}

func (s *Starter) permitOnce(ctx context.Context) error {
	standing, err := s.standing()
	if err != nil {
		return fmt.Errorf("guard etcd's data: %w", err)
	}
	if !standing.Data {
		if err := s.serve(standing); err != nil {
			return err
		}
	}
	answers := AskPeers(ctx, s.Peer, s.others())
	askReplaced(ctx, s.Client, standing.Cluster, answers)
	begin, initial, err := DecideBegin(standing, answers)
	if errors.Is(err, ErrReplaced) {
		// It answers the others in etcd's place, for what it holds is not nothing.
		return errors.Join(err, noteFence(s.Root, err), s.serve(standing))
	}
	if err != nil {
		// What an earlier decision allowed is not allowed any more.
		return errors.Join(s.explain(standing, err), removeStart(s.Root))
	}
	if err := noteFence(s.Root, nil); err != nil {
		return err
	}
	if begin == BeginData {
		return s.Close()
	}
	if err := writeStart(s.Root, begin, initial, s.Token); err != nil {
		return err
	}
	return s.Close() // etcd needs the port
}

// Waiting tells whether the host is held and answers the others meanwhile.
func (s *Starter) Waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.server != nil
}

// Allowed tells whether Permit would allow the start now. It changes nothing.
func (s *Starter) Allowed(ctx context.Context) bool {
	standing, err := s.standing()
	if err != nil {
		return false
	}
	answers := AskPeers(ctx, s.Peer, s.others())
	askReplaced(ctx, s.Client, standing.Cluster, answers)
	_, _, err = DecideBegin(standing, answers)
	return err == nil
}

// explain adds where a host that has lost its data finds a way back.
func (s *Starter) explain(standing Standing, err error) error {
	if !standing.Marked || !errors.Is(err, ErrDataLost) {
		return err
	}
	if len(s.Members) > 1 {
		return fmt.Errorf("%w (%q; snapshots are in %q: `nodeagent snapshot list`)", err, s.Root.EtcdData(), s.Root.Snapshots())
	}
	return fmt.Errorf("%w: %q is empty, but etcd has run on this host; it is not started, since it would begin an empty cluster. "+
		"Restore a snapshot with `nodeagent snapshot restore FILE` (`nodeagent snapshot list` shows them in %q); "+
		"to begin a new cluster on purpose, delete %q", ErrDataLost, s.Root.EtcdData(), s.Root.Snapshots(), s.Root.EtcdMarker())
}

func (s *Starter) others() []Member {
	return slices.DeleteFunc(slices.Clone(s.Members), func(m Member) bool { return m.Name == s.Self.Name })
}

// standing reads what this host knows of itself.
func (s *Starter) standing() (Standing, error) {
	standing := Standing{Self: s.Self, Members: s.Members, Token: s.Token, Existing: s.Existing}
	data, err := hasData(s.Root.EtcdData())
	if err != nil {
		return standing, err
	}
	if standing.Data = data; data {
		// What cannot be read is for etcd to complain of.
		standing.Cluster, _, _ = dataCluster(s.Root.EtcdData())
	}
	for path, found := range map[string]*bool{s.Root.EtcdMarker(): &standing.Marked, declaredPath(s.Root): &standing.Declared} {
		_, err := os.Stat(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return standing, err
		}
		*found = err == nil
	}
	return standing, nil
}

// serve answers on etcd's peer port until Close. A host that is alone has nobody
// to answer.
func (s *Starter) serve(standing Standing) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.Members) < 2 {
		return nil
	}
	var err error
	s.says, err = json.Marshal(waitingHost{Nodeagent: "waiting", Host: s.Self.Name, Initial: initialCluster(standing.Members), Lost: standing.Marked, Held: standing.Cluster})
	if err != nil || s.server != nil {
		return err
	}
	cfg, err := s.serverTLS()
	if err != nil {
		return err
	}
	address, err := peerAddress(s.Self)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("wait for the other hosts of etcd: %w (does an etcd run that nodeagent did not start?)", err)
	}
	s.server = &http.Server{
		// Not 404 or 410: raft's peers would draw conclusions from those.
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusServiceUnavailable)
			s.mu.Lock()
			body := s.says
			s.mu.Unlock()
			w.Write(body)
		}),
		TLSConfig: cfg, ReadTimeout: answerTimeout, WriteTimeout: answerTimeout,
		ErrorLog: log.New(silent{}, "", 0), // of strangers' handshakes
	}
	server, ended := s.server, make(chan struct{})
	s.ended = ended
	go func() { defer close(ended); server.ServeTLS(listener, "", "") }()
	return nil
}

type silent struct{}

func (silent) Write(p []byte) (int, error) { return len(p), nil }

// serverTLS lets in who has a certificate of the peers' CA, as etcd does.
func (s *Starter) serverTLS() (*tls.Config, error) {
	pem, err := os.ReadFile(s.Peer.CA)
	if err != nil {
		return nil, fmt.Errorf("load etcd's peer CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("load etcd's peer CA %q: no PEM certificate in it", s.Peer.CA)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(s.Peer.Cert, s.Peer.Key)
			return &pair, err
		},
	}, nil
}

// Close stops answering; the port is free then.
func (s *Starter) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil {
		return nil
	}
	err := s.server.Close()
	<-s.ended // of listening; an answer may still be on its way
	s.server = nil
	return err
}

func declaredPath(root layout.Root) string { return filepath.Join(etcdDir(root), "declared") }

// writeStart says to the unit how etcd begins.
func writeStart(root layout.Root, begin Begin, initial, token string) error {
	if err := atomicfile.MkdirAll(etcdDir(root), 0o700); err != nil {
		return err
	}
	text := fmt.Sprintf("# How etcd begins without data; nodeagent removes this file when it has.\n"+
		"ETCD_INITIAL_CLUSTER=%s\nETCD_INITIAL_CLUSTER_STATE=%s\nETCD_INITIAL_CLUSTER_TOKEN=%s\n", initial, begin, token)
	if err := atomicfile.Write(root.EtcdStart(), []byte(text), 0o600); err != nil {
		return fmt.Errorf("say how etcd begins: %w", err)
	}
	return nil
}

// removeStart takes the permission back to start etcd without data.
func removeStart(root layout.Root) error {
	if err := atomicfile.Remove(root.EtcdStart()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("keep etcd from being started: %w", err)
	}
	return nil
}

// peerAddress is where the member's peer port listens.
func peerAddress(m Member) (string, error) {
	address, err := url.Parse(m.PeerURL)
	if err != nil {
		return "", err
	}
	return address.Host, nil
}
