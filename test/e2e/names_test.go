package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/test/lab"
)

// The DNS servers of the wire, each of which gives every name of lab.test an
// address of its own.
const (
	ourServer, ourAnswer       = "203.0.113.53", "192.0.2.53"
	otherServer, otherAnswer   = "203.0.113.54", "192.0.2.54"
	silentServer               = "203.0.113.99" // nobody is there
	resolvConf                 = "/etc/resolv.conf"
	resolvedLink, resolvedFile = "../run/systemd/resolve/stub-resolv.conf", "/etc/systemd/resolved.conf.d/nodeagent.conf"
)

// dnsHost is a host that asks DNS servers.
type dnsHost struct {
	lockout
	resolved bool
}

func (h dnsHost) address() string {
	if h.resolved {
		return "203.0.113.11"
	}
	return "203.0.113.10"
}

// resolves checks which server answers for a name, by the C library as every
// program of the host asks.
func (h dnsHost) resolves(name, want string) error {
	out, err := h.Exec(h.ctx, "getent", "ahostsv4", name)
	answer, _, _ := strings.Cut(out, " ")
	if answer != want {
		return fmt.Errorf("%s is %q on %s (%v), want %q", name, answer, h.Name(), err, want)
	}
	return nil
}

func (h dnsHost) mustResolve(name, want string) {
	h.t.Helper()
	if err := h.resolves(name, want); err != nil {
		h.t.Error(err)
	}
}

// fleet writes the spec with the given lines about DNS.
func (h dnsHost) fleet(dns string) {
	h.t.Helper()
	for name, content := range map[string]string{
		"cluster.toml":     "[cluster]\nname = \"names\"\n" + dns,
		h.Name() + ".toml": "[host]\nroles = []\naddress = \"" + h.address() + "\"\n",
	} {
		if err := h.PutFile("/etc/nodeagent/fleet/"+name, []byte(content), 0o644); err != nil {
			h.t.Fatal(err)
		}
	}
}

// declared is a spec with our server.
const declared = "[network.dns]\nservers = [\"" + ourServer + "\"]\nsearch = [\"lab.test\"]\n"

// testNames: names are resolved by the servers that the spec names, on a host
// with systemd-resolved and on one without; what somebody changes is put right,
// and what was there before comes back when the spec drops them.
func testNames(t *testing.T) {
	l := lab.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	if err := l.AddSwitch(ctx, "lan", netip.MustParsePrefix("203.0.113.1/24"), netip.MustParsePrefix(ourServer+"/24"), netip.MustParsePrefix(otherServer+"/24")); err != nil {
		t.Fatal(err)
	}
	ours := newDNSServer(t, ctx, l, ourServer, "lab.test", ourAnswer)
	newDNSServer(t, ctx, l, otherServer, "lab.test", otherAnswer)
	for name, resolved := range map[string]bool{"plain": false, "resolved": true} {
		t.Run(name, func(t *testing.T) {
			h := newDNSHost(t, ctx, l, name, resolved)
			h.fleet(declared)
			applyNames(h)
			if !ours.wasAsked("via-" + name + ".lab.test") {
				t.Error("our server was not asked")
			}
			driftOfNames(h)
			dropNames(h)
		})
	}
}

// newDNSHost boots a host whose names another server resolves.
func newDNSHost(t *testing.T, ctx context.Context, l *lab.Lab, name string, resolved bool) dnsHost {
	t.Helper()
	made, err := l.AddHost(ctx, lab.HostOptions{Name: name, Links: []lab.Link{{Name: "eth0", Switch: "lan"}}})
	if err != nil {
		t.Fatal(err)
	}
	h := dnsHost{lockout{t, ctx, &lab.Mercury{Host: made}}, resolved}
	if err := h.PutAgent(ctx); err != nil {
		t.Fatal(err)
	}
	if err := h.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	h.must("sh", "-c", "ip address add "+h.address()+"/24 dev eth0; ip link set eth0 up")
	if resolved {
		// As an installer leaves a server: one server by resolved's own file.
		h.must("sh", "-c", "mkdir -p /etc/systemd/resolved.conf.d && printf '[Resolve]\\nDNS="+otherServer+"\\n' > /etc/systemd/resolved.conf.d/installer.conf"+
			" && ln -sf "+resolvedLink+" "+resolvConf+" && systemctl enable --now systemd-resolved.service")
	} else {
		h.must("sh", "-c", "echo nameserver "+otherServer+" > "+resolvConf)
	}
	h.mustResolve("before.lab.test", otherAnswer)
	return h
}

