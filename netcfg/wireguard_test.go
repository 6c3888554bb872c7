package netcfg

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// wireGuardPublic returns a key that is always the same for a number.
func wireGuardPublic(n byte) wgtypes.Key { return wgtypes.Key{0: n, 31: 1} }

func wireGuardSpec() *hosts.Spec {
	peer := func(name string, n byte, endpoint string) hosts.Peer {
		return hosts.Peer{
			Name: name, PodRange: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, n, 0}), 24),
			WireGuard: &hosts.WireGuardPeer{Address: netip.AddrFrom4([4]byte{10, 9, 0, n}), PublicKey: wireGuardPublic(n).String(), Endpoint: endpoint},
		}
	}
	unborn := peer("d", 4, "192.0.2.4:51820")
	unborn.WireGuard.PublicKey = ""
	return &hosts.Spec{
		Name: "a", Kubernetes: hosts.Kubernetes{CNI: "bridge"},
		Network: hosts.Network{WireGuard: &hosts.WireGuard{
			Interface: "wg0", Address: netip.MustParsePrefix("10.9.0.1/24"), Port: 51820, MTU: 1420,
			PublicKey: wireGuardPublic(1).String(), Keepalive: 25 * time.Second,
		}},
		Peers: []hosts.Peer{peer("b", 2, "192.0.2.2:51820"), peer("c", 3, ""), unborn, {Name: "e"}},
	}
}

// wireGuardDone is the state in which everything is as wanted.
func wireGuardDone(want *WireGuard) *WireGuard {
	have := *want
	have.Device, have.Owned, have.Marked, have.Up = WireGuardLink, true, true, true
	have.HostKey = want.PublicKey
	have.Addresses = []Address{{Prefix: want.Address, Owned: true}}
	have.Peers = slices.Clone(want.Peers)
	for i := range have.Peers {
		have.Peers[i].Name = ""
	}
	return &have
}

func TestWireGuardWant(t *testing.T) {
	if w := wantWireGuard(&hosts.Spec{}, ""); w != nil {
		t.Errorf("a spec without WireGuard wants %v", w)
	}
	w := wantWireGuard(wireGuardSpec(), layout.Root("/x"))
	var peers []string
	for _, p := range w.Peers {
		peers = append(peers, p.label()+": "+p.String())
	}
	if diff := cmp.Diff([]string{
		"b: 10.9.0.2/32, 10.244.2.0/24 at 192.0.2.2:51820, keepalive 25s",
		"c: 10.9.0.3/32, 10.244.3.0/24, keepalive 25s",
	}, peers); diff != "" {
		t.Error(diff)
	}
	if w.Folder != "/x/var/lib/nodeagent/wireguard" || w.PublicKey != wireGuardPublic(1) {
		t.Errorf("folder %q, key %v", w.Folder, w.PublicKey)
	}
	spec := wireGuardSpec()
	spec.Kubernetes.CNI = "none" // routes pods by itself
	if got := wantWireGuard(spec, "").Peers[0].String(); strings.Contains(got, "10.244") {
		t.Errorf("peer may send from pods that nodeagent does not address: %s", got)
	}
}

// A hub's clients are its peers, and everybody else's way to them is the hub.
func TestWireGuardWantClients(t *testing.T) {
	laptop := hosts.WireGuardClient{Name: "laptop", PublicKey: wireGuardPublic(7).String(), Addresses: firewallPrefixes("10.9.0.70/32", "10.77.0.0/24")}
	spec := wireGuardSpec()
	spec.Network.WireGuard.PresharedKeys = "/etc/psk"
	spec.Network.WireGuard.Clients = []hosts.WireGuardClient{laptop, {Name: "new", Addresses: firewallPrefixes("10.9.0.71/32")}}
	p, found := wantWireGuard(spec, "").peer(wireGuardPublic(7))
	if !found || p.String() != "10.9.0.70/32, 10.77.0.0/24" || p.Name != "laptop" || p.PresharedFile != "/etc/psk/laptop.psk" {
		t.Errorf("the hub has %v %+v", found, p)
	}
	if n := len(wantWireGuard(spec, "").Peers); n != 3 {
		t.Errorf("%d peers, want the one without a key left out", n)
	}
	routes := func(spec *hosts.Spec) string {
		var list []string
		for _, r := range clientRoutes(spec) {
			list = append(list, r.String())
		}
		return strings.Join(list, "; ")
	}
	if got := routes(spec); got != "10.77.0.0/24 dev wg0" {
		t.Errorf("routes of the hub: %s", got)
	}
	spec = wireGuardSpec()
	spec.Peers[0].WireGuard.Clients = []hosts.WireGuardClient{laptop}
	if p, _ := wantWireGuard(spec, "").peer(wireGuardPublic(2)); join(p.AllowedIPs) != "10.9.0.2/32, 10.9.0.70/32, 10.77.0.0/24, 10.244.2.0/24" {
		t.Errorf("another host lets the hub send from %v", p.AllowedIPs)
	}
	if got := routes(spec); got != "10.77.0.0/24 dev wg0" {
		t.Errorf("routes of another host: %s", got)
	}
}

