package vm

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/test/vm/line"
)

// fleet is where the fleet of testdata lies in the guest.
const fleet = "/etc/nodeagent/fleet"

// run runs a command in the guest, which must succeed, and returns its output.
func run(t *testing.T, g *Guest, args ...string) string {
	t.Helper()
	out, err := g.Exec(t.Context(), line.Command{Args: args})
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// exit runs a command in the guest and returns its exit status and output.
func exit(t *testing.T, g *Guest, args ...string) (int, string) {
	t.Helper()
	out, err := g.Exec(t.Context(), line.Command{Args: args})
	if status := (*ExitError)(nil); errors.As(err, &status) {
		return status.Status, out
	}
	must(t, err)
	return 0, out
}

// writeFleet writes the fleet of testdata into the guest, with the hosts'
// public keys, and the place of its second card.
func writeFleet(t *testing.T, g *Guest, keys map[string]string, place string) {
	t.Helper()
	files, err := filepath.Glob("testdata/fleet/*.toml")
	must(t, err)
	for _, name := range files {
		content, err := os.ReadFile(name)
		must(t, err)
		host := strings.TrimSuffix(filepath.Base(name), ".toml")
		if key := keys[host]; key != "" {
			content = bytes.Replace(content, []byte("[wireguard]\n"), []byte("[wireguard]\npublic_key = \""+key+"\"\n"), 1)
		}
		if place != "" {
			content = bytes.ReplaceAll(content, []byte("place-of-eth1"), []byte(place))
		}
		must(t, g.WriteFile(t.Context(), line.File{Path: fleet + "/" + filepath.Base(name), Mode: 0o644, Content: content}))
	}
}

// testModules is a host's first minute: nothing is loaded, nothing is set.
func testModules(t *testing.T, g *Guest) {
	writeFleet(t, g, nil, "")
	loaded := run(t, g, "cat", "/proc/modules")
	if status, out := exit(t, g, "nodeagent", "plan", "--exit-code", "--only", "kernel"); status != 2 {
		t.Fatalf("the first plan's exit status is %d, want 2:\n%s", status, out)
	}
	if diff := cmp.Diff(names(loaded), names(run(t, g, "cat", "/proc/modules"))); diff != "" {
		t.Errorf("planning loaded modules:\n%s", diff)
	}
	t.Log(run(t, g, "nodeagent", "apply", "--only", "kernel"))
	if status, out := exit(t, g, "nodeagent", "plan", "--exit-code", "--only", "kernel"); status != 0 {
		t.Errorf("the second plan's exit status is %d, want 0:\n%s", status, out)
	}
	there := names(run(t, g, "cat", "/proc/modules"))
	for _, module := range []string{
		"br_netfilter", "bridge", "stp", "llc", "overlay", "bonding", "tls",
		"wireguard", "udp_tunnel", "ip6_udp_tunnel", "libchacha20poly1305", "dummy", "nf_conntrack", "libcrc32c",
	} {
		if !slices.Contains(there, module) {
			t.Errorf("module %s is not loaded; there are %s", module, there)
		}
	}
	links := strings.Fields(run(t, g, "ls", "/sys/class/net"))
	for _, dummy := range []string{"dummy0", "dummy1", "dummy2"} {
		if !slices.Contains(links, dummy) {
			t.Errorf("numdummies=3 made no %s; there are %s", dummy, links)
		}
	}
	for _, link := range []string{"dummy3", "bond0"} { // bonding makes one unless told not to
		if slices.Contains(links, link) {
			t.Errorf("loading modules made %s", link)
		}
	}
	for key, want := range map[string]string{
		"net/bridge/bridge-nf-call-iptables": "0", "net/ipv4/ip_forward": "1", "net/netfilter/nf_conntrack_max": "70000",
	} {
		if is := strings.TrimSpace(run(t, g, "cat", "/proc/sys/"+key)); is != want {
			t.Errorf("sysctl %s is %q, want %q", key, is, want)
		}
	}
}

// names returns the first words of the lines, sorted.
func names(lines string) []string {
	var words []string
	for line := range strings.Lines(lines) {
		word, _, _ := strings.Cut(line, " ")
		words = append(words, word)
	}
	slices.Sort(words)
	return words
}
