package agent

import (
	"context"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/confirm"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/test/certs"
)

// tlsServer serves /livez and everything else, and writes its CA to a file.
func tlsServer(t *testing.T, ca string, status int) (address string) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	t.Cleanup(server.Close)
	if err := os.MkdirAll(filepath.Dir(ca), 0o755); err != nil {
		t.Fatal(err)
	}
	content := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return server.Listener.Addr().String()
}

// strangersCA is the file of a CA that has signed nothing.
func strangersCA(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stranger.crt")
	certs.CA(t, "stranger", nil).Write(t, path, "")
	return path
}

// closedPort is an address of this machine on which nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// TestQuestions asks real servers, some of which are not there or not who they
// should be.
func TestQuestions(t *testing.T) {
	h := &Host{root: layout.Root(t.TempDir())}
	vaultCA := filepath.Join(t.TempDir(), "ca.crt")
	vault := tlsServer(t, vaultCA, http.StatusOK)
	api := tlsServer(t, h.root.Trust(layout.CAK8sServer), http.StatusOK)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, portText, _ := net.SplitHostPort(listener.Addr().String())
	port, _ := strconv.Atoi(portText)
	_, shutText, _ := net.SplitHostPort(closedPort(t))
	shut, _ := strconv.Atoi(shutText)

	spec := func(ca, endpoint string) *hosts.Spec {
		return &hosts.Spec{
			PKI:        hosts.PKI{Vault: &hosts.Vault{Address: "https://" + vault, CAFile: ca}},
			Kubernetes: hosts.Kubernetes{Endpoint: endpoint},
			Etcd:       hosts.Etcd{ClientPort: port, PeerPort: shut},
			Peers: []hosts.Peer{
				{Name: "n2", Roles: []hosts.Role{hosts.RoleEtcd}, Address: netip.MustParseAddr("127.0.0.1")},
				{Name: "worker", Roles: []hosts.Role{hosts.RoleWorker}, Address: netip.MustParseAddr("127.0.0.1")},
			},
			Network: hosts.Network{Probes: hosts.Probes{Names: []string{"vault", "etcd", "api"}, Connect: []string{listener.Addr().String()}}},
		}
	}
	found := func(s *hosts.Spec) (answers, silent []string) {
		for _, f := range askAll(t.Context(), h.questions(s, time.Time{}), func(string) time.Duration { return 0 }) {
			name, _, _ := strings.Cut(f.Name, " ")
			if f.OK {
				answers = append(answers, name)
			} else {
				silent = append(silent, name)
			}
		}
		slices.Sort(answers)
		return answers, silent
	}
	answers, silent := found(spec(vaultCA, api))
	if want := []string{"api", "connect", "etcd", "vault"}; !slices.Equal(answers, want) || !slices.Equal(silent, []string{"etcd"}) {
		t.Errorf("%v answer, %v do not", answers, silent)
	}
	// A stranger in Vault's place (its certificate is another CA's), and an endpoint with nobody behind it.
	answers, silent = found(spec(strangersCA(t), closedPort(t)))
	if !slices.Equal(answers, []string{"connect", "etcd"}) {
		t.Errorf("with strangers, %v answer, %v do not", answers, silent)
	}
	sick := tlsServer(t, h.root.Trust(layout.CAK8sServer), http.StatusInternalServerError)
	if answers, _ = found(spec(vaultCA, sick)); slices.Contains(answers, "api") {
		t.Error("an API server that is not alive answers")
	}
}

func TestAskAgainUntilTheLimit(t *testing.T) {
	tries := 0
	flaky := question{"flaky", func(context.Context) error {
		if tries++; tries < 3 {
			return errors.New("not yet")
		}
		return nil
	}}
	gone := question{"gone", func(context.Context) error { return errNotAsked }}
	never := question{"never", func(context.Context) error { return errors.New("no") }}
	found := askAll(t.Context(), []question{flaky, gone, never}, func(string) time.Duration { return 3 * probePause })
	if !found[0].OK || tries != 3 {
		t.Errorf("after %d tries %+v", tries, found[0])
	}
	if found[1].OK || !found[1].Optional || found[1].Took > probePause {
		t.Errorf("what is not asked any more: %+v", found[1])
	}
	if found[2].OK || found[2].Detail != "no" || found[2].Took < 2*probePause {
		t.Errorf("what never answers: %+v", found[2])
	}
}

func TestGatewayQuestionsGoByName(t *testing.T) {
	list := withGateway(nil, "gateway 240.0.0.1")
	list = withGateway(list, "gateway 240.0.0.1")
	list = withGateway(list, "vault https://192.0.2.5")
	if len(list) != 1 || list[0].name != "gateway 240.0.0.1" {
		t.Fatalf("%+v", list)
	}
	// 240.0.0.0/4 is reserved (RFC 1112): no machine has a gateway there.
	if err := list[0].ask(t.Context()); !errors.Is(err, errNotAsked) {
		t.Errorf("asked about a gateway that is none: %v", err)
	}
}

// TestHearing: a peer of which a device that is not there has heard nothing.
func TestHearing(t *testing.T) {
	h := &hearing{device: "nodeagent-none", address: netip.MustParseAddr("192.0.2.9")}
	if err := h.ask(t.Context()); err == nil {
		t.Error("heard from a device that is not there")
	}
	for _, tc := range []struct {
		received int64
		news     bool
	}{{100, false}, {100, false}, {5, false}, {6, true}, {5, false}} {
		if got := h.news(tc.received); got != tc.news {
			t.Errorf("%d bytes: news %t", tc.received, got)
		}
	}
}

// TestNest: a second attempt is judged by what answered before the first.
func TestNest(t *testing.T) {
	empty, err := way{}.store("b1")
	if err != nil {
		t.Fatal(err)
	}
	pending := &confirm.Attempt{Network: "b", Earlier: []string{"a"}, Back: empty, Before: []confirm.Finding{{Name: "x", OK: true}, {Name: "y"}}}
	next := &confirm.Attempt{Before: []confirm.Finding{{Name: "x", Detail: "cut by the first"}, {Name: "y", OK: true}, {Name: "z"}}}
	if _, err := nest(next, pending, way{}); err != nil {
		t.Fatal(err)
	}
	if !next.Before[0].OK || !next.Before[1].OK || next.Before[2].OK {
		t.Errorf("judged against %+v", next.Before)
	}
	if !slices.Equal(next.Earlier, []string{"a", "b"}) {
		t.Errorf("earlier %v", next.Earlier)
	}
}
