package etcdops

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPrefixOf(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		"/registry/pods/default/a":              "/registry/pods/",
		"/registry/pods/":                       "/registry/pods/",
		"/registry/services/specs/default/s":    "/registry/services/specs/",
		"/registry/services/endpoints/":         "/registry/services/endpoints/",
		"/registry/services/x":                  "/registry/services/",
		"/registry/example.com/widgets/w":       "/registry/example.com/widgets/",
		"/registry/example.com/w":               "/registry/example.com/",
		"/registry/health":                      "/registry/",
		"/registry/":                            "/registry/",
		"/registry":                             otherPrefix,
		"/calico/ipam/v2/x":                     "/calico/",
		"locks/a":                               "locks/",
		"compact_rev_key":                       otherPrefix,
		"/":                                     "/",
		"":                                      otherPrefix,
		"/" + strings.Repeat("x", 300) + "/key": otherPrefix,
	} {
		if got := string(prefixOf([]byte(key))); got != want {
			t.Errorf("%q is counted under %q, want %q", key, got, want)
		}
	}
}

func TestPrefixCountsAreBounded(t *testing.T) {
	t.Parallel()
	c := prefixCounts{}
	total := int64(0)
	for i := range 3 * maxPrefixes {
		key := fmt.Sprintf("p%d/a", i)
		c.add([]byte(key), 1)
		total++
		if i%2 == 0 {
			c.add([]byte(key), -1)
			total--
		}
	}
	prefixes, objects := c.sums()
	sum := int64(0)
	for prefix, n := range prefixes {
		if n <= 0 {
			t.Errorf("%s: %d", prefix, n)
		}
		sum += n
	}
	if sum != total || len(prefixes) > maxPrefixes+1 || len(objects) != 0 {
		t.Errorf("%d keys under %d prefixes, want %d under at most %d", sum, len(prefixes), total, maxPrefixes+1)
	}
}

func TestEncryptedWith(t *testing.T) {
	t.Parallel()
	e := encryptedWith{}
	for _, value := range []string{
		"k8s:enc:secretbox:v1:key2:\x00\x01:", "k8s:enc:secretbox:v1:key1:x", "k8s:enc:secretbox:v1:key2:y", "k8s:enc:kms:v2:vault:z",
		"k8s:enc:", "k8s:enc:aescbc:v1", "k8s:enc:aescbc:v1:" + strings.Repeat("x", 1000) + ":",
	} {
		e.add([]byte(value))
	}
	if diff := cmp.Diff([]string{"kms:v2:vault", "secretbox:v1:key1", "secretbox:v1:key2"}, e.sorted()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNeededKeys(t *testing.T) {
	t.Parallel()
	keys := []EncryptionKey{{"secretbox", "key2", "sha256:bb"}, {"secretbox", "key1", "sha256:aa"}}
	for name, tc := range map[string]struct {
		m            Manifest
		ids, unknown []string
	}{
		"format 1":       {Manifest{Format: 1, EncryptionKey: "sha256:aa"}, []string{"sha256:aa"}, nil},
		"format 2, none": {Manifest{Format: 2}, nil, nil},
		"only the data's": {
			Manifest{Format: 3, EncryptionKey: "sha256:bb", EncryptedWith: []string{"secretbox:v1:key1"}, Surroundings: Surroundings{EncryptionKeys: keys}},
			[]string{"sha256:aa"},
			nil,
		},
		"an unknown one": {
			Manifest{Format: 3, EncryptedWith: []string{"kms:v2:vault", "secretbox:v1:key1", "secretbox:v1:key2"}, Surroundings: Surroundings{EncryptionKeys: keys}},
			[]string{"sha256:aa", "sha256:bb"},
			[]string{"kms vault"},
		},
		"nothing encrypted": {Manifest{Format: 3, EncryptionKey: "sha256:bb", Surroundings: Surroundings{EncryptionKeys: keys}}, nil, nil},
	} {
		ids, unknown := tc.m.NeededKeys()
		if !cmp.Equal(ids, tc.ids) || !cmp.Equal(unknown, tc.unknown) {
			t.Errorf("%s: %v and %v, want %v and %v", name, ids, unknown, tc.ids, tc.unknown)
		}
	}
}

func TestLost(t *testing.T) {
	t.Parallel()
	then := Surroundings{
		CAs:                map[string][]string{"k8s-server": {"sha256:1"}, "etcd-peer": {"sha256:2"}},
		ServiceAccountKeys: []string{"sha256:3"}, Vault: &VaultReference{"https://vault", "a"},
	}
	if lost := then.Lost(then); len(lost) != 0 {
		t.Errorf("lost %v of the same", lost)
	}
	if lost := then.Lost(Surroundings{}); len(lost) != 0 {
		t.Errorf("lost %v where nothing is known", lost)
	}
	later := Surroundings{
		CAs:                map[string][]string{"k8s-server": {"sha256:9", "sha256:1"}, "etcd-peer": {"sha256:8"}},
		ServiceAccountKeys: []string{"sha256:7"}, Vault: &VaultReference{"https://vault", "b"},
	}
	lost := strings.Join(then.Lost(later), "\n")
	for _, want := range []string{"CA etcd-peer", "service account", "mount a"} {
		if !strings.Contains(lost, want) {
			t.Errorf("%q is not said in:\n%s", want, lost)
		}
	}
	if strings.Contains(lost, "k8s-server") {
		t.Errorf("lost a CA that is still trusted:\n%s", lost)
	}
}
