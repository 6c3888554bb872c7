package hosts

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// fleets are small fleets of one host that hold, between them, every table: the
// places where a key can be tried. Each is the cluster's file and the host's.
var fleets = [][2]string{
	{`
[cluster]
name = "test"
[kubernetes]
version = "1.36.3"
pod_range = "10.244.0.0/16"
service_range = "10.96.0.0/12"
[pki.local]
ca_keys = "credential"
`, `
[host]
roles = ["control-plane", "etcd", "worker"]
address = "192.0.2.1"
`}, {`
[cluster]
name = "test"
[kubernetes]
version = "1.36.3"
pod_range = "10.244.0.0/16"
service_range = "10.96.0.0/12"
[network.floating.f]
address = "192.0.2.9/32"
interface = "x0"
hosts = ["a"]
[network.wireguard]
range = "10.9.0.0/24"
[firewall.allow.ssh]
ports = [22]
limit = "1/second"
[firewall.forward.f]
ports = [80]
[firewall.masquerade.m]
from = ["10.8.0.0/24"]
[firewall.zone.z]
interfaces = ["x0"]
[pki]
issuer = "vault"
[pki.vault]
address = "https://v.example.org"
auth = "jwt"
jwt_file = "/run/jwt"
[snapshots.copies.nas]
folder = "/mnt/nas"
[snapshots.copies.s3]
endpoint = "https://s3.example.org"
bucket = "snapshots"
credentials_file = "/etc/s3"
`, `
[host]
roles = ["control-plane", "etcd", "worker"]
address = "192.0.2.1"
[wireguard]
address = "10.9.0.1"
[wireguard.client.c]
public_key = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
addresses = ["10.9.0.200"]
[network.dns]
servers = ["192.0.2.53"]
[network.hosts]
"192.0.2.8" = ["b"]
[network.link.x0]
addresses = ["192.0.2.1/24"]
[network.link.x1]
[network.link.p0]
master = "br0"
[network.link.br0]
kind = "bridge"
[network.link.br0.bridge]
vlan_filtering = true
[network.link.b0]
kind = "bond"
[network.link.b0.bond]
mode = "802.3ad"
[network.link.b1]
kind = "bond"
[network.link.b1.bond]
mode = "active-backup"
arp_interval = "1s"
arp_targets = ["192.0.2.7"]
[network.link.v0]
kind = "vlan"
parent = "x0"
[network.link.v0.vlan]
id = 1
[network.link.m0]
kind = "macvlan"
parent = "x0"
[network.link.vx0]
kind = "vxlan"
[network.link.vx0.vxlan]
id = 1
[network.link.vrf0]
kind = "vrf"
[network.link.vrf0.vrf]
table = 100
[[network.link.x1.address]]
address = "198.51.100.1/24"
[[network.link.x1.address]]
address = "2001:db8::1/64"
[[network.route]]
destination = "default"
device = "x0"
[[network.route]]
destination = "203.0.113.0/24"
via = "192.0.2.254"
device = "x0"
[[network.route]]
destination = "10.7.0.0/24"
[[network.route.nexthops]]
via = "192.0.2.252"
device = "x0"
[[network.route.nexthops]]
via = "192.0.2.253"
device = "x0"
[[network.rule]]
priority = 1
table = 254
`},
}

// A key whose default the reference tells is as if it had that value where no
// file says it: writing the default changes nothing, and some other value does.
func TestDefaultsAreTrue(t *testing.T) {
	for k := range AllKeys() {
		if k.Default == nil {
			continue
		}
		tried := []string{}
		if !slices.ContainsFunc(spots(k), func(p spot) bool { return p.proves(t, k, &tried) }) {
			t.Errorf("nothing shows that %s is %s by default:\n%s", k.Path, TOML(k.Default), strings.Join(tried, "\n"))
		}
	}
}

// A key that the reference calls required has to be there: without it the
// fleet is refused.
func TestRequiredKeys(t *testing.T) {
	for k := range AllKeys() {
		if !k.Required {
			continue
		}
		found := false
		for _, p := range spots(k) {
			at, name := p.open()
			if _, ok := at[name]; !ok {
				continue
			}
			delete(at, name)
			if _, err := p.load(); err == nil {
				t.Errorf("fleet %d is valid without %v", p.fleet, p.path)
			}
			found = true
		}
		if !found {
			t.Errorf("no fleet of this test has %s", k.Path)
		}
	}
}

// spot is where a key could stand in one of the fleets. path has strings, and
// ints for elements of lists.
type spot struct {
	fleet, file int
	path        []any
	trees       [2]map[string]any
}

