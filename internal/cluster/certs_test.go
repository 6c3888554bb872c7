package cluster_test

import (
	"crypto/x509"
	"encoding/pem"
	"testing"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/test/certs"
)

// inGroups is for a certificate whose owner is in groups.
func inGroups(groups ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.Subject.Organization = groups }
}

// putPKI writes every certificate, bundle and key of a control plane to where
// the components look for it, and returns the clients' CA.
func putPKI(t *testing.T, root layout.Root) certs.Pair {
	t.Helper()
	authorities := map[string]certs.Pair{}
	for _, name := range layout.CAs() {
		authorities[name] = certs.CA(t, name, nil)
		authorities[name].Write(t, root.Trust(name), "")
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
		authorities[subject.ca].Issue(t, subject.commonName, inGroups(groups...)).Write(t, root.Certificate(name).Cert, root.Certificate(name).Key)
	}
	putKeys(t, root)
	return authorities[layout.CAK8sClient]
}

// putKeys writes the service-account key pair and the encryption at rest.
func putKeys(t *testing.T, root layout.Root) {
	t.Helper()
	accounts := certs.CA(t, "service-accounts", nil)
	public, err := x509.MarshalPKIXPublicKey(accounts.Key.Public())
	if err != nil {
		t.Fatal(err)
	}
	certs.Put(t, root.ServiceAccountKey(), accounts.KeyPEM(t))
	certs.Put(t, root.ServiceAccountPublic(), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	certs.Put(t, root.EncryptionConfig(), []byte(`apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - secretbox: {keys: [{name: one, secret: MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=}]}
  - identity: {}
`))
}
