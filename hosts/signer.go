package hosts

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"strings"
)

// parseSnapshotKey reads the public half of a host's snapshot key: an Ed25519
// key in DER (RFC 8410), base64, which is what is between the two lines of its
// PEM file.
func parseSnapshotKey(s string) (string, error) {
	if strings.HasPrefix(s, "MC4CAQAw") {
		return "", fmt.Errorf("is a private key: write the public one, as \"nodeagent snapshot key\" prints it, and replace this one, which others may have read by now")
	}
	if der, err := base64.StdEncoding.Strict().DecodeString(s); err == nil {
		if key, err := x509.ParsePKIXPublicKey(der); err == nil {
			if key, ok := key.(ed25519.PublicKey); ok {
				if again, err := x509.MarshalPKIXPublicKey(key); err == nil && bytes.Equal(again, der) {
					return s, nil
				}
			}
		}
	}
	return "", fmt.Errorf("%s is not a snapshot key: copy the 60 characters that \"nodeagent snapshot key\" prints on the host", quote(s))
}

// parseVaultKey reads the name of an entry of the cluster's KV engine in Vault:
// "snapshots", or a path below that, so that it is never one of nodeagent's
// other secrets.
func parseVaultKey(s string) (string, error) {
	const folder = "snapshots"
	ok := s == folder || strings.HasPrefix(s, folder+"/")
	for part := range strings.SplitSeq(s, "/") {
		_, err := parseLabel(part)
		ok = ok && err == nil
	}
	if !ok {
		return "", fmt.Errorf("%s is not the name of a key of snapshots: it is %q, or begins with %q and has labels between slashes", quote(s), folder, folder+"/")
	}
	return s, nil
}