// proves tells whether the default is shown here to be what the reference says.
func (p spot) proves(t *testing.T, k *Key, tried *[]string) bool {
	t.Helper()
	at, name := p.open()
	delete(at, name)
	without, err := p.load()
	if err != nil {
		return false
	}
	at[name] = k.Default
	with, err := p.load()
	if diff := cmp.Diff(without, with, sameSpec...); err != nil || diff != "" {
		*tried = append(*tried, fmt.Sprintf("fleet %d, %v: %v %s", p.fleet, p.path, err, diff))
		return false
	}
	for _, other := range others(k) {
		at[name] = other
		// Each is well by itself: a fleet that is refused with it shows as well that
		// somebody looks at the key.
		if changed, err := p.load(); err != nil || !cmp.Equal(without, changed, sameSpec...) {
			return true
		}
	}
	*tried = append(*tried, fmt.Sprintf("fleet %d, %v: no other value makes a difference", p.fleet, p.path))
	return false
}

// sameSpec compares specs apart from where they come from.
var sameSpec = []cmp.Option{
	cmpopts.EquateEmpty(),
	cmpopts.IgnoreFields(Spec{}, "Digest", "Defined"),
	netipValues,
}

// others are values of the key besides its default.
func others(k *Key) []any {
	values := []any{k.Example}
	for _, w := range k.Words {
		values = append(values, w)
	}
	if b, ok := k.Default.(bool); ok {
		values = append(values, !b)
	}
	return values
}

// open returns the table that holds the key, and the key's name there. Each
// call starts anew from the fleet's text.
func (p *spot) open() (map[string]any, string) {
	p.trees = readFleet(p.fleet)
	var at any = p.trees[p.file]
	for _, part := range p.path[:len(p.path)-1] {
		if i, ok := part.(int); ok {
			at = at.([]map[string]any)[i]
			continue
		}
		table := at.(map[string]any)
		if table[part.(string)] == nil {
			table[part.(string)] = map[string]any{}
		}
		at = table[part.(string)]
	}
	return at.(map[string]any), p.path[len(p.path)-1].(string)
}

func readFleet(i int) (trees [2]map[string]any) {
	for file, text := range fleets[i] {
		if _, err := toml.Decode(text, &trees[file]); err != nil {
			panic(err)
		}
	}
	return trees
}

func (p spot) load() ([]*Spec, error) {
	files := fstest.MapFS{}
	for i, name := range []string{clusterTOML, "a.toml"} {
		var text bytes.Buffer
		if err := toml.NewEncoder(&text).Encode(p.trees[i]); err != nil {
			return nil, err
		}
		files[name] = &fstest.MapFile{Data: text.Bytes()}
	}
	f, err := LoadFS(files, ".")
	if err != nil {
		return nil, err
	}
	for _, h := range f.Hosts { // what is not in Drift is repaired
		maps.DeleteFunc(h.Drift, func(_ string, what Drift) bool { return what == DriftRepair })
	}
	return f.Hosts, nil
}

// spots are all where a key could stand in the fleets.
func spots(k *Key) []spot {
	var all []spot
	for fleet := range fleets {
		trees := readFleet(fleet)
		for file, name := range []string{"cluster", "host"} {
			if k.File != "any" && k.File != name {
				continue
			}
			for _, path := range paths(trees[file], strings.Split(k.Path, ".")) {
				all = append(all, spot{fleet: fleet, file: file, path: path})
			}
		}
	}
	return all
}

// paths are those of a dotted path in a tree: once for each name and element
// that is there. Plain tables may be missing.
func paths(at any, rest []string) [][]any {
	if list, ok := at.([]map[string]any); ok {
		var all [][]any
		for i, element := range list {
			all = append(all, beginWith(i, paths(element, rest))...)
		}
		return all
	}
	table, ok := at.(map[string]any)
	switch {
	case !ok && at != nil:
		return nil
	case len(rest) == 1:
		return [][]any{{rest[0]}}
	case rest[0] != "NAME":
		return beginWith(rest[0], paths(table[rest[0]], rest[1:]))
	}
	var all [][]any
	for _, name := range slices.Sorted(maps.Keys(table)) {
		all = append(all, beginWith(name, paths(table[name], rest[1:]))...)
	}
	return all
}

func beginWith(first any, paths [][]any) [][]any {
	for i := range paths {
		paths[i] = slices.Insert(paths[i], 0, first)
	}
	return paths
}
