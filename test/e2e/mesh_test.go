package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/kube"
	"github.com/nodeagent/nodeagent/test/lab"
)

// mesh is the hosts of a fleet and a stranger, on one switch that plays the
// internet.
type mesh struct {
	t     *testing.T
	ctx   context.Context
	dir   string // the fleet's files as the hosts have them
	fleet *hosts.Fleet
	hosts map[string]*lab.Mercury
}

// newMesh boots the hosts of the shipped fleet k8s-235 with its outer addresses,
// bare, and lets each make its WireGuard key.
func newMesh(t *testing.T) *mesh {
	t.Helper()
	l := lab.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), stepTimeout)
	t.Cleanup(cancel)
	m := &mesh{t: t, ctx: ctx, dir: t.TempDir(), hosts: map[string]*lab.Mercury{}}
	if err := l.AddSwitch(ctx, "internet", netip.MustParsePrefix("192.0.2.254/24")); err != nil {
		t.Fatal(err)
	}
	m.writeFleet(filepath.Join(l.Builder.Root, "hosts", "fleets", "k8s-235"))
	for _, spec := range m.fleet.Hosts {
		outer := netip.MustParseAddrPort(endpointOf(m.fleet, spec.Name)).Addr()
		h := m.addHost(l, spec.Name, outer.String())
		m.must(h, "mkdir", "-p", "/etc/nodeagent/fleet")
		key := strings.TrimSpace(m.must(h, "nodeagent", "wireguard", "key"))
		m.edit(spec.Name+".toml", regexp.MustCompile(`(?s)(\[wireguard\].*?public_key = )"[^"]*"`), fmt.Sprintf("${1}%q", key))
	}
	m.addHost(l, "stranger", "192.0.2.99")
	for name := range m.hosts {
		m.give(name)
	}
	return m
}

// endpointOf is the host's endpoint as the others know it.
func endpointOf(fleet *hosts.Fleet, name string) string {
	for _, h := range fleet.Hosts {
		for _, p := range h.Peers {
			if p.Name == name && p.WireGuard != nil {
				return p.WireGuard.Endpoint
			}
		}
	}
	return ""
}

// writeFleet copies the shipped fleet with the lab's differences.
func (m *mesh) writeFleet(shipped string) {
	m.t.Helper()
	files, err := filepath.Glob(filepath.Join(shipped, "*.toml"))
	if err != nil || len(files) == 0 {
		m.t.Fatalf("no fleet in %s: %v", shipped, err)
	}
	number := 0
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			m.t.Fatal(err)
		}
		name := filepath.Base(file)
		text := string(content)
		if name == "cluster.toml" {
			text = strings.Replace(text, "cni = \"none\"", "cni = \"bridge\"\ncni_binaries = \"/usr/lib/cni\"", 1)
		} else {
			number++
			text = strings.Replace(text, "[host]\n", fmt.Sprintf("[host]\npod_range = \"10.236.%d.0/24\"\n", number), 1)
		}
		if err := os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o644); err != nil {
			m.t.Fatal(err)
		}
	}
	m.load()
}

func (m *mesh) load() {
	m.t.Helper()
	var err error
	if m.fleet, err = hosts.Load(m.dir); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mesh) edit(file string, old *regexp.Regexp, text string) {
	m.t.Helper()
	path := filepath.Join(m.dir, file)
	content, err := os.ReadFile(path)
	if err != nil {
		m.t.Fatal(err)
	}
	if !old.Match(content) {
		m.t.Fatalf("%s has no %s", file, old)
	}
	if err := os.WriteFile(path, old.ReplaceAll(content, []byte(text)), 0o644); err != nil {
		m.t.Fatal(err)
	}
	m.load()
}