func TestWireGuardPresharedFiles(t *testing.T) {
	folder := t.TempDir()
	host := wgtypes.Key{9}
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := wgtypes.Key{5, 6, 7}
	good := write("good.psk", key.String()+"\n", 0o600)
	for name, path := range map[string]string{
		"readable by others": write("open.psk", key.String(), 0o644),
		"of a group":         write("group.psk", key.String(), 0o640),
		"not base64":         write("text.psk", "c2VjcmV0 text", 0o600),
		"too short":          write("short.psk", "c2VjcmV0", 0o600),
		"too long":           write("long.psk", key.String()+strings.Repeat(key.String(), 99), 0o600),
		"empty":              write("empty.psk", "", 0o600),
		"zero":               write("zero.psk", wgtypes.Key{}.String(), 0o600),
		"a folder":           folder,
	} {
		_, err := readPreshared(path)
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want one that names the file", name, err)
		}
		if err != nil && (strings.Contains(err.Error(), "c2VjcmV0") || strings.Contains(err.Error(), key.String())) {
			t.Errorf("%s: the error holds the content: %v", name, err)
		}
	}
	want := &WireGuard{Peers: []WireGuardPeer{{PresharedFile: good}, {PresharedFile: good + "-none"}, {}, {PresharedFile: filepath.Join(folder, "open.psk")}}}
	files := readPresharedFiles(want, host)
	if len(files) != 2 || files[good].Digest != presharedDigest(host, key) || files[good].Problem != "" || !strings.Contains(files[want.Peers[3].PresharedFile].Problem, "0644") {
		t.Errorf("files %+v", files)
	}
	if presharedDigest(host, key) == presharedDigest(wgtypes.Key{8}, key) || presharedDigest(host, key) == presharedDigest(host, wgtypes.Key{5}) {
		t.Error("digests do not tell keys and hosts apart")
	}
}

func TestWireGuardDiffPreshared(t *testing.T) {
	spec := wireGuardSpec()
	spec.Network.WireGuard.PresharedKeys = "/psk"
	want := wantWireGuard(spec, "")
	for _, tc := range []struct {
		name    string
		device  string // the digest on the device; "-": the peer is not there
		file    *PresharedFile
		changes []string
	}{
		{"none at all", "", nil, nil},
		{"as it is", "hmac:1", &PresharedFile{Digest: "hmac:1"}, nil},
		{"new", "", &PresharedFile{Digest: "hmac:1"}, []string{"update disconnect wireguard peer b"}},
		{"another", "hmac:2", &PresharedFile{Digest: "hmac:1"}, []string{"update disconnect wireguard peer b"}},
		{"file removed", "hmac:2", nil, []string{"update disconnect wireguard peer b"}},
		{"bad file", "hmac:2", &PresharedFile{Problem: "bad"}, []string{"update quiet wireguard peer b preshared key"}},
		// It is not let in without the key that it should have.
		{"bad file of a new peer", "-", &PresharedFile{Problem: "bad"}, []string{"create quiet wireguard peer b preshared key"}},
		{"new peer", "-", &PresharedFile{Digest: "hmac:1"}, []string{"create quiet wireguard peer b"}},
	} {
		have := wireGuardDone(want)
		have.Peers[0].PresharedKey = tc.device
		if tc.device == "-" {
			have.Peers = have.Peers[1:]
		}
		if tc.file != nil {
			have.PresharedFiles = map[string]PresharedFile{"/psk/b.psk": *tc.file}
		}
		changes := diffWireGuard(have, want)
		var got []string
		for _, c := range changes {
			got = append(got, string(c.Action)+" "+c.Effect.String()+" "+c.Key)
			if _, isBlocked := c.Payload.(blocked); isBlocked != (tc.file != nil && tc.file.Problem != "") {
				t.Errorf("%s: blocked is %v", tc.name, isBlocked)
			}
		}
		if diff := cmp.Diff(tc.changes, got); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
	}
	if got := wireGuardWarnings(wireGuardDone(want), want, false); len(got) != 2 || !strings.Contains(got[0], "/psk/b.psk") {
		t.Errorf("warnings %q, want one for each missing file", got)
	}
}

