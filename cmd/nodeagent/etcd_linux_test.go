package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/kube"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/test/apart"
	"github.com/nodeagent/nodeagent/test/certs"
)

// etcdServer is the whole etcd as a command of the test binary.
func etcdServer() { etcdmain.Main(os.Args) }

// etcdFleet is the shipped fleet whose etcd the commands are tried on: real
// servers with the flags of its units, at its addresses, in namespaces of the
// test's own. This host is the first of them; the others differ from it in
// their data folder alone.
const etcdFleet = "../../hosts/fleets/k8s-235"

type etcdLab struct {
	t     *testing.T
	specs []*hosts.Spec
	runs  map[string]*exec.Cmd
}

// TestEtcdCommands goes through what a person does with a cluster of three.
func TestEtcdCommands(t *testing.T) {
	if !apart.Run(t, unix.CLONE_NEWNS|unix.CLONE_NEWNET) {
		return
	}
	l := newEtcdLab(t)
	self := l.specs[0].Name
	others := []string{l.specs[1].Name, l.specs[2].Name}
	if out := l.nodeagent(exitFailed, "status"); !strings.Contains(out, "no member of the cluster answers") {
		t.Errorf("status without a cluster: %s", out)
	}
	for _, spec := range l.specs {
		l.start(spec, "ETCD_INITIAL_CLUSTER="+l.initial(), "ETCD_INITIAL_CLUSTER_STATE=new", "ETCD_INITIAL_CLUSTER_TOKEN="+spec.Cluster)
	}
	l.healthy()
	if out := l.nodeagent(exitOK, "status", "--hash"); !strings.Contains(out, "3 of 3 voting members serve; 1 further failure is borne") {
		t.Errorf("status: %s", out)
	}
	if out := l.nodeagent(exitOK, "members"); strings.Count(out, "\n") != 3 || !strings.Contains(out, self) {
		t.Errorf("members: %s", out)
	}
	if out := l.nodeagent(exitOK, "move-leader", others[0]); !strings.Contains(out, others[0]+" leads") {
		t.Errorf("move-leader: %s", out)
	}
	if out := l.nodeagent(exitOK, "defrag", "--all", "--threshold", "0%", "--yes"); strings.Count(out, ", it was ") != 3 {
		t.Errorf("defrag: %s", out)
	}
	if out := l.nodeagent(exitOK, "disarm"); !strings.Contains(out, "No alarm is on") {
		t.Errorf("disarm: %s", out)
	}
	if out := l.nodeagent(exitFailed, "init", "--again", "--yes"); !strings.Contains(out, "has etcd's data") && !strings.Contains(out, "etcd runs on") {
		t.Errorf("init where a cluster is: %s", out)
	}
	// With data a member starts without being told how to begin.
	l.kill(self)
	l.start(l.specs[0])
	l.healthy()
	l.replace(l.specs[2])
	if out := l.nodeagent(exitOK, "status", "--hash"); !strings.Contains(out, "3 of 3 voting members serve") {
		t.Errorf("status after the replacement: %s", out)
	}
	if out := l.nodeagent(exitOK, "replace", l.specs[2].Name); !strings.Contains(out, "nothing to do") {
		t.Errorf("replace of one that is well: %s", out)
	}
	if out := l.nodeagent(exitOK, "readdress", others[0]); !strings.Contains(out, "nothing to do") {
		t.Errorf("readdress of one that is at home: %s", out)
	}
	if out := l.nodeagent(exitFailed, "rejoin"); !strings.Contains(out, "a member that is ill is replaced instead (`nodeagent etcd replace "+self) {
		t.Errorf("rejoin of one that is a member: %s", out)
	}
	if out := l.nodeagent(exitFailed, "recover"); !strings.Contains(out, "it has its quorum") {
		t.Errorf("recover with a quorum: %s", out)
	}
	l.kill(others[0])
	l.kill(others[1])
	l.until("the quorum to be lost", func() bool {
		return strings.Contains(l.nodeagent(exitFailed, "status"), "no quorum")
	})
	if out := l.nodeagent(exitOK, "recover", "--dry-run"); !strings.Contains(out, "This host goes on alone: its etcd runs without a quorum") || !strings.Contains(out, others[1]+" is there and its etcd does not run") {
		t.Errorf("recover --dry-run: %s", out)
	}
}

// replace loses a host and replaces its member.
func (l *etcdLab) replace(spec *hosts.Spec) {
	l.t.Helper()
	l.kill(spec.Name)
	if err := os.RemoveAll(l.data(spec)); err != nil {
		l.t.Fatal(err)
	}
	if out := l.nodeagent(exitFailed, "status"); !strings.Contains(out, spec.Name+": it does not answer") {
		l.t.Errorf("status with a member down: %s", out)
	}
	if out := l.nodeagent(exitOK, "replace", spec.Name, "--dry-run"); !strings.Contains(out, "1. make sure that "+spec.Name) || !strings.Contains(out, "5. give it its vote") {
		l.t.Errorf("replace --dry-run: %s", out)
	}
	replaced := make(chan string, 1)
	go func() { replaced <- l.nodeagent(exitOK, "replace", spec.Name, "--yes") }()
	l.until("a place for the member", func() bool {
		var list struct {
			Members []struct {
				Name, Role string
				Started    bool
			}
		}
		if err := json.Unmarshal([]byte(l.nodeagent(exitOK, "members", "-o", "json")), &list); err != nil {
			return false
		}
		for _, m := range list.Members {
			if m.Name == spec.Name && m.Role == "learner" && !m.Started {
				return true
			}
		}
		return false
	})
	l.start(spec, "ETCD_INITIAL_CLUSTER="+l.initial(), "ETCD_INITIAL_CLUSTER_STATE=existing")
	if out := <-replaced; !strings.Contains(out, spec.Name+" is a voting member in step") {
		l.t.Errorf("replace: %s", out)
	}
}

