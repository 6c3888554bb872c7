package kube

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/units"
)

// inputs is the digest of everything that a unit reads only when it starts:
// "sha256:<hex>". Lengths stand before contents, so that no two sets of inputs
// run into one another.
func inputs(content string, files []units.File, restart []string, digests map[string]string) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "unit %d\n%s", len(content), content)
	for _, file := range files {
		fmt.Fprintf(sum, "file %q %o %d\n", file.Path, file.Mode, len(file.Content))
		sum.Write(file.Content)
	}
	for _, path := range restart {
		fmt.Fprintf(sum, "pki %q %q\n", path, digests[path])
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil))
}

// clientFiles is the restart files of a component that is a client of the API
// servers through a kubeconfig.
//
// client-go reads the CA's file at start alone, and from 1.36 on again every five
// minutes (its feature ClientsAllowCARotation), which is too late where a CA is
// changed: the API server shows the new one's certificate within seconds. It
// looks at the pair as often, which is too late for one that is renewed shortly
// before its end.
func clientFiles(spec *hosts.Spec, root layout.Root, certificate string) []string {
	files := []string{root.Trust(layout.CAK8sServer)}
	if spec.PKI.RenewBefore < hosts.ClientReread {
		files = append(files, root.Certificate(certificate).Cert)
	}
	return files
}

// ClientPairs returns the certificates that are restart files of components,
// whatever the host's roles. There are some only where certificates are renewed
// minutes before their end.
func ClientPairs(spec *hosts.Spec, root layout.Root) []string {
	if spec.PKI.RenewBefore >= hosts.ClientReread {
		return nil
	}
	var files []string
	for _, name := range []string{
		layout.CertControllerManagerClient, layout.CertSchedulerClient, layout.CertKubeletClient, layout.CertKubeProxy,
	} {
		files = append(files, root.Certificate(name).Cert)
	}
	return files
}
