package hosts

import (
	"embed"
	"fmt"
	"path"
	"slices"

	"github.com/BurntSushi/toml"
)

// firstRelease is since when a key is there that says nothing else.
const firstRelease = "0.1"

// referenceFiles say in TOML what each key means: a table Doc for each path.
// Each file is one table of docs/spec.md, and keys stand in its order there.
//
//go:embed reference/*.toml
var referenceFiles embed.FS

// readDocs returns what the reference says of each path, and the place of each.
// The files are part of the program: what is wrong with them, a test finds.
func readDocs() (map[string]Doc, map[string]int) {
	docs, order := map[string]Doc{}, map[string]int{}
	for _, group := range groups {
		read, paths, err := readGroup(group)
		if err != nil {
			panic(err)
		}
		for _, path := range paths {
			docs[path], order[path] = read[path], len(order)
		}
	}
	return docs, order
}

// groups are the files' names in the order of the reference.
var groups = []string{
	"cluster", "host", "wireguard", "kernel", "network", "links", "linkkinds", "routes", "rules",
	"firewall", "drift", "pki", "kubernetes", "etcd", "snapshots", "metrics",
}

// readGroup reads one file: its docs, and their paths in the file's order.
func readGroup(group string) (map[string]Doc, []string, error) {
	name := path.Join("reference", group+".toml")
	docs := map[string]Doc{}
	meta, err := toml.DecodeFS(referenceFiles, name, &docs)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", name, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, nil, fmt.Errorf("read %s: %s is no attribute of a key", name, unknown[0])
	}
	var paths []string
	for _, key := range meta.Keys() {
		if len(key) != 1 {
			continue
		}
		doc := docs[key[0]]
		if doc.Since == "" {
			doc.Since = firstRelease
		}
		if doc.Required && doc.Unset == "" {
			doc.Unset = "required"
		}
		docs[key[0]] = doc
		paths = append(paths, key[0])
	}
	return docs, paths, nil
}

// Group returns the keys of one table of docs/spec.md in its order; nil where
// the reference has no such file.
func Group(name string) []*Key {
	_, paths, err := readGroup(name)
	if err != nil {
		return nil
	}
	var keys []*Key
	for _, p := range paths {
		keys = append(keys, Lookup(p))
	}
	return keys
}

// Groups are the names that Group takes, in the order of the reference.
func Groups() []string { return slices.Clone(groups) }
