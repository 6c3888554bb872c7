package kube

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

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
// From 1.36 on client-go looks at the CA's file again every few minutes (its
// feature ClientsAllowCARotation), before that only at start. It looks at the
// pair, too, which is too late for one that is renewed shortly before its end.
func clientFiles(spec *hosts.Spec, root layout.Root, certificate string) []string {
	var files []string
	if minor(spec.Kubernetes.Version) < 36 {
		files = append(files, root.Trust(layout.CAK8sServer))
	}
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

// minor is the second number of "1.36.3", 0 where there is none.
func minor(version string) int {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return 0
	}
	n, err := strconv.Atoi(parts[1])
	if err != nil {
		return 0
	}
	return n
}