// The program that serves the device, and the kernel that may.
func TestWireGuardDiffUserspace(t *testing.T) {
	want := wantWireGuard(wireGuardSpec(), "")
	served := wireGuardDone(want)
	served.Userspace, served.Program = true, "wg0"
	text := func(have, want *WireGuard) string { return printed(diffWireGuard(have, want)) }
	if got := text(served, want); got != "" {
		t.Errorf("a served device: %s", got)
	}
	if got := wireGuardWarnings(served, want, true); len(got) != 1 || !strings.Contains(got[0], "at the next boot") {
		t.Errorf("a kernel that has it now: %q", got)
	}
	left := wireGuardDone(want)
	left.Program = "wg0"
	if got := text(left, want); !strings.HasPrefix(got, "delete wireguard program [quiet]") {
		t.Errorf("a program that is left: %s", got)
	}
	if got := text(&WireGuard{Interface: "wg0", KernelLacks: true}, want); !strings.Contains(got, "create wireguard wg0 [quiet] \"\" -> \"wireguard in userspace\"") {
		t.Errorf("a kernel without: %s", got)
	}
	if got := text(&WireGuard{Interface: "wg0", Owned: true, Userspace: true, Program: "wg0"}, nil); !strings.HasPrefix(got, "delete wireguard wg0") {
		t.Errorf("a program without a device, dropped: %s", got)
	}
}

// TestWireGuardDiffSilent compares nothing with a device that did not answer: all
// of its peers would seem to be missing.
func TestWireGuardDiffSilent(t *testing.T) {
	want := wantWireGuard(wireGuardSpec(), "")
	have := *want
	have.Device, have.Owned, have.Marked, have.Silent, have.Peers = WireGuardLink, true, true, true, nil
	have.Addresses, have.Up, have.MTU = nil, true, want.MTU
	have.HostKey, have.PublicKey, have.Port = want.PublicKey, wgtypes.Key{}, 0
	got := diffWireGuard(&have, want)
	if len(got) != 1 || !strings.HasPrefix(got[0].Key, "address ") {
		t.Errorf("changes %+v, want the address alone", got)
	}
	if have.Silent = false; len(diffWireGuard(&have, want)) <= len(want.Peers) {
		t.Error("a device without its peers lacks nothing")
	}
}

func TestModuleLists(t *testing.T) {
	path := filepath.Join(t.TempDir(), "modules.dep")
	for content, want := range map[string]bool{
		"kernel/drivers/net/wireguard/wireguard.ko: kernel/net/ipv4/udp_tunnel.ko\n": true,
		"a.ko:\nkernel/drivers/net/wireguard/wireguard.ko.zst:\n":                    true,
		"kernel/drivers/net/wireguard/wireguard.ko\n":                                true, // modules.builtin
		"kernel/drivers/net/other.ko: kernel/drivers/net/wireguard/wireguard.ko\n":   false,
		"kernel/drivers/net/notwireguard.ko:\n":                                      false,
		"":                                                                           false,
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := lists(path, "/wireguard.ko"); got != want {
			t.Errorf("%q: %v", content, got)
		}
	}
	if lists(path+"-none", "/wireguard.ko") {
		t.Error("a list that is not there lists it")
	}
}

