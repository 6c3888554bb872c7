package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/lab"
)

// row is one certificate of one host as it must be. The rows are written out
// here, and not taken from the package that asks for them.
type row struct {
	name, ca, cn, org string
	dns, addresses    []string
	server, client    bool
	life              time.Duration
	// at is the port that shows it, or by which component it is used: the flag
	// or file that names it.
	at  string
	use use
}

// use is where a component's process says which client certificate it uses:
// a flag with the file, or the flag or file with a kubeconfig that names it.
type use struct {
	component, flag string
	kubeconfig      bool
	path            string // where no process of its own uses it
}

const (
	leafLife  = 2160 * time.Hour
	adminLife = 24 * time.Hour
	// backdated is how far before it was made a certificate begins, for clocks
	// that are slow.
	backdated = 5 * time.Minute
)

// serverRows are the certificates that a host's ports show.
func serverRows(host, address string, controlPlane bool) []row {
	rows := []row{
		{
			name: "etcd-server", ca: "etcd-server", cn: host, at: address + ":2379", server: true, client: true,
			dns: []string{host, "localhost"}, addresses: []string{"127.0.0.1", "::1", address},
		},
		{
			name: "etcd-peer", ca: "etcd-peer", cn: host, at: address + ":2380", server: true, client: true,
			dns: []string{host}, addresses: []string{address},
		},
		{
			name: "kubelet-server", ca: "k8s-server", cn: "system:node:" + host, org: "system:nodes", at: address + ":10250", server: true,
			dns: []string{host}, addresses: []string{address},
		},
	}
	if !controlPlane {
		return rows
	}
	addresses := []string{"10.96.0.1", "127.0.0.1", "192.0.2.11", "::1"} // with that of the endpoint
	if !slices.Contains(addresses, address) {
		addresses = append(addresses, address)
	}
	return append(rows,
		row{
			name: "kube-apiserver", ca: "k8s-server", cn: "kube-apiserver", at: address + ":6443", server: true,
			dns:       []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost", host},
			addresses: addresses,
		},
		row{
			name: "kube-controller-manager-server", ca: "k8s-server", cn: "kube-controller-manager", at: "127.0.0.1:10257", server: true,
			dns: []string{"localhost"}, addresses: []string{"127.0.0.1", "::1"},
		},
		row{
			name: "kube-scheduler-server", ca: "k8s-server", cn: "kube-scheduler", at: "127.0.0.1:10259", server: true,
			dns: []string{"localhost"}, addresses: []string{"127.0.0.1", "::1"},
		},
	)
}

// clientRows are the certificates with which a host's components speak.
func clientRows(host string, controlPlane bool) []row {
	const certs = "/var/lib/nodeagent/pki/certs/"
	rows := []row{
		{name: "nodeagent-etcd-client", ca: "etcd-server", cn: "nodeagent-etcd-maintenance", use: use{path: certs + "nodeagent-etcd-client/current/tls.crt"}},
		{name: "nodeagent", ca: "nodeagent", cn: host, use: use{path: certs + "nodeagent/current/tls.crt"}},
		{name: "kubelet-client", ca: "k8s-client", cn: "system:node:" + host, org: "system:nodes", use: use{component: "kubelet", flag: "kubeconfig", kubeconfig: true}},
		{name: "kube-proxy", ca: "k8s-client", cn: "system:kube-proxy", org: "system:node-proxier", use: use{component: "kube-proxy", flag: "config", kubeconfig: true}},
	}
	if !controlPlane {
		return rows
	}
	return append(rows,
		row{name: "apiserver-etcd-client", ca: "etcd-server", cn: "kube-apiserver-etcd-client", use: use{component: "kube-apiserver", flag: "etcd-certfile"}},
		row{name: "apiserver-kubelet-client", ca: "k8s-client", cn: "kube-apiserver-kubelet-client", org: "nodeagent:kubelet-api-admins", use: use{component: "kube-apiserver", flag: "kubelet-client-certificate"}},
		row{name: "front-proxy-client", ca: "front-proxy", cn: "front-proxy-client", use: use{component: "kube-apiserver", flag: "proxy-client-cert-file"}},
		row{name: "kube-controller-manager", ca: "k8s-client", cn: "system:kube-controller-manager", use: use{component: "kube-controller-manager", flag: "kubeconfig", kubeconfig: true}},
		row{name: "kube-scheduler", ca: "k8s-client", cn: "system:kube-scheduler", use: use{component: "kube-scheduler", flag: "kubeconfig", kubeconfig: true}},
		row{name: "admin", ca: "k8s-client", cn: "kubernetes-admin", org: "nodeagent:admins", life: adminLife, use: use{path: "/var/lib/nodeagent/components/admin/kubeconfig", kubeconfig: true}},
	)
}