func newEtcdLab(t *testing.T) *etcdLab {
	t.Helper()
	l := &etcdLab{t: t, runs: map[string]*exec.Cmd{}}
	fleet, err := hosts.Load(etcdFleet)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/var/lib", "/run"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
			t.Fatal(err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	var addresses []net.IP
	for _, h := range fleet.Hosts {
		if !h.Has(hosts.RoleEtcd) {
			continue
		}
		l.specs = append(l.specs, h)
		ip := net.IP(h.Address.AsSlice())
		addresses = append(addresses, ip)
		mask := net.CIDRMask(8*len(ip), 8*len(ip))
		if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: mask}, Flags: unix.IFA_F_NODAD}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.kill(h.Name) })
	}
	if len(l.specs) != 3 {
		t.Fatalf("%d hosts of the fleet have etcd", len(l.specs))
	}
	if err := os.Mkdir(layout.Root("").EtcdRuntime(), 0o700); err != nil { // as systemd does
		t.Fatal(err)
	}
	l.certificates(addresses)
	return l
}

// certificates makes one pair that serves for everything.
func (l *etcdLab) certificates(addresses []net.IP) {
	l.t.Helper()
	pair := certs.CA(l.t, "etcd", func(c *x509.Certificate) { c.IPAddresses = append(c.IPAddresses, addresses...) })
	root := layout.Root("")
	for _, name := range []string{layout.CertEtcdServer, layout.CertEtcdPeer, layout.CertNodeagentEtcdClient} {
		pair.Write(l.t, root.Certificate(name).Cert, root.Certificate(name).Key)
	}
	pair.Write(l.t, root.Trust(layout.CAEtcdServer), "")
	pair.Write(l.t, root.Trust(layout.CAEtcdPeer), "")
}

func (l *etcdLab) data(spec *hosts.Spec) string {
	if spec.Name == l.specs[0].Name {
		return layout.Root("").EtcdData()
	}
	return strings.Replace(layout.Root("").EtcdData(), "/etcd/", "/etcd-"+spec.Name+"/", 1)
}

// initial is etcd's initial cluster of the fleet.
func (l *etcdLab) initial() string {
	var members []string
	for _, s := range l.specs {
		members = append(members, fmt.Sprintf("%s=https://%s", s.Name, net.JoinHostPort(s.Address.String(), fmt.Sprint(s.Etcd.PeerPort))))
	}
	return strings.Join(members, ",")
}

// start runs a host's etcd with the flags of its unit, but for what two of them
// cannot share here: loopback's address and the socket are the first one's.
func (l *etcdLab) start(spec *hosts.Spec, environment ...string) {
	l.t.Helper()
	var flags []string
	for _, u := range kube.Render(spec, "", kube.Facts{}).Units {
		if u.Name != layout.Unit(layout.Etcd) {
			continue
		}
		_, rest, _ := strings.Cut(u.Content, "ExecStart=")
		for line := range strings.Lines(rest) {
			if flag, more := strings.CutSuffix(strings.TrimSpace(line), `\`); true {
				if strings.HasPrefix(flag, "--") {
					flags = append(flags, strings.TrimSpace(flag))
				}
				if !more {
					break
				}
			}
		}
	}
	if len(flags) == 0 {
		l.t.Fatal("the unit has no flags")
	}
	own := len(flags)
	flags = append(flags, "--data-dir="+l.data(spec), "--logger=zap", "--log-level=error")
	for i, flag := range flags[:own] {
		if spec != l.specs[0] && strings.HasPrefix(flag, "--listen-client-urls=") {
			flags[i] = fmt.Sprintf("--listen-client-urls=https://%s", net.JoinHostPort(spec.Address.String(), fmt.Sprint(spec.Etcd.ClientPort)))
		}
		if strings.HasPrefix(flag, "--listen-metrics-urls=") {
			flags[i] = "--metrics=basic"
		}
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{"etcd"}, flags...)
	cmd.Env = append(os.Environ(), environment...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.runs[spec.Name] = cmd
}

func (l *etcdLab) kill(name string) {
	if cmd := l.runs[name]; cmd != nil {
		cmd.Process.Kill()
		cmd.Wait()
		delete(l.runs, name)
	}
}

// nodeagent runs an etcd command as this host and returns all that it printed.
func (l *etcdLab) nodeagent(want int, args ...string) string {
	l.t.Helper()
	var out strings.Builder
	ctx, cancel := context.WithTimeout(l.t.Context(), 2*time.Minute)
	defer cancel()
	stderr := &out
	if len(args) > 1 && args[1] == "-o" {
		stderr = &strings.Builder{}
	}
	got := run(ctx, append([]string{"--fleet", etcdFleet, "--host", l.specs[0].Name, "etcd"}, args...), &out, stderr)
	if got != want && want != anyExit {
		l.t.Errorf("etcd %v: exit %d, want %d\n%s", args, got, want, out.String())
	}
	return out.String()
}

const anyExit = -1

func (l *etcdLab) healthy() {
	l.t.Helper()
	l.until("the cluster to be well", func() bool {
		return strings.Contains(l.nodeagent(anyExit, "status", "-o", "json"), `"healthy": true`)
	})
}

func (l *etcdLab) until(what string, met func() bool) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !met() {
		select {
		case <-ctx.Done():
			l.t.Fatalf("waited for %s: %s", what, l.nodeagent(anyExit, "status"))
		case <-tick.C:
		}
	}
}
