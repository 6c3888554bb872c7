package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/netcfg"
	"github.com/nodeagent/nodeagent/test/certs"
	"github.com/nodeagent/nodeagent/test/servers"
)

// floatingTTL is short for a test, and long beside the seconds in which etcd
// and the kernel count.
const floatingTTL = 6 * time.Second

// etcdCluster is three real members in this process.
type etcdCluster struct {
	files   etcdops.TLS
	configs []*embed.Config
	running []*embed.Etcd
}

func startEtcdCluster(t *testing.T) *etcdCluster {
	t.Helper()
	c := &etcdCluster{files: selfSigned(t), running: make([]*embed.Etcd, 3)}
	var all []string
	for i := range 3 {
		cfg := embed.NewConfig()
		cfg.Name, cfg.Dir = fmt.Sprint("m", i), filepath.Join(t.TempDir(), "data")
		cfg.ClientTLSInfo = transport.TLSInfo{CertFile: c.files.Cert, KeyFile: c.files.Key, TrustedCAFile: c.files.CA, ClientCertAuth: true}
		cfg.ListenClientUrls, cfg.ListenPeerUrls = loopbackURL(t, "https"), loopbackURL(t, "http")
		cfg.AdvertiseClientUrls, cfg.AdvertisePeerUrls = cfg.ListenClientUrls, cfg.ListenPeerUrls
		cfg.TickMs, cfg.ElectionMs = 20, 200
		cfg.LogLevel, cfg.LogOutputs = "fatal", []string{"stderr"}
		cfg.UnsafeNoFsync = true // the machine's power stays on
		c.configs = append(c.configs, cfg)
		all = append(all, cfg.Name+"="+cfg.ListenPeerUrls[0].String())
	}
	for i := range c.configs {
		c.configs[i].InitialCluster = strings.Join(all, ",")
		c.start(t, i)
	}
	for _, e := range c.running {
		<-e.Server.ReadyNotify()
	}
	t.Cleanup(func() { c.stop(0, 1, 2) })
	return c
}

func (c *etcdCluster) start(t *testing.T, i int) {
	t.Helper()
	e, err := embed.StartEtcd(c.configs[i])
	if err != nil {
		t.Fatal(err)
	}
	c.running[i] = e
}

func (c *etcdCluster) stop(members ...int) {
	for _, i := range members {
		if c.running[i] != nil {
			c.running[i].Close()
			c.running[i] = nil
		}
	}
}

func (c *etcdCluster) endpoint(i int) string { return c.configs[i].ListenClientUrls[0].String() }

func loopbackURL(t *testing.T, scheme string) []url.URL {
	t.Helper()
	return []url.URL{{Scheme: scheme, Host: fmt.Sprintf("127.0.0.1:%d", servers.ReservePort(t))}}
}

// selfSigned makes one certificate that is its own CA.
func selfSigned(t *testing.T) etcdops.TLS {
	t.Helper()
	dir := t.TempDir()
	files := etcdops.TLS{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "tls.crt")}
	certs.CA(t, "test", nil).Write(t, files.Cert, files.Key)
	return files
}

// floatingHost is a network namespace with a link lan0 on the common bridge.
type floatingHost struct {
	name    string
	space   netns.NsHandle
	network *netcfg.System
	cancel  context.CancelFunc
	ended   chan struct{}
}

// inNamespace runs f on a thread of its own in the namespace.
func inNamespace(t *testing.T, space netns.NsHandle, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := netns.Set(space)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func newSpace(t *testing.T) netns.NsHandle {
	t.Helper()
	made := make(chan netns.NsHandle)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			made <- netns.None()
			return
		}
		here, err := netns.Get()
		if err != nil {
			t.Error(err)
		}
		made <- here
	}()
	space := <-made
	if !space.IsOpen() {
		t.FailNow()
	}
	t.Cleanup(func() { space.Close() })
	return space
}

// newFloatingHosts joins namespaces by a bridge, which has one of its own.
func newFloatingHosts(t *testing.T, names ...string) (all []*floatingHost, bridge netns.NsHandle) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("network namespaces need root; this test must run in CI")
		}
		t.Skip("network namespaces need root")
	}
	bridge = newSpace(t)
	inNamespace(t, bridge, func() {
		check(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
		check(t, setUp("br0"))
	})
	for i, name := range names {
		h := &floatingHost{name: name, space: newSpace(t)}
		inNamespace(t, bridge, func() {
			port := fmt.Sprint("port", i)
			check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: port}, PeerName: "lan0", PeerNamespace: netlink.NsFd(h.space)}))
			link, err := netlink.LinkByName(port)
			check(t, err)
			br, err := netlink.LinkByName("br0")
			check(t, err)
			check(t, netlink.LinkSetMaster(link, br))
			check(t, setUp(port))
		})
		inNamespace(t, h.space, func() {
			address, err := netlink.ParseAddr(fmt.Sprintf("192.0.2.%d/24", i+1))
			check(t, err)
			link, err := netlink.LinkByName("lan0")
			check(t, err)
			check(t, netlink.AddrAdd(link, address))
			check(t, setUp("lan0"))
			h.network, err = netcfg.Open()
			check(t, err)
		})
		t.Cleanup(func() { h.network.Close() })
		all = append(all, h)
	}
	return all, bridge
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

var floatingAddress = netip.MustParsePrefix("192.0.2.100/32")

