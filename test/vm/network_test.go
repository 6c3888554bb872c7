package vm

import (
	"bytes"
	"path"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/test/vm/line"
)

// waitLimit is how long a condition may take to hold: seconds, but for an
// emulated processor on a busy machine.
const waitLimit = 3 * time.Minute

// asPeer runs a command as the other host: in a network namespace of its own,
// with folders of its own for what nodeagent keeps.
const asPeer = `#!/bin/sh
set -e
for dir in /var/lib/nodeagent /run/nodeagent; do
  mkdir -p "$dir" "/peer$dir"
  mount --bind "/peer$dir" "$dir"
done
exec "$@"
`

// publicKey finds a key among what else nodeagent says.
var publicKey = regexp.MustCompile(`(?m)^[A-Za-z0-9+/]{43}=$`)

// peer is the command as the other host runs it.
func peer(args ...string) []string {
	return append([]string{"ip", "netns", "exec", "peer", "/root/as-peer"}, args...)
}

// planIsEmpty fails the test where nodeagent plans a change.
func planIsEmpty(t *testing.T, g *Guest, command ...string) {
	t.Helper()
	if status, out := exit(t, g, append(command, "plan", "--exit-code", "--only", "kernel,network")...); status != 0 {
		t.Errorf("the plan is not empty (exit status %d):\n%s", status, out)
	}
}

// testNetwork brings up two hosts: the guest itself and one in a network
// namespace, joined by the guest's network cards.
func testNetwork(t *testing.T, g *Guest) {
	must(t, g.WriteFile(t.Context(), line.File{Path: "/root/as-peer", Mode: 0o755, Content: []byte(asPeer)}))
	run(t, g, "modprobe", "-a", "virtio_pci", "virtio_net") // as udev does
	run(t, g, "ip", "netns", "add", "peer")
	run(t, g, "ip", "-n", "peer", "link", "set", "lo", "up")
	run(t, g, "ip", "link", "set", "eth2", "netns", "peer")
	keys := map[string]string{
		"vm":   publicKey.FindString(run(t, g, "nodeagent", "wireguard", "key")),
		"peer": publicKey.FindString(run(t, g, peer("nodeagent", "wireguard", "key", "--host", "peer")...)),
	}
	writeFleet(t, g, keys, path.Base(strings.TrimSpace(run(t, g, "readlink", "/sys/class/net/eth1/device"))))

	t.Log(run(t, g, "nodeagent", "plan", "--only", "kernel,network"))
	t.Log(run(t, g, "nodeagent", "apply", "--only", "kernel,network"))
	t.Log(run(t, g, peer("nodeagent", "apply", "--only", "network", "--host", "peer")...))
	planIsEmpty(t, g, "nodeagent")
	planIsEmpty(t, g, peer("nodeagent", "--host", "peer")...)

	for _, check := range []struct {
		command string
		want    []string
	}{
		{"ip -d link show bond0", []string{"bond mode active-backup", "miimon 100", "state UP"}},
		{"ip link show master bond0", []string{"eth0", "eth1", "altname uplink", "altname second"}},
		{"ip -d link show lan", []string{"lan@bond0", "vlan protocol 802.1Q id 100", "state UP"}},
		{"ip -d link show br0", []string{"vlan_filtering 1", "vlan_default_pvid 0"}},
		{"bridge vlan show dev tap", []string{"20 PVID Egress Untagged", "30"}},
		{"ip -d link show blue", []string{"vrf table 100"}},
		{"ip -d link show inner", []string{"dummy", "master blue"}},
		{"ip -d link show side", []string{"side@lan", "macvlan mode bridge"}},
		{"ip -d link show over", []string{"vxlan id 7", "mtu 1400", "remote 10.100.0.2"}},
		{"ip -d link show wg0", []string{"wireguard"}},
		{"ip route show table 100", []string{"10.41.0.0/16 via 10.40.0.2 dev inner"}},
		{"ip route", []string{"blackhole 10.66.0.0/16", "10.99.0.0/24"}},
		{"ip rule", []string{"from 10.20.0.0/24 lookup 100"}},
		{"nft list ruleset", []string{"policy drop", "tcp dport { 22 }"}},
	} {
		out := run(t, g, strings.Fields(check.command)...)
		for _, want := range check.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s does not say %q:\n%s", check.command, want, out)
			}
		}
	}
	for name, address := range map[string]string{
		"VLAN over the bond": "10.100.0.2", "IPv6": "fd00:100::2", "WireGuard of the kernel": "10.99.0.2", "VXLAN": "10.70.0.2",
	} {
		t.Run(name, func(t *testing.T) { reaches(t, g, address) })
	}
	t.Run("again", func(t *testing.T) {
		before := picture(t, g)
		run(t, g, "nodeagent", "apply", "--only", "kernel,network")
		if diff := cmp.Diff(before, picture(t, g)); diff != "" {
			t.Errorf("a second apply changed something:\n%s", diff)
		}
	})
}

// reaches waits until an address of the other host answers.
func reaches(t *testing.T, g *Guest, address string) {
	t.Helper()
	until(t, waitLimit, "an answer of "+address, func() (bool, string) {
		status, out := exit(t, g, "ping", "-n", "-c", "1", "-W", "2", address)
		return status == 0, out
	})
}

// timers are those of bridges, which run.
var timers = regexp.MustCompile(`\w+_timer +[0-9.]+`)

// picture is the guest's network, as tools that others wrote show it. What
// counts up or down by itself is not in it.
func picture(t *testing.T, g *Guest) map[string]string {
	t.Helper()
	picture := map[string]string{}
	for _, command := range []string{
		"ip -d link", "ip -br address", "ip -4 route show table all", "ip -6 route show table all", "ip rule",
		"bridge vlan", "nft -s list ruleset", "cat /proc/modules",
	} {
		picture[command] = timers.ReplaceAllString(run(t, g, strings.Fields(command)...), "")
	}
	return picture
}

// testDrift breaks the network below nodeagent's running service.
func testDrift(t *testing.T, g *Guest) {
	service, err := g.Start(line.Command{Args: []string{"nodeagent", "run"}})
	must(t, err)
	var log bytes.Buffer
	service.Stdout, service.Stderr = &log, &log
	ended := make(chan error, 1)
	go func() { ended <- service.Wait(t.Context(), time.Hour) }()
	defer func() {
		if err := service.Kill(); err != nil {
			t.Error(err)
		}
		<-ended
		if t.Failed() {
			t.Logf("the service's log:\n%s", &log)
		}
	}()
	for _, link := range []string{"bond0", "wg0", "inner", "blue", "lan"} {
		t.Run("deleted "+link, func(t *testing.T) {
			before := strings.TrimSpace(run(t, g, "cat", "/sys/class/net/"+link+"/ifindex"))
			run(t, g, "ip", "link", "delete", link)
			start := time.Now()
			until(t, waitLimit, "another "+link, func() (bool, string) {
				status, is := exit(t, g, "cat", "/sys/class/net/"+link+"/ifindex")
				return status == 0 && strings.TrimSpace(is) != before, is
			})
			t.Logf("there again after %s", time.Since(start).Round(10*time.Millisecond))
			until(t, waitLimit, "an empty plan", func() (bool, string) {
				status, out := exit(t, g, "nodeagent", "plan", "--exit-code", "--only", "kernel,network")
				return status == 0, out
			})
			reaches(t, g, "10.99.0.2")
		})
	}
}

// until looks until the condition holds.
func until(t *testing.T, limit time.Duration, what string, holds func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, seen := holds()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s within %s; last:\n%s", what, limit, seen)
		}
		<-tick.C
	}
}