// The key command's part: the key is made once, its public half is printed.
func TestWireGuardKeyOfHost(t *testing.T) {
	root := layout.Root(t.TempDir())
	public, path, made, err := WireGuardKey(t.Context(), root, "no-such-device0")
	if err != nil || !made || path != wireGuardKey(wireGuardFolder(root)) {
		t.Fatalf("%s %v: %v", path, made, err)
	}
	again, _, made, err := WireGuardKey(t.Context(), root, "no-such-device0")
	if err != nil || made || again != public {
		t.Errorf("the second time: %s, made %v: %v", again, made, err)
	}
	if private, err := os.ReadFile(path); err != nil || strings.Contains(string(private), public) {
		t.Errorf("the file holds the public half, or is not there: %v", err)
	}
}

func TestWireGuardDiff(t *testing.T) {
	want := wantWireGuard(wireGuardSpec(), "")
	edit := func(f func(*WireGuard)) *WireGuard {
		w := wireGuardDone(want)
		f(w)
		return w
	}
	var zero wgtypes.Key
	for _, tc := range []struct {
		name       string
		have, want *WireGuard
		changes    []string
	}{
		{"nothing", nil, nil, nil},
		{"converged", wireGuardDone(want), want, nil},
		{"not there", &WireGuard{Interface: "wg0"}, want, []string{
			"create quiet wireguard key", "create quiet wireguard wg0", "update quiet wireguard wg0 key", "update quiet wireguard wg0 port",
			"create quiet wireguard peer b", "create quiet wireguard peer c",
			"create quiet address 10.9.0.1/24 on wg0", "update quiet wireguard wg0 link",
		}},
		{"dropped", wireGuardDone(want), nil, []string{"delete disconnect wireguard wg0"}},
		{"dropped, a program's", edit(func(w *WireGuard) { w.Owned = false }), nil, nil},
		{"renamed", edit(func(w *WireGuard) { w.Interface = "wg1" }), want, []string{
			"delete disconnect wireguard wg1", "create quiet wireguard wg0", "update quiet wireguard wg0 key", "update quiet wireguard wg0 port",
			"create quiet wireguard peer b", "create quiet wireguard peer c",
			"create quiet address 10.9.0.1/24 on wg0", "update quiet wireguard wg0 link",
		}},
		{"another link", edit(func(w *WireGuard) { w.Device = SomeDevice }), want, []string{"create quiet wireguard wg0"}},
		{"key file lost", edit(func(w *WireGuard) { w.HostKey = zero }), want, []string{"create quiet wireguard key"}},
		{"the fleet has another key", edit(func(w *WireGuard) { w.HostKey = wireGuardPublic(9); w.PublicKey = wireGuardPublic(9) }), want, []string{"update quiet wireguard key"}},
		{"the device has another key", edit(func(w *WireGuard) { w.PublicKey = wireGuardPublic(9) }), want, []string{"update disconnect wireguard wg0 key"}},
		{"the device has no key", edit(func(w *WireGuard) { w.PublicKey = zero }), want, []string{"update quiet wireguard wg0 key"}},
		{"port", edit(func(w *WireGuard) { w.Port = 1 }), want, []string{"update disconnect wireguard wg0 port"}},
		{"down", edit(func(w *WireGuard) { w.Up = false }), want, []string{"update quiet wireguard wg0 link"}},
		{"half made", edit(func(w *WireGuard) { w.Marked = false }), want, []string{"update quiet wireguard wg0 link"}},
		{"mtu", edit(func(w *WireGuard) { w.MTU = 1280 }), want, []string{"update quiet wireguard wg0 link"}},
		{"address", edit(func(w *WireGuard) {
			w.Addresses = []Address{{Prefix: netip.MustParsePrefix("10.9.0.7/24"), Owned: true}, {Prefix: netip.MustParsePrefix("10.9.0.8/24"), Owned: false}}
		}), want, []string{"create quiet address 10.9.0.1/24 on wg0", "delete disconnect address 10.9.0.7/24 on wg0"}},
		{
			"a peer more", edit(func(w *WireGuard) { w.Peers = append(w.Peers, WireGuardPeer{PublicKey: wireGuardPublic(8)}) }), want,
			[]string{"delete disconnect wireguard peer " + wireGuardPublic(8).String()},
		},
		{"preshared", edit(func(w *WireGuard) { w.Peers[0].PresharedKey = "hmac:1" }), want, []string{"update disconnect wireguard peer b"}},
		{"keepalive", edit(func(w *WireGuard) { w.Peers[1].Keepalive = 0 }), want, []string{"update quiet wireguard peer c"}},
		{"allowed less", edit(func(w *WireGuard) { w.Peers[1].AllowedIPs = nil }), want, []string{"update quiet wireguard peer c"}},
		{
			"allowed more", edit(func(w *WireGuard) {
				w.Peers[1].AllowedIPs = append(slices.Clone(w.Peers[1].AllowedIPs), firewallPrefixes("::/0")...)
			}), want,
			[]string{"update disconnect wireguard peer c"},
		},
		// The record says which endpoint was set; where the peer is now does not
		// come into it. A peer without an endpoint in the spec may be anywhere.
		{"endpoint of the spec changed", edit(func(w *WireGuard) { w.Peers[0].Endpoint = "192.0.2.9:51820" }), want, []string{"update disconnect wireguard peer b"}},
		{"endpoint unknown", edit(func(w *WireGuard) { w.Peers[0].Endpoint = "" }), want, []string{"update disconnect wireguard peer b"}},
		{"peer that called by itself", edit(func(w *WireGuard) { w.Peers[1].Endpoint = "198.51.100.1:1000" }), want, nil},
	} {
		var got []string
		for _, c := range diffWireGuard(tc.have, tc.want) {
			got = append(got, string(c.Action)+" "+c.Effect.String()+" "+c.Key)
			if c.Reason == "" || c.Before == c.After {
				t.Errorf("%s: %s: because %q, %q to %q", tc.name, c.Key, c.Reason, c.Before, c.After)
			}
		}
		if diff := cmp.Diff(tc.changes, got); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
	}
}

