package hosts

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
)

var (
	// bucketPattern is Amazon's rule for new buckets, which other stores share.
	bucketPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	regionPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)
	// prefixPattern has the characters that are safe in the names of objects.
	prefixPattern = regexp.MustCompile(`^[A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*$`)
	kmsKeyPattern = regexp.MustCompile(`^[A-Za-z0-9:/_.-]+$`)
)

// checkCopyName keeps the name of the folder on the host for that.
func checkCopyName(s string) error {
	if s == LocalCopy {
		return fmt.Errorf("%s is what snapshots.destination is called: give the copy another name", quote(s))
	}
	return checkLabel(s)
}

// parseS3Endpoint reads a URL without a path, a user or a query. Without TLS
// everybody on the way could read the snapshots, and put others in their place.
func parseS3Endpoint(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" ||
		u.Scheme != "https" && u.Scheme != "http" {
		return "", fmt.Errorf("%s is not a URL such as \"https://s3.example.org:9000\": the bucket and the prefix are keys of their own", quote(s))
	}
	if u.Scheme == "http" && !isLoopback(u.Hostname()) {
		return "", fmt.Errorf("%s must begin with https://: without TLS everybody on the way reads the snapshots", quote(s))
	}
	if _, port, err := net.SplitHostPort(u.Host); err == nil && port == "" {
		return "", fmt.Errorf("%s has no port behind its colon", quote(s))
	}
	return strings.TrimSuffix(s, "/"), nil
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

func parseBucket(s string) (string, error) {
	if !bucketPattern.MatchString(s) || strings.Contains(s, "..") {
		return "", fmt.Errorf("%s is not the name of a bucket: 3 to 63 lower-case letters, digits, dashes and dots", quote(s))
	}
	return s, nil
}

func parseRegion(s string) (string, error) {
	if !regionPattern.MatchString(s) {
		return "", fmt.Errorf("%s is not a region such as \"eu-central-1\"", quote(s))
	}
	return s, nil
}

func parsePrefixInBucket(s string) (string, error) {
	trimmed := strings.Trim(s, "/")
	if !prefixPattern.MatchString(trimmed) || path.Clean(trimmed) != trimmed || strings.HasPrefix(trimmed, "..") {
		return "", fmt.Errorf("%s is not a folder in a bucket such as \"etcd/production\"", quote(s))
	}
	return trimmed, nil
}

func parseKMSKey(s string) (string, error) {
	if !kmsKeyPattern.MatchString(s) || len(s) > 2048 {
		return "", fmt.Errorf("%s is not the id of a key", quote(s))
	}
	return s, nil
}

// checkSnapshots refuses rules that contradict each other: one of them would be
// broken, and nobody could tell from the spec which.
func (d *draft) checkSnapshots() {
	if d.spec.Snapshots.VaultKey != "" && d.spec.PKI.Vault == nil && d.ok("snapshots.vault_key", "pki.issuer") {
		d.at(d.tree.get("snapshots.vault_key"), "the key is kept in Vault, and this fleet has none: let pki.issuer be \"vault\", or use snapshots.recipients")
	}
	d.checkRetention("snapshots", d.spec.Snapshots.Keep)
	places := map[string]string{}
	for _, c := range d.spec.Snapshots.Copies {
		at := "snapshots.copies." + c.Name
		if d.tree.get(at).bad {
			continue
		}
		d.checkRetention(at, c.Keep)
		d.checkCopy(at, c)
		if other := places[c.place()]; other != "" && d.ok(at) {
			d.at(d.tree.get(at), "is the same place as %s (%s): two sets of rules would delete each other's snapshots", other, d.tree.get(other).place())
		}
		places[c.place()] = at
	}
}

// place tells two places apart.
func (c Copy) place() string {
	if c.S3 == nil {
		return c.Folder
	}
	return c.S3.Endpoint + " " + c.S3.Bucket + " " + c.S3.Prefix
}

func (d *draft) checkRetention(at string, k Retention) {
	within, longest := at+".keep_within", at+".keep_longest"
	if k.Longest > 0 && k.Within > k.Longest && d.ok(within, longest) && (d.has(within) || d.has(longest)) {
		d.at(d.nearest(within, longest), "every snapshot stays for %s (%s), and none for longer than %s (%s)",
			hours(k.Within), d.origin(within), hours(k.Longest), d.origin(longest))
	}
}

// s3Keys are the keys of a copy that make no sense for a folder.
var s3Keys = []string{
	"endpoint", "bucket", "region", "prefix", "path_style", "ca_file", "encryption", "kms_key",
	"credentials_file", "credential", "vault_entry",
}

func (d *draft) checkCopy(at string, c Copy) {
	n := d.tree.get(at)
	if folder := n.get("folder"); folder != nil {
		d.checkFolderCopy(n, folder, c)
		return
	}
	if n.get("endpoint") == nil {
		d.at(n, "says no place: write folder = \"/…\", or endpoint = \"https://…\" with a bucket")
		return
	}
	if n.get("bucket") == nil {
		d.at(n, "has no bucket: write bucket = \"…\"")
	}
	d.checkCredentials(n)
	if kms, encryption := n.get("kms_key"), n.get("encryption"); !encryption.broken() {
		switch {
		case kms != nil && c.S3.Encryption != EncryptionKMS:
			d.at(kms, "is for encryption = %q alone", EncryptionKMS)
		case kms == nil && c.S3.Encryption == EncryptionKMS:
			d.at(encryption, "needs the id of the key: write kms_key = \"…\"")
		}
	}
}

func (d *draft) checkFolderCopy(n, folder *node, c Copy) {
	for _, key := range s3Keys {
		if other := n.get(key); other != nil {
			d.at(other, "is for a bucket, and the copy is a folder (%s): remove one of them", folder.place())
		}
	}
	if main := d.spec.Snapshots.Destination; c.Folder != "" && (within(c.Folder, main) || within(main, c.Folder)) {
		d.at(folder, "%s is no other place than snapshots.destination, %s", quote(c.Folder), quote(main))
	}
}

// within tells whether a folder is another one, or below it.
func within(dir, other string) bool { return dir == other || strings.HasPrefix(dir, other+"/") }

// checkCredentials wants exactly one way to the access key.
func (d *draft) checkCredentials(n *node) {
	ways := []string{"credentials_file", "credential", "vault_entry"}
	given := slices.DeleteFunc(slices.Clone(ways), func(key string) bool { return n.get(key) == nil })
	switch {
	case len(given) == 0:
		d.at(n, "says not where its access key is: write %s", list(ways))
	case len(given) > 1:
		d.at(n.get(given[1]), "says where the access key is, and so does %s (%s): remove one of them", given[0], n.get(given[0]).place())
	case given[0] == "vault_entry" && d.spec.PKI.Vault == nil && d.ok("pki.vault"):
		d.at(n.get("vault_entry"), "the fleet has no Vault: write [pki.vault], or another of %s", list(ways[:2]))
	}
}