func applyNames(h dnsHost) {
	h.t.Helper()
	h.must("nodeagent", "apply")
	h.must("nodeagent", "plan", "--exit-code")
	h.mustResolve("via-"+h.Name()+".lab.test", ourAnswer)
	h.mustResolve("short", ourAnswer) // through the search domain
	if !h.resolved {
		if out := h.must("cat", resolvConf); !strings.Contains(out, "nameserver "+ourServer+"\n") {
			h.t.Errorf("%s:\n%s", resolvConf, out)
		}
		return
	}
	if out := h.must("readlink", resolvConf); strings.TrimSpace(out) != resolvedLink {
		h.t.Errorf("%s leads to %s", resolvConf, out)
	}
	if out := h.must("resolvectl", "--no-pager", "dns"); !strings.Contains(out, "Global: "+ourServer+"\n") {
		h.t.Errorf("resolvectl dns:\n%s", out)
	}
	if out := h.must("resolvectl", "--no-pager", "domain"); !strings.Contains(out, "Global: ~. lab.test\n") && !strings.Contains(out, "Global: lab.test ~.\n") {
		h.t.Errorf("resolvectl domain:\n%s", out)
	}
	if out := h.must("resolvectl", "--no-pager", "query", "--cache=no", "query.lab.test"); !strings.Contains(out, ourAnswer) {
		h.t.Errorf("resolvectl query:\n%s", out)
	}
	h.must("systemctl", "restart", "systemd-resolved.service")
	h.mustResolve("restarted.lab.test", ourAnswer)
	outliveChanges(h)
}

// outliveChanges changes the spec more often than systemd lets a service start
// (5 times in 10 seconds): resolved must not be dead after it.
func outliveChanges(h dnsHost) {
	h.t.Helper()
	for i := range 7 {
		h.fleet(strings.Replace(declared, "lab.test", fmt.Sprintf("d%d.test", i), 1))
		h.must("nodeagent", "apply", "--only", "names")
	}
	h.fleet(declared)
	h.must("nodeagent", "apply")
	h.mustResolve("changed.lab.test", ourAnswer)
}

// driftOfNames changes by hand what nodeagent keeps, while it runs.
func driftOfNames(h dnsHost) {
	h.t.Helper()
	h.must("systemctl", "start", "nodeagent.service")
	drifts := []string{
		"rm " + resolvConf,
		"echo nameserver " + otherServer + " > " + resolvConf,
		"echo nameserver " + silentServer + " > /tmp/new && mv /tmp/new " + resolvConf,
	}
	if h.resolved {
		tell := "; systemctl reset-failed systemd-resolved.service; systemctl restart systemd-resolved.service"
		drifts = []string{
			"rm " + resolvedFile + tell,
			"printf '[Resolve]\\nDNS=\\nDNS=" + silentServer + "\\n' > " + resolvedFile + tell,
			"rm -r " + "/etc/systemd/resolved.conf.d" + tell,
		}
	}
	for i, drift := range drifts {
		h.must("sh", "-c", drift)
		if err := lab.Within(h.ctx, 20*time.Second, "nodeagent to put right: "+drift, func(context.Context) error {
			return h.resolves(fmt.Sprintf("drift%d.lab.test", i), ourAnswer)
		}); err != nil {
			h.t.Error(err)
		}
		if err := lab.Within(h.ctx, 20*time.Second, "the host to be converged after: "+drift, func(context.Context) error {
			_, err := h.Exec(h.ctx, "nodeagent", "plan", "--exit-code")
			return err
		}); err != nil {
			h.t.Error(err)
		}
	}
	h.must("systemctl", "stop", "nodeagent.service")
}

// dropNames takes the servers out of the spec.
func dropNames(h dnsHost) {
	h.t.Helper()
	if h.resolved { // the last drift took it
		h.must("sh", "-c", "printf '[Resolve]\\nDNS="+otherServer+"\\n' > /etc/systemd/resolved.conf.d/installer.conf")
	}
	h.fleet("")
	h.must("nodeagent", "apply")
	h.must("nodeagent", "plan", "--exit-code")
	h.mustResolve("after.lab.test", otherAnswer)
	if h.resolved {
		h.must("test", "!", "-e", resolvedFile)
		return
	}
	if out := h.must("cat", resolvConf); out != "nameserver "+otherServer+"\n" {
		h.t.Errorf("%s was not put back:\n%s", resolvConf, out)
	}
}