// A port of 0 in the spec leaves the device's own choice, and is never written:
// that would make it choose another.
func TestWireGuardUnsetPort(t *testing.T) {
	spec := wireGuardSpec()
	spec.Network.WireGuard.Port = 0
	want := wantWireGuard(spec, "")
	have := wireGuardDone(want)
	have.Port = 40000
	if changes := diffWireGuard(have, want); len(changes) > 0 {
		t.Errorf("changes %v", changes)
	}
	for _, c := range diffWireGuard(nil, want) {
		if strings.HasSuffix(c.Key, "port") {
			t.Errorf("%+v", c)
		}
	}
}

func TestWireGuardKeyMismatchSaysWhatToDo(t *testing.T) {
	want := wantWireGuard(wireGuardSpec(), "")
	have := wireGuardDone(want)
	have.HostKey, have.PublicKey = wireGuardPublic(9), wireGuardPublic(9)
	changes := diffWireGuard(have, want)
	err := changes[0].Payload.(op).apply(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("public_key = %q", wireGuardPublic(9))) {
		t.Errorf("error %v, want one with the key to declare", err)
	}
}

// wireGuardApply does to a value what the changes do to the kernel.
func wireGuardApply(have *WireGuard, changes []plan.Change) *WireGuard {
	var w WireGuard
	if have != nil {
		w = *have
		w.Peers, w.Addresses = slices.Clone(have.Peers), slices.Clone(have.Addresses)
	}
	at := func(key wgtypes.Key) int {
		return slices.IndexFunc(w.Peers, func(p WireGuardPeer) bool { return p.PublicKey == key })
	}
	for _, c := range changes {
		switch o := c.Payload.(type) {
		case makeWireGuardKey:
			w.HostKey = w.PublicKey
			if w.HostKey == (wgtypes.Key{}) {
				w.HostKey = o.declared
			}
		case createWireGuard:
			w.Interface, w.Device, w.Owned, w.Marked = o.name, WireGuardLink, true, true
			w.Userspace, w.Program = o.userspace, ""
			if o.userspace {
				w.Program = o.name
			}
		case stopWireGuardProgram:
			w.Program = ""
		case deleteWireGuard:
			w = WireGuard{HostKey: w.HostKey, KernelLacks: w.KernelLacks, PresharedFiles: w.PresharedFiles}
		case setWireGuard:
			if o.key {
				w.PublicKey = w.HostKey
			}
			if o.port != 0 {
				w.Port = o.port
			}
		case setWireGuardPeer:
			i := at(o.peer.PublicKey)
			if i < 0 {
				w.Peers = append(w.Peers, WireGuardPeer{PublicKey: o.peer.PublicKey})
				i = len(w.Peers) - 1
			}
			p := &w.Peers[i]
			if o.allowed {
				p.AllowedIPs = o.peer.AllowedIPs
			}
			if o.endpoint {
				p.Endpoint = o.peer.Endpoint
			}
			if o.keepalive {
				p.Keepalive = o.peer.Keepalive
			}
			switch {
			case o.preshared.remove:
				p.PresharedKey = ""
			case o.preshared.file != "":
				p.PresharedKey = w.PresharedFiles[o.preshared.file].Digest
			}
			if o.endpoint {
				p.Moved = ""
			}
		case deleteWireGuardPeer:
			w.Peers = slices.Delete(w.Peers, at(o.key), at(o.key)+1)
		case addAddress:
			w.Addresses = append(w.Addresses, Address{Prefix: o.address.Prefix, Owned: true})
		case deleteAddress:
			w.Addresses = slices.DeleteFunc(w.Addresses, func(a Address) bool { return a.Prefix == o.prefix })
		case setLink:
			w.Marked, w.Up = w.Marked || o.mark, w.Up || o.up
			if o.mtu != 0 {
				w.MTU = o.mtu
			}
		}
	}
	sortPeers(w.Peers)
	return &w
}

