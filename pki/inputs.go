package pki

import (
	"github.com/nodeagent/nodeagent/internal/layout"
)

// Inputs returns the files whose change some component notices only when it is
// restarted, each with a digest: every trust bundle and the service account
// key pair. A file that is missing or cannot be read is not in it. No digest is
// of secret content: the private key stands under the digest of its public
// half.
func Inputs(root layout.Root) map[string]string {
	digests := map[string]string{}
	for _, path := range append(trustPaths(root), root.ServiceAccountPublic()) {
		if content, err := readFile(path); err == nil {
			digests[path] = digest(content.content)
		}
	}
	if key, err := readAs(root.ServiceAccountKey(), parseKey); err == nil {
		digests[root.ServiceAccountKey()] = keyID(key.Public())
	}
	return digests
}

func trustPaths(root layout.Root) []string {
	var list []string
	for _, ca := range layout.CAs() {
		list = append(list, root.Trust(ca))
	}
	return list
}