// give puts the fleet on a host.
func (m *mesh) give(name string) {
	m.t.Helper()
	if err := m.hosts[name].PutTree(m.dir, "/etc/nodeagent/fleet"); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mesh) addHost(l *lab.Lab, name, outer string) *lab.Mercury {
	m.t.Helper()
	host, err := l.AddHost(m.ctx, lab.HostOptions{Name: name, Links: []lab.Link{{Name: "eth0", Switch: "internet"}}})
	if err != nil {
		m.t.Fatal(err)
	}
	h := &lab.Mercury{Host: host}
	m.hosts[name] = h
	if err := errors.Join(h.PutAgent(m.ctx), h.Boot(m.ctx)); err != nil {
		m.t.Fatal(err)
	}
	// The provider's own set-up, which the fleet leaves alone.
	m.must(h, "ip", "address", "add", outer+"/24", "dev", "eth0")
	m.must(h, "ip", "link", "set", "eth0", "up")
	return h
}

func (m *mesh) must(h *lab.Mercury, args ...string) string {
	m.t.Helper()
	out, err := h.Exec(m.ctx, args...)
	if err != nil {
		m.t.Fatalf("on host %s: %v", h.Name(), err)
	}
	return out
}

// serve answers each connection with a line until the host goes down, in the
// host's own namespace or, where pod is not empty, in that of a pod.
func (m *mesh) serve(h *lab.Mercury, pod string, port int) {
	m.t.Helper()
	command := []string{"systemd-run", "--quiet", "--collect", fmt.Sprintf("--unit=serve-%s%d", pod, port)}
	if pod != "" {
		command = append(command, "ip", "netns", "exec", pod)
	}
	m.must(h, append(command, "systemd-socket-activate", "-a", "--inetd", "-l", fmt.Sprint(port), "sh", "-c", "echo hello; sleep 30")...)
}

// dial connects from the host, or from a pod on it, and returns the error.
func (m *mesh) dial(h *lab.Mercury, pod, address string, port int, timeout time.Duration) error {
	command := []string{"timeout", fmt.Sprint(timeout.Seconds())}
	if pod != "" {
		command = append(command, "ip", "netns", "exec", pod)
	}
	script := fmt.Sprintf("exec 3<>/dev/tcp/%s/%d && read -r line <&3 && test -n \"$line\"", address, port)
	_, err := h.Exec(m.ctx, append(command, "bash", "-c", script)...)
	return err
}

// open waits until a connection works: the first packets through a tunnel wait
// for its handshake.
func (m *mesh) open(from *lab.Mercury, pod, address string, port int) {
	m.t.Helper()
	err := lab.Within(m.ctx, 30*time.Second, fmt.Sprintf("%s%s to reach %s port %d", from.Name(), pod, address, port),
		func(context.Context) error { return m.dial(from, pod, address, port, 5*time.Second) })
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *mesh) closed(from *lab.Mercury, address string, port int) {
	m.t.Helper()
	if err := m.dial(from, "", address, port, 1500*time.Millisecond); err == nil {
		m.t.Errorf("%s reaches %s port %d, which is closed to it", from.Name(), address, port)
	}
}

// addPod makes a network namespace and lets the reference plugin connect it with
// the very file that nodeagent gives containerd. It returns the pod's address.
func (m *mesh) addPod(spec *hosts.Spec) string {
	m.t.Helper()
	h := m.hosts[spec.Name]
	var plugin map[string]any
	for _, f := range kube.Render(spec, "", kube.Facts{}).Files {
		if strings.HasSuffix(f.Path, ".conflist") {
			var list map[string]any
			if err := json.Unmarshal([]byte(f.Content), &list); err != nil {
				m.t.Fatal(err)
			}
			plugin = list["plugins"].([]any)[0].(map[string]any)
			plugin["cniVersion"], plugin["name"] = list["cniVersion"], list["name"]
		}
	}
	config, err := json.Marshal(plugin)
	if err != nil || plugin == nil {
		m.t.Fatalf("no CNI configuration: %v", err)
	}
	m.must(h, "ip", "netns", "add", "pod")
	out, err := h.ExecInput(m.ctx, strings.NewReader(string(config)), "env", "CNI_COMMAND=ADD", "CNI_CONTAINERID=pod",
		"CNI_NETNS=/run/netns/pod", "CNI_IFNAME=eth0", "CNI_PATH=/usr/lib/cni", "/usr/lib/cni/bridge")
	var result struct {
		Ips []struct{ Address netip.Prefix }
	}
	if err := errors.Join(err, json.Unmarshal([]byte(out), &result)); err != nil || len(result.Ips) == 0 {
		m.t.Fatalf("CNI on %s: %v\n%s", spec.Name, err, out)
	}
	return result.Ips[0].Address.Addr().String()
}

