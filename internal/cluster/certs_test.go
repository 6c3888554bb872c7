package cluster_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// authority is a CA of the test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

// issue signs a certificate that serves as server and client on loopback.
func (a authority) issue(t *testing.T, name string, groups ...string) (cert, key []byte) {
	t.Helper()
	leaf := newKey(t)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name, Organization: groups},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, a.cert, leaf.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return pemBlock("CERTIFICATE", der), privatePEM(t, leaf)
}

func (a authority) pair(t *testing.T, name string, groups ...string) tls.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair(a.issue(t, name, groups...))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func privatePEM(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pemBlock("PRIVATE KEY", der)
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func put(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// putPKI writes every certificate, bundle and key of a control plane to where
// the components look for it, and returns the clients' CA.
func putPKI(t *testing.T, root layout.Root) authority {
	t.Helper()
	authorities := map[string]authority{}
	for _, name := range layout.CAs() {
		a := newAuthority(t, name)
		authorities[name] = a
		put(t, root.Trust(name), pemBlock("CERTIFICATE", a.cert.Raw))
	}
	for name, subject := range map[string]struct {
		ca, commonName, group string
	}{
		layout.CertEtcdServer:              {layout.CAEtcdServer, "a", ""},
		layout.CertEtcdPeer:                {layout.CAEtcdPeer, "a", ""},
		layout.CertAPIServerEtcdClient:     {layout.CAEtcdServer, "kube-apiserver-etcd-client", ""},
		layout.CertNodeagentEtcdClient:     {layout.CAEtcdServer, "nodeagent-etcd-maintenance", ""},
		layout.CertAPIServer:               {layout.CAK8sServer, "kube-apiserver", ""},
		layout.CertAPIServerKubeletClient:  {layout.CAK8sClient, "kube-apiserver-kubelet-client", layout.KubeletAPIGroup},
		layout.CertFrontProxyClient:        {layout.CAFrontProxy, "front-proxy-client", ""},
		layout.CertControllerManagerClient: {layout.CAK8sClient, "system:kube-controller-manager", ""},
		layout.CertControllerManagerServer: {layout.CAK8sServer, "kube-controller-manager", ""},
		layout.CertSchedulerClient:         {layout.CAK8sClient, "system:kube-scheduler", ""},
		layout.CertSchedulerServer:         {layout.CAK8sServer, "kube-scheduler", ""},
		layout.CertAdmin:                   {layout.CAK8sClient, "kubernetes-admin", layout.AdminGroup},
	} {
		var groups []string
		if subject.group != "" {
			groups = []string{subject.group}
		}
		cert, key := authorities[subject.ca].issue(t, subject.commonName, groups...)
		put(t, root.Certificate(name).Cert, cert)
		put(t, root.Certificate(name).Key, key)
	}
	putKeys(t, root)
	return authorities[layout.CAK8sClient]
}

// putKeys writes the service-account key pair and the encryption at rest.
func putKeys(t *testing.T, root layout.Root) {
	t.Helper()
	key := newKey(t)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	put(t, root.ServiceAccountKey(), privatePEM(t, key))
	put(t, root.ServiceAccountPublic(), pemBlock("PUBLIC KEY", public))
	put(t, root.EncryptionConfig(), []byte(`apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - secretbox: {keys: [{name: one, secret: MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=}]}
  - identity: {}
`))
}