// keyTypes are those that the hosts' files ask for.
var keyTypes = map[string]string{"n1": "P-256", "n2": "P-384", "n3": "Ed25519"}

// authorities are the CAs of the cluster, as Vault has them: who signed
// something is never judged by what lies on a host.
func (c *trio) authorities() map[string]*x509.CertPool {
	c.t.Helper()
	pools := map[string]*x509.CertPool{}
	for _, ca := range []string{"etcd-server", "etcd-peer", "k8s-server", "k8s-client", "front-proxy", "nodeagent"} {
		content := c.readVault(place + "/" + ca + "/ca/pem")
		pools[ca] = x509.NewCertPool()
		if !pools[ca].AppendCertsFromPEM(content) {
			c.t.Fatalf("Vault's CA %s is %q", ca, content)
		}
	}
	return pools
}

func controlPlane(h *lab.Mercury) bool { return h.Name() != "n3" }

func address(h *lab.Mercury) string { return "192.0.2.1" + strings.TrimPrefix(h.Name(), "n") }

// portsShowTable reads the certificate of every port of every host.
func portsShowTable(t *testing.T, c *trio) {
	pools := c.authorities()
	for _, h := range c.hosts {
		for _, want := range serverRows(h.Name(), address(h), controlPlane(h)) {
			chain, err := c.shownAt(h, want.at)
			if err != nil {
				t.Errorf("%s: %s at %s: %v", h.Name(), want.name, want.at, err)
				continue
			}
			for _, wrong := range want.differences(chain, pools, keyTypes[h.Name()]) {
				t.Errorf("%s: %s at %s: %s", h.Name(), want.name, want.at, wrong)
			}
		}
	}
}

// shownAt is the chain that a port shows, seen from the host.
func (c *trio) shownAt(h *lab.Mercury, at string) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(c.ctx, 20*time.Second)
	defer cancel()
	raw, err := h.Dial(ctx, "tcp", at)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true}) // held against Vault's authorities by who asks
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if v := conn.ConnectionState().Version; v != tls.VersionTLS13 {
		return nil, fmt.Errorf("it speaks %s", tls.VersionName(v))
	}
	return conn.ConnectionState().PeerCertificates, nil
}

// clientsAreTable reads the client certificates that the processes were told to
// use, with their keys.
func clientsAreTable(t *testing.T, c *trio) {
	pools := c.authorities()
	for _, h := range c.hosts {
		for _, want := range clientRows(h.Name(), controlPlane(h)) {
			file := c.usedBy(h, want.use)
			pair, err := pairOf(h, file)
			if err != nil {
				t.Errorf("%s: %s: %v", h.Name(), want.name, err)
				continue
			}
			want.client = true
			chain := []*x509.Certificate{pair.Leaf}
			for _, wrong := range want.differences(chain, pools, keyTypes[h.Name()]) {
				t.Errorf("%s: %s in %s: %s", h.Name(), want.name, file, wrong)
			}
		}
	}
}

// usedBy asks the running process which file it uses.
func (c *trio) usedBy(h *lab.Mercury, u use) string {
	c.t.Helper()
	file := u.path
	if u.component != "" {
		pid := strings.TrimSpace(c.on(h, "systemctl", "show", "-P", "MainPID", "nodeagent-"+u.component))
		line := strings.Split(c.on(h, "cat", "/proc/"+pid+"/cmdline"), "\x00")
		i := slices.IndexFunc(line, func(arg string) bool { return strings.HasPrefix(arg, "--"+u.flag+"=") })
		if i < 0 {
			c.t.Fatalf("%s: %s runs without --%s: %q", h.Name(), u.component, u.flag, line)
		}
		_, file, _ = strings.Cut(line[i], "=")
	}
	for _, key := range []string{"kubeconfig", "client-certificate"} {
		if !u.kubeconfig || key == "kubeconfig" && u.flag != "config" {
			continue
		}
		found := regexp.MustCompile(`(?m)^\s*` + key + `: (\S+)$`).FindStringSubmatch(c.on(h, "cat", file))
		if found == nil {
			c.t.Fatalf("%s: %s has no %s", h.Name(), file, key)
		}
		file = strings.Trim(found[1], `"`)
	}
	return file
}