// Law: from any state every spec is reached by the changes, and then there are
// none.
func TestWireGuardLaw(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	coin := func() bool { return random.IntN(2) == 0 }
	randomPeers := func() []WireGuardPeer {
		var peers []WireGuardPeer
		for n := byte(1); n < 6; n++ {
			if coin() {
				continue
			}
			p := WireGuardPeer{PublicKey: wireGuardPublic(n), Keepalive: time.Duration(random.IntN(2)) * time.Second}
			if coin() {
				p.PresharedFile = fmt.Sprintf("/psk/%d", n)
			}
			if coin() {
				p.AllowedIPs = firewallPrefixes(fmt.Sprintf("10.9.0.%d/32", random.IntN(3)))
			}
			if coin() {
				p.Endpoint = fmt.Sprintf("192.0.2.1:%d", 1+random.IntN(2))
			}
			peers = append(peers, p)
		}
		return peers
	}
	for range 2000 {
		want := &WireGuard{
			Interface: "wg0", Address: firewallPrefixes("10.9.0.1/24", "10.9.0.2/24")[random.IntN(2)],
			MTU: random.IntN(2) * 1420, Port: random.IntN(2) * 51820, PublicKey: wireGuardPublic(1), Peers: randomPeers(),
		}
		have := &WireGuard{Interface: []string{"wg0", "wg1"}[random.IntN(2)], Peers: nil, KernelLacks: coin(), PresharedFiles: map[string]PresharedFile{}}
		for n := range 5 {
			if coin() {
				have.PresharedFiles[fmt.Sprintf("/psk/%d", n+1)] = PresharedFile{Digest: fmt.Sprintf("hmac:%d", 1+random.IntN(2))}
			}
		}
		if coin() {
			have.HostKey = want.PublicKey
		}
		if have.Interface == "wg1" || coin() {
			have.Device, have.Owned, have.Marked, have.Up, have.Port, have.MTU = WireGuardLink, have.Interface == "wg1" || coin(), coin(), coin(), 1, 1420
			have.Peers = randomPeers()
			for i := range have.Peers {
				have.Peers[i].PresharedFile = ""
				have.Peers[i].PresharedKey = []string{"", "hmac:1", "hmac:2"}[random.IntN(3)]
				have.Peers[i].Moved = []string{"", "192.0.2.9:1"}[random.IntN(2)]
			}
			if coin() {
				have.PublicKey = want.PublicKey
			}
			have.Addresses = []Address{{Prefix: firewallPrefixes("10.9.0.1/24", "10.9.0.9/24")[random.IntN(2)], Owned: coin()}}
		}
		changes := diffWireGuard(have, want)
		if again := diffWireGuard(have, want); len(again) != len(changes) {
			t.Fatal("two diffs differ")
		}
		if left := diffWireGuard(wireGuardApply(have, changes), want); len(left) > 0 {
			t.Fatalf("from %+v\nto %+v\nby %v\nleft %v", have, want, changes, left)
		}
	}
}

