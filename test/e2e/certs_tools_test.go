package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/lab"
)

// filesVerify has OpenSSL and Go hold every certificate on every host against
// its authority and for its use, and against what it must not pass for.
func filesVerify(t *testing.T, c *trio) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("this test is about OpenSSL, which is not installed")
		}
		t.Skip("openssl is not installed")
	}
	bundles, cas := map[string]*x509.CertPool{}, []string{"etcd-server", "etcd-peer", "k8s-server", "k8s-client"}
	for _, h := range c.hosts {
		for _, ca := range cas { // n3 has no use for more
			if bundles[ca], err = trustOn(h, ca); err != nil {
				t.Fatal(err)
			}
		}
		rows := append(serverRows(h.Name(), address(h), controlPlane(h)), clientRows(h.Name(), controlPlane(h))...)
		for _, r := range rows {
			r.client = r.client || !r.server
			file := filepath.Join(h.Root(), "var/lib/nodeagent/pki/certs", r.name, "current/tls.crt")
			pair, err := pairOf(h, strings.TrimPrefix(file, h.Root()))
			if err != nil {
				t.Errorf("%s: %s: %v", h.Name(), r.name, err)
				continue
			}
			for _, ca := range append(cas, r.ca) {
				pool, err := trustOn(h, ca)
				if err != nil {
					t.Fatal(err)
				}
				for _, as := range []struct {
					purpose string
					usage   x509.ExtKeyUsage
					may     bool
				}{
					{"sslserver", x509.ExtKeyUsageServerAuth, r.server && ca == r.ca},
					{"sslclient", x509.ExtKeyUsageClientAuth, r.client && ca == r.ca},
				} {
					if ca != r.ca && as.usage == x509.ExtKeyUsageServerAuth != r.server {
						continue // neither its authority nor its use
					}
					bundle := filepath.Join(h.Root(), "var/lib/nodeagent/pki/trust", ca+".crt")
					out, err := exec.CommandContext(c.ctx, openssl, "verify", "-x509_strict", "-purpose", as.purpose, "-no-CApath", "-CAfile", bundle, file).CombinedOutput()
					if (err == nil) != as.may {
						t.Errorf("%s: openssl verify of %s by %s as %s: %v %s", h.Name(), r.name, ca, as.purpose, err, out)
					}
					err = verify([]*x509.Certificate{pair.Leaf}, pool, []x509.ExtKeyUsage{as.usage})
					if (err == nil) != as.may {
						t.Errorf("%s: Go verifies %s by %s as %s: %v", h.Name(), r.name, ca, as.purpose, err)
					}
				}
			}
		}
	}
}

// programsConnect uses the certificates with kubectl, etcdctl and Go.
func programsConnect(t *testing.T, c *trio) {
	for _, h := range c.hosts {
		if out, err := c.etcdctl(h, "endpoint", "health", "--cluster"); err != nil || strings.Count(out, "is healthy") != 3 {
			t.Errorf("%s: etcdctl endpoint health (%v):\n%s", h.Name(), err, out)
		}
		if !controlPlane(h) {
			continue
		}
		if out, err := h.Kubectl(c.ctx, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username} {.status.userInfo.groups}"); err != nil ||
			out != `kubernetes-admin ["nodeagent:admins","system:authenticated"]` {
			t.Errorf("%s: kubectl auth whoami: %s %v", h.Name(), out, err)
		}
		for _, whose := range clientRows(h.Name(), true) {
			if whose.ca != "k8s-client" {
				continue
			}
			who, err := c.whoami(h, whose.name, nil)
			want := []string{"system:authenticated"}
			if whose.org != "" {
				want = []string{whose.org, "system:authenticated"}
			}
			if err != nil || who.Username != whose.cn || !slices.Equal(sorted(who.Groups), sorted(want)) {
				t.Errorf("%s: with %s Go is %+v (%v), want %s of %s", h.Name(), whose.name, who, err, whose.cn, want)
			}
		}
		// A front proxy says for whom it asks, and is believed.
		proxy := http.Header{"X-Remote-User": {"carol"}, "X-Remote-Group": {"guests", "system:authenticated"}}
		if who, err := c.whoami(h, "front-proxy-client", proxy); err != nil || who.Username != "carol" || !slices.Contains(who.Groups, "guests") {
			t.Errorf("%s: through a front proxy Go is %+v (%v)", h.Name(), who, err)
		}
		// Every control plane reaches every kubelet.
		for _, other := range c.hosts {
			// A kubelet that asked an API server which had just started keeps what
			// that denied for half a minute.
			c.until(time.Minute, "kubelets to answer API servers", func() error {
				status, err := c.try(h, "apiserver-kubelet-client", "k8s-server", http.MethodGet, address(other)+":10250", "/pods", nil)
				if err == nil && status != http.StatusOK {
					err = fmt.Errorf("the kubelet of %s answers %s: %d", other.Name(), h.Name(), status)
				}
				return err
			})
		}
	}
	var groups struct {
		Items []struct {
			RoleRef  struct{ Name string }
			Subjects []struct{ Kind, Name string }
		}
	}
	out, err := c.hosts[0].Kubectl(c.ctx, "get", "clusterrolebindings", "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &groups)
	}
	if err != nil {
		t.Fatal(err)
	}
	bound := map[string][]string{}
	for _, b := range groups.Items {
		for _, s := range b.Subjects {
			bound[s.Name] = append(bound[s.Name], b.RoleRef.Name)
		}
	}
	for group, want := range map[string]string{"nodeagent:admins": "[cluster-admin]", "nodeagent:kubelet-api-admins": "[system:kubelet-api-admin]"} {
		if got := fmt.Sprint(bound[group]); got != want {
			t.Errorf("group %s is bound to %s, want %s", group, got, want)
		}
	}
}

