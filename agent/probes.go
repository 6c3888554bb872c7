package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/confirm"
	"github.com/nodeagent/nodeagent/internal/layout"
)

const (
	// probePatience bounds one try of a probe, probeBeforeLimit all tries before
	// a change; probePause lies between two tries.
	probePatience    = 2 * time.Second
	probeBeforeLimit = 3 * time.Second
	probePause       = 200 * time.Millisecond
)

// errNotAsked is the error of a probe whose question went away with the change:
// it is not judged.
var errNotAsked = errors.New("not asked any more")

// question is one thing that a probe asks of the network.
type question struct {
	name string
	// ask is nil where it succeeds; each try has a context of its own.
	ask func(ctx context.Context) error
}

// probeBefore asks what the spec names before the network is changed. What does
// not answer is tried again for a moment: an accident must not take a probe out
// of the judgement.
func (h *Host) probeBefore(ctx context.Context) []confirm.Finding {
	if !h.HasProbes() {
		return nil
	}
	questions := h.questions(h.Spec(), time.Time{})
	return askAll(ctx, questions, func(string) time.Duration { return probeBeforeLimit })
}

// probeAgain asks the same after the change: what answered before may take as
// long as the spec says, the rest is asked once, for the record.
func (h *Host) probeAgain(ctx context.Context, a *confirm.Attempt) []confirm.Finding {
	limit := patienceOver(a, within(h.Spec().Network.Probes))
	answered := map[string]bool{}
	for _, f := range a.Before {
		answered[f.Name] = f.OK
	}
	questions := h.questions(h.Spec(), time.Now())
	for _, f := range a.Before { // gateways that are none any more
		questions = withGateway(questions, f.Name)
	}
	return askAll(ctx, questions, func(name string) time.Duration {
		if answered[name] {
			return limit
		}
		return 0
	})
}

// askAll asks all questions at once, each again until it succeeds or its limit
// is over, and at least once.
func askAll(ctx context.Context, questions []question, limit func(name string) time.Duration) []confirm.Finding {
	findings := make([]confirm.Finding, len(questions))
	var asking sync.WaitGroup
	for i, q := range questions {
		asking.Go(func() { findings[i] = q.until(ctx, limit(q.name)) })
	}
	asking.Wait()
	return findings
}

func (q question) until(ctx context.Context, limit time.Duration) confirm.Finding {
	start := time.Now()
	for {
		try, cancel := context.WithTimeout(ctx, probePatience)
		err := q.ask(try)
		cancel()
		f := confirm.Finding{Name: q.name, OK: err == nil, Took: time.Since(start), Optional: errors.Is(err, errNotAsked)}
		if err != nil {
			f.Detail = err.Error()
		}
		if err == nil || f.Optional || time.Since(start)+probePause >= limit || !sleepUntil(ctx, time.Now().Add(probePause)) {
			return f
		}
	}
}

// questions are those that the spec names. changed is when the network was
// changed, zero before that: what counts afterwards is news since then.
func (h *Host) questions(spec *hosts.Spec, changed time.Time) []question {
	var list []question
	for _, name := range spec.Network.Probes.Names {
		switch name {
		case "gateway":
			list = append(list, gatewayQuestions()...)
		case "wireguard":
			list = append(list, wireGuardQuestions(spec, changed)...)
		case "vault":
			list = append(list, vaultQuestions(spec)...)
		case "etcd":
			list = append(list, etcdQuestions(spec)...)
		case "api":
			list = append(list, h.apiQuestion(spec))
		}
	}
	for _, target := range spec.Network.Probes.Connect {
		list = append(list, question{"connect " + target, func(ctx context.Context) error { return connects(ctx, target) }})
	}
	return list
}

// connects opens a TCP connection and closes it.
func connects(ctx context.Context, target string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", target)
	if err != nil {
		return err
	}
	return conn.Close()
}

// etcdQuestions are the ports of the other members.
func etcdQuestions(spec *hosts.Spec) []question {
	var list []question
	for _, p := range spec.Peers {
		if !p.Has(hosts.RoleEtcd) {
			continue
		}
		for _, port := range []int{spec.Etcd.ClientPort, spec.Etcd.PeerPort} {
			target := netip.AddrPortFrom(p.Address, uint16(port)).String()
			list = append(list, question{"etcd " + p.Name + " " + target, func(ctx context.Context) error { return connects(ctx, target) }})
		}
	}
	return list
}

// vaultQuestions is a TLS handshake with Vault, which says who it is.
func vaultQuestions(spec *hosts.Spec) []question {
	vault := spec.PKI.Vault
	if vault == nil {
		return nil
	}
	return []question{{"vault " + vault.Address, func(ctx context.Context) error {
		at, err := url.Parse(vault.Address)
		if err != nil {
			return err
		}
		roots, err := readRoots(vault.CAFile)
		if err != nil {
			return err
		}
		port := at.Port()
		if port == "" {
			port = "443"
		}
		dialer := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: at.Hostname(), MinVersion: tls.VersionTLS12}}
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(at.Hostname(), port))
		if err != nil {
			return err
		}
		return conn.Close()
	}}}
}

// readRoots reads a PEM bundle; an empty path is the machine's own.
func readRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return x509.SystemCertPool()
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("read CA bundle %q: no certificate in it", path)
	}
	return pool, nil
}

// apiQuestion asks the cluster's endpoint whether its API server lives.
func (h *Host) apiQuestion(spec *hosts.Spec) question {
	endpoint := spec.Kubernetes.Endpoint
	if endpoint == "" {
		endpoint = net.JoinHostPort(spec.Address.String(), strconv.Itoa(spec.Kubernetes.APIPort))
	}
	return question{"api " + endpoint, func(ctx context.Context) error {
		roots, err := readRoots(h.root.Trust(layout.CAK8sServer))
		if err != nil {
			return err
		}
		// A transport of its own each time: a connection that is kept open says
		// nothing about new ones.
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+endpoint+"/livez", nil)
		if err != nil {
			return err
		}
		response, err := transport.RoundTrip(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("/livez answers %s", response.Status)
		}
		return nil
	}}
}
