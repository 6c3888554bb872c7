package netcfg

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// BenchmarkWireGuardPeers is a device with 1,000 peers: a converge that finds
// nothing to do and one in which a single peer changed, against `wg syncconf` of
// wireguard-tools, which reads the same device and sets the same difference. All
// ways take turns in one run, and of each the fastest counts. wg-process is what
// of the tool's time is its start as a process; dump is reading the device alone,
// answer what of it the program that serves the device takes, wgctrl and wg-dump
// are other readers.
func BenchmarkWireGuardPeers(b *testing.B) {
	for _, kind := range []string{inUserspace, inKernel} {
		b.Run(kind, func(b *testing.B) { benchmarkPeers(b, kind, 1000) })
	}
}

func benchmarkPeers(b *testing.B, kind string, peers int) {
	newNamespace(b)
	if err := enterWireGuardHost(); err != nil {
		b.Fatal(err)
	}
	h := &wireGuardHost{root: layout.Root(b.TempDir()), kind: kind, spec: manyPeers(peers)}
	if kind == inUserspace {
		if err := h.Start(b.Context(), "wg0"); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = h.Stop(context.Background()) })
	} else if err := netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: "probe0"}}); errors.Is(err, unix.EOPNOTSUPP) {
		if os.Getenv("NODEAGENT_VM") == "1" {
			b.Fatal("the VM's kernel has no WireGuard; the benchmark must run there")
		}
		b.Skip("this kernel has no WireGuard; runs in the VM stage")
	}
	sys := open(b)
	sys.Userspace = h
	want := WantIn(h.root, h.spec)
	began := time.Now()
	converge(b, sys, want)
	b.Logf("%d peers from nothing: %s", peers, time.Since(began).Round(time.Millisecond))

	tool, err := exec.LookPath("wg")
	if err != nil {
		b.Fatal("wg of wireguard-tools is missing: make deps")
	}
	run := func(args ...string) {
		if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
			b.Fatalf("wg %v: %v: %s", args, err, out)
		}
	}
	// What wg sets: the device as it is, and with one peer changed.
	var files [2]string
	for i := range files {
		files[i] = showconf(b, tool, i)
		turn(h.spec)
		want = WantIn(h.root, h.spec)
		converge(b, sys, want)
	}
	ways := map[string]func(){
		"noop-ms": func() {
			if changes := diffNow(b, sys, want); len(changes) > 0 {
				b.Fatalf("%d changes", len(changes))
			}
		},
		"one-ms": func() {
			turn(h.spec)
			want = WantIn(h.root, h.spec)
			changes := diffNow(b, sys, want)
			if len(changes) != 1 {
				b.Fatalf("%d changes", len(changes))
			}
			if err := sys.Apply(b.Context(), changes, plan.Silent{}); err != nil {
				b.Fatal(err)
			}
		},
		"dump-ms": func() {
			if _, err := readWireGuard("wg0", kind == inUserspace); err != nil {
				b.Fatal(err)
			}
		},
		"wgctrl-ms": func() {
			if _, err := wgctrlDevice("wg0"); err != nil {
				b.Fatal(err)
			}
		},
		"wg-dump-ms":    func() { run("show", "wg0", "dump") },
		"wg-noop-ms":    func() { run("syncconf", "wg0", files[0]) },
		"wg-one-ms":     func() { run("syncconf", "wg0", files[1]); run("syncconf", "wg0", files[0]) }, // two changes
		"wg-process-ms": func() { run("--version") },
	}
	if kind == inUserspace {
		ways["answer-ms"] = func() { hearOut(b, "wg0") }
	}
	took := map[string]time.Duration{}
	for b.Loop() {
		for name, way := range ways {
			// Both ways from what the other left: the tool knows no records.
			began := time.Now()
			way()
			once := time.Since(began)
			if name == "wg-one-ms" {
				once /= 2
			}
			if best := took[name]; best == 0 || once < best {
				took[name] = once
			}
			if name == "one-ms" {
				way() // back to the file's
			}
		}
	}
	for name, best := range took {
		b.ReportMetric(float64(best.Microseconds())/1000, name)
	}
}

// manyPeers is a host with the given number of peers, without pods: the tool sets
// no routes either.
func manyPeers(n int) *hosts.Spec {
	spec := &hosts.Spec{Name: "a", Network: hosts.Network{WireGuard: &hosts.WireGuard{
		Interface: "wg0", Address: netip.MustParsePrefix("10.8.0.1/16"), Port: 51820, MTU: 1420,
	}}}
	for i := range n {
		key := wireGuardPublic(1)
		binary.BigEndian.PutUint32(key[4:], uint32(i))
		at := [2]byte{byte(1 + i/250), byte(i % 250)}
		spec.Peers = append(spec.Peers, hosts.Peer{
			Name: fmt.Sprintf("p%04d", i),
			WireGuard: &hosts.WireGuardPeer{
				Address: netip.AddrFrom4([4]byte{10, 8, at[0], at[1]}), PublicKey: key.String(),
				Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, at[0], at[1]}), 51820).String(),
			},
		})
	}
	return spec
}

// turn gives one peer another client, or takes it away again.
func turn(spec *hosts.Spec) {
	peer := spec.Peers[len(spec.Peers)/2].WireGuard
	if peer.Clients != nil {
		peer.Clients = nil
		return
	}
	peer.Clients = []hosts.WireGuardClient{{Name: "laptop", Addresses: []netip.Prefix{netip.MustParsePrefix("10.8.250.1/32")}}}
}

// hearOut lets the program that serves a device answer, and looks at nothing of
// it but its end: no reader is faster.
func hearOut(b *testing.B, name string) {
	c, err := net.Dial("unix", uapiSocket(name))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "get=1\n\n"); err != nil {
		b.Fatal(err)
	}
	read := make([]byte, uapiLine)
	for ended := false; !ended; {
		n, err := c.Read(read)
		if err != nil {
			b.Fatal(err)
		}
		ended = bytes.HasSuffix(read[:n], []byte("\n\n"))
	}
}

// showconf writes what `wg showconf` says of the device.
func showconf(b *testing.B, tool string, n int) string {
	b.Helper()
	content, err := exec.Command(tool, "showconf", "wg0").Output()
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), fmt.Sprintf("%d.conf", n))
	if err := os.WriteFile(path, content, 0o600); err != nil {
		b.Fatal(err)
	}
	return path
}
