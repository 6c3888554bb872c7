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

// clientTrust is the restart files of a component that reads the API servers'
// CA through a kubeconfig. From 1.36 on client-go looks at the file again every
// few minutes (its feature ClientsAllowCARotation), before that only at start.
func clientTrust(spec *hosts.Spec, root layout.Root) []string {
	if minor(spec.Kubernetes.Version) >= 36 {
		return nil
	}
	return []string{root.Trust(layout.CAK8sServer)}
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