func TestWireGuardKeyFile(t *testing.T) {
	folder := wireGuardFolder(layout.Root(t.TempDir()))
	o := makeWireGuardKey{folder: folder, device: "no-such-device0"}
	for range 2 {
		if err := o.apply(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	key, err := readWireGuardKey(folder)
	if err != nil || key == (wgtypes.Key{}) {
		t.Fatalf("read: %v", err)
	}
	for path, mode := range map[string]os.FileMode{folder: 0o700, wireGuardKey(folder): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: mode %v, %v", path, info.Mode(), err)
		}
	}
	o.declared = wireGuardPublic(1)
	err = o.apply(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), key.PublicKey().String()) || strings.Contains(err.Error(), key.String()) {
		t.Errorf("error %v, want one that names the public key and not the private one", err)
	}
	// A file that is no key is neither read as none nor overwritten.
	if err := os.WriteFile(wireGuardKey(folder), []byte("c2VjcmV0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err = makeWireGuardKey{folder: folder, device: "no-such-device0"}.apply(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), wireGuardKey(folder)) || strings.Contains(err.Error(), "c2VjcmV0") {
		t.Errorf("error %v, want one that names the file and not its content", err)
	}
	if content, _ := os.ReadFile(wireGuardKey(folder)); string(content) != "c2VjcmV0\n" {
		t.Errorf("the file became %q", content)
	}
}

func TestWireGuardEndpointRecord(t *testing.T) {
	folder := wireGuardFolder(layout.Root(t.TempDir()))
	a, b := wireGuardPublic(1), wireGuardPublic(2)
	for key, endpoint := range map[wgtypes.Key]string{a: "h:1", b: "h:2"} {
		if err := new(System).recordEndpoint(folder, "wg0", key, endpoint); err != nil {
			t.Fatal(err)
		}
	}
	if err := new(System).recordEndpoint(folder, "wg0", a, ""); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(endpoints{b.String(): "h:2"}, readEndpoints(folder, "wg0")); diff != "" {
		t.Error(diff)
	}
	if got := readEndpoints(folder, "wg1"); len(got) > 0 {
		t.Errorf("the record of wg0 serves wg1: %v", got)
	}
	for _, content := range []string{"", "{", `{"version":2,"device":"wg0","endpoints":{"x":"y"}}`} {
		if err := os.WriteFile(endpointsPath(folder), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := readEndpoints(folder, "wg0"); len(got) > 0 {
			t.Errorf("%q read as %v", content, got)
		}
	}
}

// No change holds the private key, in what is printed or in what is not.
func TestWireGuardChangesHoldNoSecret(t *testing.T) {
	folder := wireGuardFolder(layout.Root(t.TempDir()))
	if err := (makeWireGuardKey{folder: folder, device: "no-such-device0"}).apply(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	key, err := readWireGuardKey(folder)
	if err != nil {
		t.Fatal(err)
	}
	want := wantWireGuard(wireGuardSpec(), "")
	want.Folder = folder
	have := &WireGuard{Interface: "wg0", HostKey: key.PublicKey()}
	for _, c := range diffWireGuard(have, want) {
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if dump := string(text) + fmt.Sprintf("%+v %v", c, c.Payload); strings.Contains(dump, key.String()) {
			t.Errorf("%s holds the key", c.Key)
		}
	}
}

func (w *WireGuard) peer(key wgtypes.Key) (WireGuardPeer, bool) {
	for _, p := range w.Peers {
		if p.PublicKey == key {
			return p, true
		}
	}
	return WireGuardPeer{}, false
}
