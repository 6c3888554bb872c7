package proof

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
)

// mercury is a host with every role; its lifetimes make one renewal due at
// will, by another clock.
func mercury() *hosts.Spec {
	return &hosts.Spec{
		Name: "mercury", Cluster: "mercury", Domain: "cluster.local",
		Roles:   []hosts.Role{hosts.RoleControlPlane, hosts.RoleEtcd, hosts.RoleWorker},
		Address: netip.MustParseAddr("127.0.0.1"),
		PKI: hosts.PKI{
			Issuer: pki.IssuerLocal, KeyType: "ecdsa-p256", Lifetime: 90 * 24 * time.Hour, RenewBefore: 30 * 24 * time.Hour,
			CALifetime: 3650 * 24 * time.Hour, AdminLifetime: 7 * 24 * time.Hour,
		},
		Kubernetes: hosts.Kubernetes{ServiceRange: netip.MustParsePrefix("10.96.0.0/12"), Endpoint: "127.0.0.1:6443", APIPort: 6443},
		Etcd:       hosts.Etcd{ClientPort: 2379, PeerPort: 2380},
	}
}

// host is a host's folder with real certificates of the local issuer.
type host struct {
	t    *testing.T
	root layout.Root
	spec *hosts.Spec
}

func newHost(t *testing.T) *host {
	h := &host{t: t, root: layout.Root(t.TempDir()), spec: mercury()}
	h.issue(time.Now())
	return h
}

// issue converges the certificates as of a moment.
func (h *host) issue(now time.Time) {
	h.t.Helper()
	clock := func() time.Time { return now }
	a := &pki.Applier{Root: h.root, Now: clock, Issuer: func(context.Context) (pki.Issuer, error) {
		return &pki.Local{Root: h.root, Now: clock}, nil
	}}
	if err := a.Apply(h.t.Context(), pki.Diff(h.observe(), pki.Want(h.spec), now), plan.Silent{}); err != nil {
		h.t.Fatal(err)
	}
}

// renew replaces a pair by a fresh one, as its renewal does.
func (h *host) renew(name string) {
	h.t.Helper()
	dir := h.root.Certificate(name)
	before := h.observe()
	want := pki.Want(h.spec)
	for i := range want.Certificates {
		if want.Certificates[i].Name == name {
			want.Certificates[i].DNSNames = append(want.Certificates[i].DNSNames, "renewed.example.org")
		}
	}
	a := &pki.Applier{Root: h.root, Issuer: func(context.Context) (pki.Issuer, error) { return &pki.Local{Root: h.root}, nil }}
	if err := a.Apply(h.t.Context(), pki.Diff(before, want, time.Now()), plan.Silent{}); err != nil {
		h.t.Fatal(err)
	}
	after := h.observe()
	if before.Pair(name).Serial == after.Pair(name).Serial {
		h.t.Fatalf("%s was not renewed", dir.Cert)
	}
}

func (h *host) observe() pki.State {
	h.t.Helper()
	s, err := pki.Observe(h.t.Context(), h.root)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

func (h *host) pool(ca string) *x509.CertPool {
	content, err := os.ReadFile(h.root.Trust(ca))
	if err != nil {
		h.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(content)
	return pool
}

func (h *host) pair(name string) tls.Certificate {
	files := h.root.Certificate(name)
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		h.t.Fatal(err)
	}
	return pair
}

// component is a TLS server that uses a pair as components do: it reads it when
// it starts, and again at each handshake where it sees changes by itself.
type component struct {
	h       *host
	name    string // of its pair
	sees    bool
	fails   string // the serial of a pair that it sees, and cannot use
	refuses string // the serial of a pair with which it does not start

	mu       sync.Mutex
	pair     tls.Certificate
	config   tls.Config
	answer   atomic.Int32
	restarts atomic.Int32
	address  string
	dead     bool
}

func (h *host) serve(name string) *component {
	c := &component{h: h, name: name, pair: h.pair(name)}
	c.answer.Store(http.StatusForbidden)
	c.config = tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.dead {
			return nil, errors.New("it is not running")
		}
		if c.sees {
			c.pair = h.pair(name)
		}
		if c.fails != "" && h.pair(name).Leaf.SerialNumber.Text(16) == c.fails {
			return nil, errors.New("it cannot read its key")
		}
		return &c.pair, nil
	}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	c.address = listener.Addr().String()
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(c.answer.Load())) }),
	}
	h.t.Cleanup(func() { server.Close() })
	go server.Serve(tls.NewListener(listener, &c.config))
	return c
}