// othersAreRefused shows every port certificates that are good elsewhere.
func othersAreRefused(t *testing.T, c *trio) {
	h := c.hosts[0]
	for _, tc := range []struct {
		port, ca, path string
		pairs          []string
		status         int // 0: refused in the handshake
	}{
		{":2379", "etcd-server", "/version", []string{"", "etcd-peer", "admin", "kubelet-client", "kube-apiserver", "front-proxy-client", "nodeagent"}, 0},
		{":2380", "etcd-peer", "/members", []string{"", "etcd-server", "apiserver-etcd-client", "nodeagent-etcd-client", "admin", "nodeagent"}, 0},
		{":6443", "k8s-server", "/api", []string{"", "kube-apiserver", "kubelet-server", "kube-scheduler-server", "etcd-server", "apiserver-etcd-client", "nodeagent"}, http.StatusUnauthorized},
		{":10250", "k8s-server", "/pods", []string{"", "kubelet-server", "kube-apiserver", "front-proxy-client", "etcd-peer", "nodeagent"}, http.StatusUnauthorized},
		{":10250", "k8s-server", "/pods", []string{"kube-proxy", "kube-scheduler"}, http.StatusForbidden},
	} {
		for _, name := range tc.pairs {
			status, err := c.try(h, name, tc.ca, http.MethodGet, address(h)+tc.port, tc.path, nil)
			if status != tc.status || (err != nil) != (tc.status == 0) || err != nil && !strings.Contains(err.Error(), "remote error: tls:") {
				t.Errorf("%q at %s: %d, %v; want %d", name, tc.port, status, err, tc.status)
			}
		}
	}
	// Nor does a client that trusts another authority take the port.
	for port, ca := range map[string]string{":6443": "k8s-client", ":2379": "etcd-peer", ":2380": "etcd-server", ":10250": "front-proxy"} {
		if _, err := c.try(h, "admin", ca, http.MethodGet, address(h)+port, "/", nil); err == nil || !strings.Contains(err.Error(), "unknown authority") {
			t.Errorf("who trusts %s alone and asks %s gets %v", ca, port, err)
		}
	}
}

// client is a plain Go client on a host, with a pair of the host's; the empty
// name is for none.
func (c *trio) client(h *lab.Mercury, name, ca string) (*http.Client, error) {
	pool, err := trustOn(h, ca)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: pool}
	if name != "" {
		pair, err := pairOf(h, "/var/lib/nodeagent/pki/certs/"+name+"/current/tls.crt")
		if err != nil {
			return nil, err
		}
		// Also where the server says that it is of none of its authorities.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return &http.Client{Transport: &http.Transport{DialContext: h.Dial, TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 20 * time.Second}, nil
}

// try makes a request and returns its status.
func (c *trio) try(h *lab.Mercury, name, ca, method, address, path string, header http.Header) (int, error) {
	status, _, err := c.talk(c.ctx, h, name, ca, method, "https://"+address+path, "", header)
	return status, err
}

func (c *trio) talk(ctx context.Context, h *lab.Mercury, name, ca, method, url, body string, header http.Header) (int, []byte, error) {
	client, err := c.client(h, name, ca)
	if err != nil {
		return 0, nil, err
	}
	return send(ctx, client, method, url, body, header)
}

func send(ctx context.Context, client *http.Client, method, url, body string, header http.Header) (int, []byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if header != nil {
		r.Header = header.Clone()
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	answer, err := client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	return answer.StatusCode, content, err
}

// person is whom an API server takes a client for.
type person struct {
	Username string
	Groups   []string
}

func (c *trio) whoami(h *lab.Mercury, name string, header http.Header) (person, error) {
	const ask = `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`
	var review struct {
		Status struct{ UserInfo person }
	}
	status, content, err := c.talk(c.ctx, h, name, "k8s-server", http.MethodPost,
		"https://"+address(h)+":6443/apis/authentication.k8s.io/v1/selfsubjectreviews", ask, header)
	if err == nil && status != http.StatusCreated {
		err = fmt.Errorf("%d: %s", status, content)
	}
	if err == nil {
		err = json.Unmarshal(content, &review)
	}
	return review.Status.UserInfo, err
}
