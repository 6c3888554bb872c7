package hosts

import (
	"time"
)

// LocalCopy names Snapshots.Destination where a place is named; no copy is
// called so.
const LocalCopy = "local"

// Copy is a place besides Snapshots.Destination where snapshots are kept: every
// one is saved on the host first and then brought there.
type Copy struct {
	// Name is a label; people write it before a snapshot's name, "offsite:latest".
	Name string
	// Folder is the folder where it is one, such as a mounted share; else S3 is
	// set.
	Folder string
	S3     *S3
	// Keep says which snapshots of this host stay there; that of Snapshots by
	// default.
	Keep Retention
}

// S3 is a bucket of an object store that speaks Amazon's S3.
type S3 struct {
	// Endpoint is an https URL without a path ("https://s3.example.org:9000");
	// http is for loopback alone.
	Endpoint string
	Bucket   string
	// Region is for the signature of requests.
	Region string
	// Prefix is the folder in the bucket, without slashes at its ends; empty for
	// the bucket itself.
	Prefix string
	// PathStyle asks for URL/BUCKET, else BUCKET.URL is asked.
	PathStyle bool
	// CAFile is a file of CAs, the system's by default.
	CAFile string
	// Encryption is EncryptionNone, EncryptionS3 or EncryptionKMS: how the store
	// is asked to encrypt what it keeps. KMSKey is the id of the latter's key.
	Encryption, KMSKey string

	// One of these says where the access key is: a file for its owner alone, the
	// name of a credential of nodeagent.service (systemd.exec(5)), or the name of
	// an entry below "snapshots/" of the cluster's secrets in Vault.
	CredentialsFile, Credential, VaultEntry string
}

// What S3.Encryption may be.
const (
	EncryptionNone = "none"
	EncryptionS3   = "s3"
	EncryptionKMS  = "kms"
)

func snapshotsSchema() *rule {
	snapshots := keys{
		"schedule":     one(text("calendar expression", parseSchedule)),
		"by":           one(word(ByEach, ByOne)),
		"spread":       one(duration(0)),
		"drill":        one(text("calendar expression", parseSchedule)),
		"drill_spread": one(duration(0)),

		"destination": one(text("path", parseDestinationFolder)),

		"compression":   one(word(CompressionZstd, CompressionNone)),
		"recipients":    listOf(one(text("age recipient", parseRecipient))),
		"identity_file": one(text("path", parsePath)),
		"vault_key":     perCluster(one(text("key name", parseVaultKey))),

		"public_keys":  perHost(listOf(one(text("snapshot key", parseSnapshotKey)))),
		"certificates": one(boolean),

		"copies": named(copyNames, copySchema()),
	}
	retentionSchema(snapshots)
	return table(snapshots)
}

func copySchema() *rule {
	place := keys{
		"folder": one(text("path", parseDestinationFolder)),

		"endpoint":   one(text("URL", parseS3Endpoint)),
		"bucket":     one(text("bucket name", parseBucket)),
		"region":     one(text("region", parseRegion)),
		"prefix":     one(text("path in the bucket", parsePrefixInBucket)),
		"path_style": one(boolean),
		"ca_file":    one(text("path", parsePath)),
		"encryption": one(word(EncryptionNone, EncryptionS3, EncryptionKMS)),
		"kms_key":    one(text("key id", parseKMSKey)),

		"credentials_file": one(text("path", parsePath)),
		"credential":       one(text("credential name", parseCredentialName)),
		"vault_entry":      one(text("label", parseLabel)),
	}
	retentionSchema(place)
	return table(place)
}

// retentionSchema adds the keys of a Retention.
func retentionSchema(to keys) {
	to["keep"] = one(integer("integer", 1, 100000))
	for _, period := range []string{"hourly", "daily", "weekly", "monthly"} {
		to["keep_"+period] = one(integer("integer", 0, 100000))
	}
	to["keep_within"] = one(duration(time.Minute))
	to["keep_longest"] = one(duration(time.Hour))
}

func readRetention(n *node) Retention {
	return Retention{
		Last:    parsed[int](n.get("keep")),
		Hourly:  parsed[int](n.get("keep_hourly")),
		Daily:   parsed[int](n.get("keep_daily")),
		Weekly:  parsed[int](n.get("keep_weekly")),
		Monthly: parsed[int](n.get("keep_monthly")),
		Within:  parsed[time.Duration](n.get("keep_within")),
		Longest: parsed[time.Duration](n.get("keep_longest")),
	}
}

func readCopies(n *node) []Copy {
	var copies []Copy
	for _, name := range n.names() {
		at := n.table[name]
		c := Copy{Name: name, Folder: parsed[string](at.get("folder")), Keep: readRetention(at)}
		if c.Folder == "" {
			c.S3 = &S3{
				Endpoint:  parsed[string](at.get("endpoint")),
				Bucket:    parsed[string](at.get("bucket")),
				Region:    parsed[string](at.get("region")),
				Prefix:    parsed[string](at.get("prefix")),
				PathStyle: parsed[bool](at.get("path_style")),
				CAFile:    parsed[string](at.get("ca_file")),

				Encryption: parsed[string](at.get("encryption")),
				KMSKey:     parsed[string](at.get("kms_key")),

				CredentialsFile: parsed[string](at.get("credentials_file")),
				Credential:      parsed[string](at.get("credential")),
				VaultEntry:      parsed[string](at.get("vault_entry")),
			}
		}
		copies = append(copies, c)
	}
	return copies
}

// defaultCopies fills in what copies leave out, once the rest of Snapshots is
// filled. Rules of a copy replace those of Snapshots as a whole: a mixture would
// be nobody's intention.
func (d *draft) defaultCopies() {
	for i := range d.spec.Snapshots.Copies {
		c := &d.spec.Snapshots.Copies[i]
		if (c.Keep == Retention{}) {
			c.Keep = d.spec.Snapshots.Keep
		}
		set(&c.Keep.Last, 1)
		if c.S3 == nil {
			continue
		}
		set(&c.S3.Region, defaultRegion)
		set(&c.S3.Encryption, EncryptionNone)
		if !d.has("snapshots.copies." + c.Name + ".path_style") {
			c.S3.PathStyle = true
		}
	}
}

// defaultRegion is what Amazon calls the oldest one, and what other stores
// expect where they have no regions.
const defaultRegion = "us-east-1"