// restart reads the pair again, as a component does that starts.
func (c *component) restart(context.Context, string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restarts.Add(1)
	pair := c.h.pair(c.name)
	c.dead = pair.Leaf.SerialNumber.Text(16) == c.refuses
	if c.dead {
		return errors.New("it did not start: it does not like its certificate")
	}
	c.pair = pair
	return nil
}

// server is the check of the component's pair.
func (c *component) server() State {
	found := c.h.observe()
	f := found.Pair(c.name)
	return State{Checks: []Check{{
		Port: c.port(), Certificate: c.name, Serial: f.Serial, PutBack: time.Now().Before(f.PreviousEnd),
	}}}
}

// client is the check of a pair at the component.
func (c *component) client(name string) State {
	return State{Checks: []Check{{
		Port: c.port(), Certificate: name, Client: true, Serial: c.h.pair(name).Leaf.SerialNumber.Text(16),
	}}}
}

// port is the one of the host with the component's pair, where it listens.
func (c *component) port() Port {
	at := apiPort(c.h.spec)
	if c.name == layout.CertEtcdServer {
		at = etcdPort(c.h.spec)
	}
	at.Address = c.address
	return at
}

func (c *component) observe(want State) State {
	have, err := Observe(c.h.t.Context(), c.h.root, want)
	if err != nil {
		c.h.t.Fatal(err)
	}
	return have
}

func (c *component) applier() *Applier {
	return &Applier{Root: c.h.root, Restart: c.restart, SelfReload: 10 * time.Millisecond, Settle: time.Second, PutBack: func(ctx context.Context, name, reason string) error {
		for _, w := range pki.Want(c.h.spec).Certificates {
			if w.Name == name {
				return (&pki.Applier{Root: c.h.root}).PutBack(ctx, w.Request, reason)
			}
		}
		return errors.New("unknown")
	}}
}

func TestServer(t *testing.T) {
	for _, tc := range []struct {
		name     string
		prepare  func(*component)
		restarts int32
		wrong    string // of the error; empty for none
		back     bool   // the pair before is in use
	}{
		{"sees the new pair by itself", func(c *component) { c.sees = true }, 0, "", false},
		{"needs a restart", func(*component) {}, 1, "", false},
		{"does not start with the new pair", func(c *component) { c.refuses = c.h.pair(c.name).Leaf.SerialNumber.Text(16) }, 2, "refuses its new certificate", true},
		{"sees the new pair and cannot use it", func(c *component) { c.sees, c.fails = true, c.h.pair(c.name).Leaf.SerialNumber.Text(16) }, 2, "refuses its new certificate", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t)
			c := h.serve(layout.CertAPIServer)
			want := c.server()
			if left := Diff(c.observe(want), want); len(left) > 0 {
				t.Fatalf("before the renewal %v: %s", left, left[0].Reason)
			}
			old := want.Checks[0].Serial
			h.renew(layout.CertAPIServer)
			tc.prepare(c)
			want = c.server()
			changes := Diff(c.observe(want), want)
			if seen := tc.restarts == 0; len(changes) == 0 != seen {
				t.Fatalf("after the renewal: %v", changes)
			}
			err := c.applier().Apply(t.Context(), changes, plan.Silent{})
			if (err == nil) != (tc.wrong == "") || err != nil && !strings.Contains(err.Error(), tc.wrong) {
				t.Errorf("error %v, want one with %q", err, tc.wrong)
			}
			if got := c.restarts.Load(); got != tc.restarts {
				t.Errorf("%d restarts, want %d", got, tc.restarts)
			}
			found := h.observe()
			if f := found.Pair(c.name); (f.Serial == old) != tc.back || (f.Refused != nil) != tc.back {
				t.Errorf("in use is %s (before: %s), refused %+v", f.Serial, old, f.Refused)
			}
			want = c.server()
			if left := Diff(c.observe(want), want); len(left) > 0 {
				t.Errorf("left after it: %v: %s", left, left[0].Reason)
			}
		})
	}
}