// start runs the host's holder, as the daemon does, until stop.
func (h *floatingHost) start(t *testing.T, c *etcdCluster, names []string, endpoints ...string) {
	t.Helper()
	held := &holder{
		Floating: hosts.Floating{Name: "vip", Address: floatingAddress, Interface: "lan0", Hosts: names, TTL: floatingTTL},
		spec:     floatingSpec{host: h.name, endpoints: endpoints, tls: c.files},
		network:  h.network, log: slog.New(slog.NewTextHandler(t.Output(), nil)).With("host", h.name),
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel, h.ended = cancel, make(chan struct{})
	go func() {
		defer close(h.ended)
		inNamespace(t, h.space, func() { held.run(ctx) })
	}()
	t.Cleanup(h.stop)
}

func (h *floatingHost) stop() { h.cancel(); <-h.ended }

func (h *floatingHost) has(t *testing.T) bool {
	t.Helper()
	here, _, err := h.network.FloatingHere("lan0", floatingAddress)
	if err != nil {
		t.Fatal(err)
	}
	return here
}

// waitHolder waits until exactly the named host has the address.
func waitHolder(t *testing.T, all []*floatingHost, name string, within time.Duration) {
	t.Helper()
	var have []string
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if have = holders(t, all); slices.Equal(have, []string{name}) {
			return
		}
	}
	t.Fatalf("after %s the address is on %v, want %s", within, have, name)
}

func holders(t *testing.T, all []*floatingHost) (names []string) {
	t.Helper()
	for _, h := range all {
		if h.has(t) {
			names = append(names, h.name)
		}
	}
	return names
}

// The address is on one host at a time all along: while hosts come and go, while
// etcd has no quorum, and after its holder hangs.
func TestFloatingAddress(t *testing.T) {
	names := []string{"a", "b", "c"}
	all, bridge := newFloatingHosts(t, names...)
	c := startEtcdCluster(t)
	var twice atomic.Pointer[[]string]
	watched, done := context.WithCancel(context.Background())
	t.Cleanup(done)
	go func() {
		for watched.Err() == nil {
			if have := holders(t, all); len(have) > 1 {
				twice.Store(&have)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	onlyOne := func(when string) {
		t.Helper()
		if have := twice.Load(); have != nil {
			t.Fatalf("%s the address was on %v at once", when, *have)
		}
	}
	for i, h := range all {
		h.start(t, c, names, c.endpoint(i), c.endpoint((i+1)%3), c.endpoint((i+2)%3))
		if i == 0 {
			waitHolder(t, all, "a", 20*time.Second)
		}
	}

	// Released cleanly: the next host has it without waiting for the lease.
	all[0].stop()
	waitHolder(t, all, "b", 20*time.Second)
	onlyOne("when a ended")

	// The holder keeps it while etcd has no quorum, longer than the claim lives.
	c.stop(1, 2)
	for deadline := time.Now().Add(2 * floatingTTL); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if have := holders(t, all); !slices.Equal(have, []string{"b"}) {
			t.Fatalf("without a quorum the address is on %v, want b", have)
		}
	}
	c.start(t, 1)
	c.start(t, 2)
	for deadline := time.Now().Add(floatingTTL); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if have := holders(t, all); !slices.Equal(have, []string{"b"}) {
			t.Fatalf("with the quorum back the address is on %v, want b still", have)
		}
	}
	onlyOne("around the loss of quorum")

	// A cable is pulled: another host has it.
	inNamespace(t, bridge, func() {
		port, err := netlink.LinkByName("port1")
		check(t, err)
		check(t, netlink.LinkSetDown(port))
	})
	waitHolder(t, all, "c", 4*floatingTTL)
	onlyOne("when the cable was pulled")
}

// A holder that was killed loses the address by the kernel's hand alone, and
// only then has another one it.
func TestFloatingHolderDies(t *testing.T) {
	names := []string{"a", "b"}
	all, _ := newFloatingHosts(t, names...)
	c := startEtcdCluster(t)
	claims, err := etcdops.OpenClaims(t.Context(), c.files, []string{c.endpoint(0)})
	if err != nil {
		t.Fatal(err)
	}
	defer claims.Close()
	// What a holder leaves behind that is killed right after it renewed.
	if claim, err := claims.Take(t.Context(), "floating/vip", "a", floatingTTL); err != nil || claim.Holder != "a" {
		t.Fatalf("claim %+v, %v", claim, err)
	}
	if err := all[0].network.Hold(t.Context(), "lan0", floatingAddress, floatingTTL-time.Second); err != nil {
		t.Fatal(err)
	}
	all[1].start(t, c, names, c.endpoint(0))
	for deadline := time.Now().Add(4 * floatingTTL); !all[1].has(t); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("b never had the address")
		}
	}
	if all[0].has(t) {
		t.Error("b has the address while a still has it")
	}
}

// A host that is cut off from the quorum, but not from the link, gives way to
// the one that has the claim now.
func TestFloatingRival(t *testing.T) {
	all, _ := newFloatingHosts(t, "a", "b")
	c := startEtcdCluster(t)
	if err := all[0].network.Hold(t.Context(), "lan0", floatingAddress, time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := all[1].network.Hold(t.Context(), "lan0", floatingAddress, time.Minute); err != nil {
		t.Fatal(err)
	}
	nobody := loopbackURL(t, "https")[0].String()
	all[0].start(t, c, []string{"a", "b"}, nobody)
	waitHolder(t, all, "b", 20*time.Second)
}