// testMesh brings up the network of the shipped fleet k8s-235 on three hosts and
// tries it with real connections: through the mesh, from outside, from pod to
// pod, and with a host gone.
func testMesh(t *testing.T) {
	m := newMesh(t)
	for _, spec := range m.fleet.Hosts {
		m.must(m.hosts[spec.Name], "nodeagent", "apply", "--only", "kernel,network")
	}
	for _, spec := range m.fleet.Hosts {
		if out := m.must(m.hosts[spec.Name], "nodeagent", "plan", "--only", "kernel,network", "--exit-code"); testing.Verbose() {
			t.Logf("%s: %s", spec.Name, out)
		}
	}
	a, b, c := m.fleet.Hosts[0], m.fleet.Hosts[1], m.fleet.Hosts[2]
	ha, hb, hc, stranger := m.hosts[a.Name], m.hosts[b.Name], m.hosts[c.Name], m.hosts["stranger"]
	outer := netip.MustParseAddrPort(endpointOf(m.fleet, a.Name)).Addr().String()
	for _, port := range []int{6443, 9999} {
		m.serve(ha, "", port)
	}

	m.must(ha, "systemctl", "start", "ssh.service")

	m.open(hb, "", a.Address.String(), 6443)
	m.open(hc, "", a.Address.String(), 6443)
	m.open(hc, "", a.Address.String(), 22)
	m.closed(stranger, outer, 22)
	m.closed(hb, a.Address.String(), 9999) // the mesh is no free pass
	m.closed(stranger, outer, 6443)
	m.closed(stranger, outer, 9999)
	// A packet from outside with an address of the mesh is not from the mesh.
	m.must(stranger, "ip", "address", "add", "10.235.0.77/32", "dev", "eth0")
	m.must(stranger, "ip", "route", "add", a.Address.String(), "via", outer, "src", "10.235.0.77")
	m.closed(stranger, a.Address.String(), 6443)

	pods := map[string]string{}
	for _, spec := range []*hosts.Spec{a, b} {
		pods[spec.Name] = m.addPod(spec)
		m.serve(m.hosts[spec.Name], "pod", 8080)
	}
	m.open(ha, "pod", pods[b.Name], 8080)
	m.open(hb, "pod", pods[a.Name], 8080)
	// A pod is seen by its own address.
	if peers := m.must(hb, "ip", "netns", "exec", "pod", "ss", "-Htn", "state", "all", "sport", "=", ":8080"); !strings.Contains(peers, pods[a.Name]) {
		t.Errorf("the pod of %s, %s, is not seen by its address in the pod of %s:\n%s", a.Name, pods[a.Name], b.Name, peers)
	}

	// A host dies: the others go on, what led to it stays and leads nowhere else.
	routes := m.must(ha, "ip", "-o", "route")
	if err := hc.Kill(m.ctx); err != nil {
		t.Fatal(err)
	}
	m.open(hb, "", a.Address.String(), 6443)
	m.open(ha, "pod", pods[b.Name], 8080)
	m.closed(ha, c.Address.String(), 6443)
	m.must(ha, "nodeagent", "plan", "--only", "kernel,network", "--exit-code")
	if now := m.must(ha, "ip", "-o", "route"); now != routes {
		t.Errorf("with %s gone the routes of %s are\n%s\nand were\n%s", c.Name, a.Name, now, routes)
	}
	if err := hc.Boot(m.ctx); err != nil {
		t.Fatal(err)
	}
	m.must(hc, "ip", "address", "add", netip.MustParseAddrPort(endpointOf(m.fleet, c.Name)).Addr().String()+"/24", "dev", "eth0")
	m.must(hc, "ip", "link", "set", "eth0", "up")
	m.must(hc, "nodeagent", "apply", "--only", "kernel,network")
	m.open(hc, "", a.Address.String(), 6443)
}