// TestServerNotTrusted: a port whose certificate another authority signed is
// found out even where nobody renewed anything.
func TestServerNotTrusted(t *testing.T) {
	h, other := newHost(t), newHost(t)
	c := other.serve(layout.CertAPIServer)
	want := c.server()
	have, err := Observe(t.Context(), h.root, want)
	if err != nil {
		t.Fatal(err)
	}
	changes := Diff(have, want)
	if len(changes) != 1 || !strings.Contains(changes[0].Reason, "not trusted") {
		t.Errorf("%v", changes)
	}
}

func TestDown(t *testing.T) {
	h := newHost(t)
	c := h.serve(layout.CertAPIServer)
	want := c.server()
	want.Checks = append(want.Checks, want.Checks[0])
	want.Checks[1].Client, want.Checks[1].Certificate = true, layout.CertAdmin
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for i := range want.Checks {
		want.Checks[i].Address = listener.Addr().String()
	}
	listener.Close()
	have := c.observe(want)
	for _, check := range have.Checks {
		if !check.Down || check.Problem != "" {
			t.Errorf("%+v, want down", check)
		}
	}
	if left := Diff(have, want); len(left) > 0 {
		t.Errorf("changes for ports that are down, which is not this domain's business: %v", left)
	}
}

// TestClient: Kubernetes' servers answer 401 to a pair that they do not know
// and 403 to a user who may not; etcd refuses the handshake.
func TestClient(t *testing.T) {
	for _, tc := range []struct {
		name      string
		component string
		prepare   func(*component)
		problem   string
	}{
		{"taken", layout.APIServer, func(*component) {}, ""},
		{"refused with 401", layout.APIServer, func(c *component) { c.answer.Store(http.StatusUnauthorized) }, "401"},
		{"taken in the handshake", layout.Etcd, func(c *component) {
			c.config.ClientAuth, c.config.ClientCAs = tls.RequireAndVerifyClientCert, c.h.pool(layout.CAEtcdServer)
		}, ""},
		{"refused in the handshake", layout.Etcd, func(c *component) {
			c.config.ClientAuth, c.config.ClientCAs = tls.RequireAndVerifyClientCert, c.h.pool(layout.CAEtcdPeer)
		}, "handshake"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t)
			server, client := layout.CertAPIServer, layout.CertAdmin
			if tc.component == layout.Etcd {
				server, client = layout.CertEtcdServer, layout.CertAPIServerEtcdClient
			}
			c := h.serve(server)
			tc.prepare(c)
			want := c.client(client)
			want.Checks = append(want.Checks, c.server().Checks...)
			both := c.observe(want)
			have := both.Checks[0]
			if !strings.Contains(have.Problem, tc.problem) || (have.Problem == "") != (tc.problem == "") || have.Down {
				t.Errorf("%+v, want the problem %q", have, tc.problem)
			}
			if left := Diff(both, want); (len(left) == 0) != (tc.problem == "") {
				t.Errorf("changes %v", left)
			}
			if shown := both.Checks[1]; shown.Serial != want.Checks[1].Serial || shown.Problem != "" || shown.Down {
				t.Errorf("the port's own certificate, asked about in the same handshake: %+v", shown)
			}
		})
	}
}

// TestQuestions: a port that clients speak with is not asked once more for what
// it shows, and no check is left out or asked twice.
func TestQuestions(t *testing.T) {
	h := newHost(t)
	checks := Want(h.spec, h.observe(), time.Now()).Checks
	list := questions(checks)
	if len(checks) != 16 || len(list) != 12 {
		t.Errorf("%d conversations for %d checks, want 12 for 16", len(list), len(checks))
	}
	answered := make([]int, len(checks))
	for _, q := range list {
		for _, i := range []int{q.client, q.server} {
			if i != none {
				answered[i]++
			}
		}
		if q.client != none && q.server != none && checks[q.client].Port != checks[q.server].Port {
			t.Errorf("%s is asked at the port of %s", checks[q.server].key(), checks[q.client].key())
		}
	}
	for i, n := range answered {
		if n != 1 {
			t.Errorf("%s is answered %d times", checks[i].key(), n)
		}
	}
}

