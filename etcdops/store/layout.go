package store

import (
	"crypto/sha256"
	"encoding/hex"
	"path"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
)

// Place is a store as the spec names it.
type Place struct {
	// Name is how people call it; Where is the folder, or endpoint, bucket and
	// prefix.
	Name, Where string
	Store       Store
	Keep        hosts.Retention
}

// Close ends what the place keeps open; it can be used again.
func (p Place) Close() {
	if s, ok := p.Store.(*S3); ok {
		s.Close()
	}
}

// Owner is whose snapshots are meant: those of one host of one cluster.
type Owner struct{ Cluster, Host string }

// Dir is the folder of the owner's snapshots in every store.
func (o Owner) Dir() string { return path.Join(o.Cluster, o.Host) }

// owns tells whether the snapshot is the owner's.
func (o Owner) owns(e etcdops.Entry) bool {
	return e.Manifest != nil && e.Manifest.Cluster == o.Cluster && e.Manifest.Host == o.Host
}

// objectOf is the name of a snapshot in every store.
func objectOf(m etcdops.Manifest) string {
	return path.Join(Owner{m.Cluster, m.Host}.Dir(), m.Name())
}

// Where says where a copy is, for people.
func Where(c hosts.Copy) string {
	if c.S3 == nil {
		return c.Folder
	}
	return c.S3.Endpoint + "/" + path.Join(c.S3.Bucket, c.S3.Prefix)
}

// contentType is what the object is to browsers and tools.
func contentType(name string) string {
	switch path.Ext(name) {
	case ".json":
		return "application/json"
	case ".zst":
		return "application/zstd"
	}
	return "application/octet-stream"
}

// sumOf is what content is said to be.
func sumOf(content []byte) Meta {
	sum := sha256.Sum256(content)
	return Meta{Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}
}
