package pki

import (
	"bytes"
	"crypto/x509"
	"slices"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// Inputs returns the files whose change some component notices only when it is
// restarted, each with a digest: every trust bundle and the service account
// key pair. A file that is missing or cannot be read is not in it. No digest is
// of secret content: the private key stands under the digest of its public
// half. The certificates in the files of more are in it, too.
func Inputs(root layout.Root, more ...string) map[string]string {
	digests := map[string]string{}
	for _, path := range more {
		if content, err := readFile(path); err == nil {
			digests[path] = digest(content.content)
		}
	}
	for _, path := range trustPaths(root) {
		if list, err := readAs(path, parseBundle); err == nil {
			digests[path] = digestOf(list)
		}
	}
	if content, err := readFile(root.ServiceAccountPublic()); err == nil {
		digests[root.ServiceAccountPublic()] = digest(content.content)
	}
	if key, err := readAs(root.ServiceAccountKey(), parseKey); err == nil {
		digests[root.ServiceAccountKey()] = keyID(key.Public())
	}
	return digests
}

// digestOf is of the certificates in whatever order they stand: which of them
// signs now, as the order says, is nothing that a component must be restarted
// for.
func digestOf(list []*x509.Certificate) string {
	var raw [][]byte
	for _, c := range list {
		raw = append(raw, c.Raw)
	}
	slices.SortFunc(raw, bytes.Compare)
	return digest(bytes.Join(raw, nil))
}

func trustPaths(root layout.Root) []string {
	var list []string
	for _, ca := range layout.CAs() {
		list = append(list, root.Trust(ca))
	}
	return list
}
