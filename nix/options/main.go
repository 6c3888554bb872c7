// Command options writes nix/options.json: every key of a fleet's files with its
// type and meaning, for nix/settings.nix to make NixOS options of, and what a
// host's kernel gets by default. Its one source is the reference that docs/spec.md
// and the command line have as well.
//
//	go run ./nix/options          fail if nix/options.json is not current
//	go run ./nix/options -write   and write it
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing/fstest"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

const file = "nix/options.json"

func main() {
	write := flag.Bool("write", false, "write "+file)
	flag.Parse()
	if err := run(file, *write); err != nil {
		fmt.Fprintln(os.Stderr, "options:", err)
		os.Exit(1)
	}
}

func run(path string, write bool) error {
	want, err := document()
	if err != nil {
		return err
	}
	if write {
		return atomicfile.Write(path, want, 0o644)
	}
	is, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(is, want) {
		return fmt.Errorf("%s is not what the keys of a fleet say; run: make nix-options", path)
	}
	return nil
}

// node is one place in a fleet's files.
type node struct {
	Form  hosts.Form       `json:"form"`
	Files string           `json:"file"`
	Keys  map[string]*node `json:"keys,omitempty"`
	Each  *node            `json:"each,omitempty"`

	// Dotted: names in the table may be written as nested tables.
	Dotted bool `json:"dotted,omitempty"`

	TOML    string   `json:"toml,omitempty"`
	Words   []string `json:"words,omitempty"`
	Pattern string   `json:"pattern,omitempty"`
	Lowest  *int64   `json:"lowest,omitempty"`
	Highest *int64   `json:"highest,omitempty"`

	// Description is for people, as Markdown, and ends in a full stop.
	Description string `json:"description,omitempty"`
	Example     string `json:"example,omitempty"`
}

// document is the content of nix/options.json.
func document() ([]byte, error) {
	tree := map[string]*node{}
	for _, key := range hosts.Reference() {
		tree[key.Path] = nodeOf(key)
	}
	defaults, err := hostDefaults()
	if err != nil {
		return nil, err
	}
	content, err := json.MarshalIndent(map[string]any{"keys": tree, "defaults": defaults}, "", " ")
	return append(content, '\n'), err
}

func nodeOf(key *hosts.Key) *node {
	n := &node{
		Form: key.Form, Files: key.File, Dotted: key.Dotted, TOML: key.TOML, Words: key.Words, Pattern: key.Pattern,
		Description: describe(key), Example: example(key),
	}
	if key.TOML == "integer" {
		n.Lowest, n.Highest = &key.Lowest, &key.Highest
	}
	if key.Each != nil {
		n.Each = nodeOf(key.Each)
	}
	if len(key.Keys) > 0 {
		n.Keys = map[string]*node{}
	}
	for _, child := range key.Keys {
		n.Keys[child.Name()] = nodeOf(child)
	}
	return n
}

// describe is the meaning with what holds where no file has the key, since an
// option's own default is to leave it out.
func describe(key *hosts.Key) string {
	text, unset := key.Sentence(), key.WhenUnset()
	switch {
	case key.Required:
		return text + " Required."
	case unset != "":
		return text + " Without it: " + unset + "."
	}
	return text
}

// example is a value as TOML has it; of scalars and lists that is a value in Nix,
// too. Tables have their keys' examples.
func example(key *hosts.Key) string {
	if key.Example == nil || key.Form == hosts.FormTable || key.Form == hosts.FormNamed || key.Form == hosts.FormFree {
		return ""
	}
	if list, ok := key.Example.([]any); ok {
		var items []string
		for _, item := range list {
			items = append(items, hosts.TOML(item))
		}
		return "[ " + strings.Join(items, " ") + " ]"
	}
	if key.Form == hosts.FormList {
		return ""
	}
	return hosts.TOML(key.Example)
}

// hostDefaults are what a host has without a word in its fleet, by having any role
// and by being a worker: what the loader fills in.
func hostDefaults() (map[string]any, error) {
	defaults := map[string]any{}
	for name, roles := range map[string]string{"host": `"etcd"`, "worker": `"control-plane", "etcd", "worker"`} {
		fleet, err := hosts.Source{FS: fleetWith(roles)}.Load()
		if err != nil {
			return nil, err
		}
		spec := fleet.Hosts[0]
		modules := []string{}
		for _, m := range spec.Kernel.Modules {
			modules = append(modules, m.Name)
		}
		defaults[name] = map[string]any{"modules": modules, "sysctl": spec.Kernel.Sysctls}
		defaults["ports"] = map[string]int{
			"api": spec.Kubernetes.APIPort, "etcd_client": spec.Etcd.ClientPort, "etcd_peer": spec.Etcd.PeerPort,
			"wireguard": spec.Network.WireGuard.Port,
		}
	}
	return defaults, nil
}

func fleetWith(roles string) fs.FS {
	return fstest.MapFS{
		"cluster.toml": {Data: []byte("[cluster]\nname = \"c\"\n[kubernetes]\nversion = \"1.36.3\"\npod_range = \"10.244.0.0/16\"\nservice_range = \"10.96.0.0/12\"\n[pki]\nissuer = \"local\"\n[network.wireguard]\nrange = \"10.9.0.0/24\"\n")},
		"h.toml":       {Data: []byte("[host]\nroles = [" + roles + "]\n[wireguard]\naddress = \"10.9.0.1\"\n")},
	}
}
