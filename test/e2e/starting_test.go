package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/netcfg"
)

// startingRounds is how often the API server is started anew, and startingClients
// how many clients connect to it all the while, each once per startingPace.
const (
	startingRounds  = 3
	startingClients = 4
	startingPace    = 10 * time.Millisecond
)

// deniesNothing starts the API server anew while strangers with a certificate of
// the administrator's make requests, each on a connection of its own, and do not
// ask first whether it is ready: it may refuse the connection, and that is all.
func deniesNothing(t *testing.T, h *host) {
	client, err := strangers(h)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(h.ctx)
	defer cancel()
	var clients sync.WaitGroup
	var answered, refused atomic.Int64
	var mu sync.Mutex
	wrong := map[string]int{}
	for range startingClients {
		clients.Go(func() {
			// Refusals come at once, and must not keep the server from starting.
			pace := time.NewTicker(startingPace)
			defer pace.Stop()
			for ; ctx.Err() == nil; <-pace.C {
				err := ask(ctx, client, http.MethodGet, "https://203.0.113.10:6443/api/v1/namespaces/default", "")
				switch {
				case ctx.Err() != nil:
				case err == nil:
					answered.Add(1)
				case remade(err):
					refused.Add(1)
				default:
					mu.Lock()
					wrong[err.Error()]++
					mu.Unlock()
				}
			}
		})
	}
	for range startingRounds {
		before := answered.Load()
		began := time.Now()
		h.must("systemctl", "restart", layout.Unit(layout.APIServer))
		started := time.Since(began)
		h.until(time.Minute, "answers after the restart", func() error {
			if answered.Load() < before+100 {
				return errors.New("too few")
			}
			return nil
		})
		t.Logf("started anew after %s", started.Round(time.Millisecond))
	}
	cancel()
	clients.Wait()
	if tables := h.must("nft", "list", "tables"); strings.Contains(tables, netcfg.HoldTable) {
		t.Errorf("the port is held still:\n%s", tables)
	}
	h.leadersGoOn(time.Now())
	t.Logf("%d answers, %d connections to be made again", answered.Load(), refused.Load())
	for text, n := range wrong {
		t.Errorf("%d times: %s", n, text)
	}
}

// leadersGoOn waits until the controller manager and the scheduler have renewed
// their leases since the API server came back. Who could not for ten seconds exits,
// maybe only now, and systemd starts it again.
func (h *host) leadersGoOn(back time.Time) {
	h.t.Helper()
	h.until(2*time.Minute, "leases that are renewed", func() error {
		for _, component := range []string{"kube-controller-manager", "kube-scheduler"} {
			out, err := h.Kubectl(h.ctx, "-n", "kube-system", "get", "lease", component, "-o", "jsonpath={.spec.renewTime}")
			if err != nil {
				return err
			}
			renewed, err := time.Parse(time.RFC3339, out)
			if err != nil {
				return err
			}
			if !renewed.After(back) {
				return fmt.Errorf("%s renewed its lease %s before the API server was back", component, back.Sub(renewed))
			}
		}
		return nil
	})
}

// strangers is a client outside of the host that has the administrator's
// certificate, and makes a connection for each request.
func strangers(h *host) (*http.Client, error) {
	at := func(path string) string { return filepath.Join(h.Root(), path) }
	files := onHost.Certificate(layout.CertAdmin)
	pair, err := tls.LoadX509KeyPair(at(files.Cert), at(files.Key))
	if err != nil {
		return nil, err
	}
	bundle, err := os.ReadFile(at(onHost.Trust(layout.CAK8sServer)))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(bundle) {
		return nil, fmt.Errorf("no certificate in the trust bundle %s", layout.CAK8sServer)
	}
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return h.DialOutside(ctx, network, address)
		},
		TLSClientConfig:   &tls.Config{RootCAs: pool, ServerName: "kubernetes", Certificates: []tls.Certificate{pair}},
		DisableKeepAlives: true,
	}}, nil
}