// TestKeyExchange: a server whose flags exclude what is tried first is asked
// again.
func TestKeyExchange(t *testing.T) {
	h := newHost(t)
	c := h.serve(layout.CertAPIServer)
	c.config.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768}
	want := c.client(layout.CertAdmin)
	want.Checks = append(want.Checks, c.server().Checks...)
	have := c.observe(want)
	if left := Diff(have, want); len(left) > 0 || have.Checks[0].Down || have.Checks[1].Down {
		t.Errorf("%+v", have.Checks)
	}
}

// TestClientIsPutBack: only where the server takes the pair before.
func TestClientIsPutBack(t *testing.T) {
	for _, takesOld := range []bool{true, false} {
		h := newHost(t)
		c := h.serve(layout.CertEtcdServer)
		const name = layout.CertAPIServerEtcdClient
		old := h.pair(name).Leaf.SerialNumber.Text(16)
		c.config.ClientAuth = tls.RequireAnyClientCert
		c.config.VerifyPeerCertificate = func(raw [][]byte, _ [][]*x509.Certificate) error {
			leaf, err := x509.ParseCertificate(raw[0])
			if err == nil && leaf.SerialNumber.Text(16) == old && takesOld {
				return nil
			}
			return &tls.CertificateVerificationError{Err: errors.New("not this one")}
		}
		h.renew(name)
		want := c.client(name)
		err := c.applier().Apply(t.Context(), Diff(c.observe(want), want), plan.Silent{})
		if err == nil {
			t.Fatal("no error: somebody must know of it")
		}
		if got := h.pair(name).Leaf.SerialNumber.Text(16); (got == old) != takesOld {
			t.Errorf("takes old: %t, and in use is %s (before: %s): %v", takesOld, got, old, err)
		}
	}
}

// TestRenewedMeanwhile: a pair that was renewed after it was wanted, and before
// it was asked about, is neither refused nor put back, and restarts nobody.
func TestRenewedMeanwhile(t *testing.T) {
	h := newHost(t)
	c := h.serve(layout.CertAPIServer)
	for _, want := range []State{c.client(layout.CertAdmin), c.server()} {
		name := want.Checks[0].Certificate
		h.renew(name)
		renewed := h.pair(name).Leaf.SerialNumber.Text(16)
		if name == layout.CertAPIServer {
			if err := c.restart(t.Context(), layout.APIServer); err != nil {
				t.Fatal(err)
			}
		} else if left := Diff(c.observe(want), want); len(left) > 0 {
			t.Errorf("a renewed pair that is taken gives %v", left)
		}
		restarts := c.restarts.Load()
		stale := []plan.Change{change(Check{}, want.Checks[0])} // decided before it was renewed
		if err := c.applier().Apply(t.Context(), stale, plan.Silent{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := h.pair(name).Leaf.SerialNumber.Text(16); got != renewed || c.restarts.Load() != restarts {
			t.Errorf("%s: in use is %s, renewed was %s; %d restarts", name, got, renewed, c.restarts.Load()-restarts)
		}
	}
}

func TestWant(t *testing.T) {
	h := newHost(t)
	var got []string
	for _, c := range Want(h.spec, h.observe(), time.Now()).Checks {
		got = append(got, c.key())
	}
	want := []string{
		"server etcd-server at 127.0.0.1:2379", "server etcd-peer at 127.0.0.1:2380", "client etcd-peer at 127.0.0.1:2380",
		"client nodeagent-etcd-client at 127.0.0.1:2379",
		"server kube-apiserver at 127.0.0.1:6443", "server kube-controller-manager-server at 127.0.0.1:10257",
		"server kube-scheduler-server at 127.0.0.1:10259",
		"client kube-controller-manager at 127.0.0.1:6443", "client kube-scheduler at 127.0.0.1:6443",
		"client admin at 127.0.0.1:6443", "client front-proxy-client at 127.0.0.1:6443",
		"client apiserver-etcd-client at 127.0.0.1:2379",
		"server kubelet-server at 127.0.0.1:10250", "client apiserver-kubelet-client at 127.0.0.1:10250",
		"client kubelet-client at 127.0.0.1:6443", "client kube-proxy at 127.0.0.1:6443",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
