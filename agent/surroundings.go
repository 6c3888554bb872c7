package agent

import (
	"context"
	"os"
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/pki"
)

// Surroundings are what a snapshot's manifest says of this host beside etcd's
// data. What cannot be read is logged and left out: it keeps nobody from saving.
func (h *Host) Surroundings(ctx context.Context) etcdops.Surroundings {
	spec := h.Spec()
	s := etcdops.Surroundings{FleetDigest: spec.Digest}
	if v := spec.PKI.Vault; v != nil {
		s.Vault = &etcdops.VaultReference{Address: v.Address, Mount: v.Mount}
	}
	keys, err := pki.NamedEncryptionKeys(h.root)
	if err != nil {
		h.log.Warn("the encryption keys are not known", "error", err)
	}
	for _, k := range keys {
		s.EncryptionKeys = append(s.EncryptionKeys, etcdops.EncryptionKey{Provider: "secretbox", Name: k.Name, ID: k.ID})
	}
	have, err := pki.Observe(ctx, h.root)
	if err != nil {
		h.log.Warn("not all of the host's certificates can be read", "error", err)
	}
	want := pki.Want(spec)
	report := pki.NewReport(have, want, time.Now())
	s.CAs, s.ServiceAccountKeys = report.Trust, report.Keys[pki.KeyServiceAccount]
	if spec.Snapshots.Certificates {
		s.Certificates = h.publicHalves(want)
	}
	return s
}

// publicHalves are the certificates and the trust bundles that lie on this host.
func (h *Host) publicHalves(want pki.State) map[string]string {
	halves := map[string]string{}
	read := func(name, path string) {
		content, err := os.ReadFile(path)
		if err != nil {
			h.log.Warn("a certificate is left out of the snapshot's manifest", "certificate", name, "error", err)
			return
		}
		halves[name] = string(content)
	}
	for _, c := range want.Certificates {
		read(c.Name, h.root.Certificate(c.Name).Cert)
	}
	for _, b := range want.Trust {
		read("trust/"+b.CA, h.root.Trust(b.CA))
	}
	return halves
}
