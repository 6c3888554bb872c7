package etcdops

import (
	"bytes"
	"slices"
	"strings"
)

// registry is where kube-apiserver keeps its objects, unless it is told
// otherwise (--etcd-prefix).
const registry = "/registry/"

// maxPrefixes bounds how many prefixes are told apart, each at most
// maxPrefixBytes long; all others are counted under otherPrefix. A cluster of
// Kubernetes has about a hundred, and one for each custom resource.
const (
	maxPrefixes    = 1024
	maxPrefixBytes = 256
	otherPrefix    = "*"
)

// prefixOf is what a key is counted under: for an object of Kubernetes what its
// resource begins with ("/registry/pods/", "/registry/example.com/widgets/",
// "/registry/services/specs/"), for another key its first element of a path
// ("/calico/", "locks/"). One without a path is counted under otherPrefix: the
// manifest of an encrypted snapshot does not tell whole keys.
func prefixOf(key []byte) []byte {
	end := nextSlash(key, 1)
	if bytes.HasPrefix(key, []byte(registry)) && end < len(key) {
		first := key[len(registry):]
		if n := nextSlash(key, end); n == len(key) && key[n-1] != '/' {
			return key[:end] // "/registry/health" is of no resource
		} else if end = n; bytes.HasPrefix(first, []byte("services/")) || bytes.IndexByte(first[:n-len(registry)], '.') >= 0 {
			if second := nextSlash(key, end); second < len(key) || key[second-1] == '/' {
				end = second
			}
		}
	}
	if end > maxPrefixBytes || end == 0 || key[end-1] != '/' {
		return []byte(otherPrefix)
	}
	return key[:end]
}

// nextSlash is the index after the next slash, or the end of the key.
func nextSlash(key []byte, from int) int {
	if from >= len(key) {
		return len(key)
	}
	if i := bytes.IndexByte(key[from:], '/'); i >= 0 {
		return from + i + 1
	}
	return len(key)
}

// prefixCounts counts the keys that are alive by prefix. Once it is full it
// stays so: what was counted under otherPrefix is taken from there again.
type prefixCounts map[string]*int64

func (c prefixCounts) add(key []byte, change int64) {
	prefix := prefixOf(key)
	n := c[string(prefix)] // which copies nothing
	if n == nil {
		if len(c) >= maxPrefixes {
			prefix = []byte(otherPrefix)
		}
		if n = c[string(prefix)]; n == nil {
			n = new(int64)
			c[string(prefix)] = n
		}
	}
	*n += change
}

// sums are the counts that are not zero, and those of Kubernetes by resource.
func (c prefixCounts) sums() (prefixes, objects map[string]int64) {
	prefixes, objects = map[string]int64{}, map[string]int64{}
	for prefix, n := range c {
		if *n == 0 {
			continue
		}
		prefixes[strings.ToValidUTF8(prefix, "?")] += *n
		if resource, ok := strings.CutPrefix(prefix, registry); ok && resource != "" {
			objects[strings.TrimSuffix(resource, "/")] += *n
		}
	}
	return prefixes, objects
}

// maxEncryptedWith bounds how many encryption keys are told apart.
const maxEncryptedWith = 64

// encryptedWith collects the keys with which values are encrypted.
type encryptedWith map[string]struct{}

// add notes the key of a value that begins with encryptedPrefix: provider,
// version and name, each followed by a colon.
func (e encryptedWith) add(value []byte) {
	rest := value[len(encryptedPrefix):]
	end := 0
	for range 3 {
		n := bytes.IndexByte(rest[end:min(len(rest), end+maxPrefixBytes)], ':')
		if n < 0 {
			return // not as kube-apiserver writes it; Encrypted tells of it
		}
		end += n + 1
	}
	header := rest[:end-1]
	if _, known := e[string(header)]; !known && len(e) < maxEncryptedWith {
		e[string(header)] = struct{}{}
	}
}

func (e encryptedWith) sorted() []string {
	var list []string
	for header := range e {
		list = append(list, strings.ToValidUTF8(header, "?"))
	}
	slices.Sort(list)
	return list
}