// pairOf reads a certificate's file and the key beside it.
func pairOf(h *lab.Mercury, cert string) (tls.Certificate, error) {
	key := filepath.Join(filepath.Dir(cert), "tls.key")
	return tls.LoadX509KeyPair(filepath.Join(h.Root(), cert), filepath.Join(h.Root(), key))
}

// differences says in which way a certificate is not what the row says.
func (r row) differences(chain []*x509.Certificate, pools map[string]*x509.CertPool, key string) (wrong []string) {
	leaf := chain[0]
	compare := func(what string, got, want any) {
		if fmt.Sprint(got) != fmt.Sprint(want) {
			wrong = append(wrong, fmt.Sprintf("%s: %v, want %v", what, got, want))
		}
	}
	compare("subject", leaf.Subject, r.subject())
	compare("DNS names", sorted(leaf.DNSNames), sorted(r.dns))
	compare("addresses", addressesOf(leaf), sorted(r.addresses))
	compare("other names", len(leaf.EmailAddresses)+len(leaf.URIs), 0)
	compare("extended usage", leaf.ExtKeyUsage, r.usages())
	compare("other extended usage", len(leaf.UnknownExtKeyUsage), 0)
	compare("usage", leaf.KeyUsage, x509.KeyUsageDigitalSignature)
	compare("CA", leaf.IsCA, false)
	compare("key", keyOf(leaf), key)
	life := r.life
	if life == 0 {
		life = leafLife
	}
	// Vault takes the moment for each of the two ends, in whole seconds.
	compare("life", leaf.NotAfter.Sub(leaf.NotBefore).Round(time.Minute), life+backdated)
	if now := time.Now(); now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		wrong = append(wrong, fmt.Sprintf("it is valid from %s to %s", leaf.NotBefore, leaf.NotAfter))
	}
	for ca, pool := range pools {
		if err := verify(chain, pool, leaf.ExtKeyUsage); (err == nil) != (ca == r.ca) {
			wrong = append(wrong, fmt.Sprintf("by authority %s of Vault: %v; %s signs it", ca, err, r.ca))
		}
	}
	return wrong
}

// verify holds a chain against an authority, for each of the usages.
func verify(chain []*x509.Certificate, roots *x509.CertPool, usages []x509.ExtKeyUsage) error {
	above := x509.NewCertPool()
	for _, c := range chain[1:] {
		above.AddCert(c)
	}
	var failed []error
	for _, usage := range usages {
		_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: above, KeyUsages: []x509.ExtKeyUsage{usage}})
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

func (r row) subject() string {
	if r.org == "" {
		return "CN=" + r.cn
	}
	return "CN=" + r.cn + ",O=" + r.org
}

func (r row) usages() (list []x509.ExtKeyUsage) {
	if r.server {
		list = append(list, x509.ExtKeyUsageServerAuth)
	}
	if r.client {
		list = append(list, x509.ExtKeyUsageClientAuth)
	}
	return list
}

func keyOf(c *x509.Certificate) string {
	switch key := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return key.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return c.PublicKeyAlgorithm.String()
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }

func addressesOf(c *x509.Certificate) []string {
	var list []string
	for _, ip := range c.IPAddresses {
		a, _ := netip.AddrFromSlice(ip)
		list = append(list, a.Unmap().String())
	}
	return sorted(list)
}

// readVault reads what Vault tells everybody, without a token.
func (c *trio) readVault(path string) []byte {
	c.t.Helper()
	answer, err := c.vaultClient("").Logical().ReadRawWithContext(c.ctx, path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		c.t.Fatalf("read %s of Vault: %s", path, answer.Status)
	}
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return content
}

// trustOn is the bundle of a CA that lies on a host.
func trustOn(h *lab.Mercury, ca string) (*x509.CertPool, error) {
	content, err := os.ReadFile(filepath.Join(h.Root(), "var/lib/nodeagent/pki/trust", ca+".crt"))
	pool := x509.NewCertPool()
	if err == nil && !pool.AppendCertsFromPEM(content) {
		err = fmt.Errorf("host %s trusts nobody as %s", h.Name(), ca)
	}
	return pool, err
}
