package testing

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/test/servers"
)

// soarin is a host whose fleet says nothing of its own links.
const soarin = `networking.hostName = "soarin"; networking.firewall.enable = false;
  services.nodeagent.enable = true; services.nodeagent.fleet = source + "/hosts/fleets/k8s-235";`

// mercury is a host whose fleet configures eth0 and has a firewall.
const mercury = `networking.hostName = "mercury"; networking.useDHCP = lib.mkDefault false; networking.firewall.enable = lib.mkDefault false;
  services.nodeagent.enable = true; services.nodeagent.fleet = lib.mkDefault (source + "/hosts/fleets/mercury");`

// small is a host whose fleet is in Nix.
func small(more string) string {
	return `networking.hostName = "a"; networking.useDHCP = lib.mkDefault false; services.nodeagent.enable = true; services.nodeagent.settings = {
	  shared = { cluster.name = "c"; pki.issuer = "local"; };
	  hosts.a = { host.roles = []; host.address = "192.0.2.1"; ` + more + ` };
	};`
}

// conflicts are configurations that cannot be, and what is said of each.
var conflicts = []struct{ name, base, more, want string }{
	{"soarin", soarin, "", ""},
	{"mercury", mercury, "", ""},
	{"small", small(""), "", ""},
	{"neither", `services.nodeagent.enable = true;`, "", "neither is set"},
	{"both", mercury, `services.nodeagent.settings.hosts.mercury = {};`, "both is set"},
	{"no such host", small(""), `services.nodeagent.host = "b";`, "settings.hosts has no b"},
	{"host name", small("network.hostname = true;"), `services.nodeagent.host = "a"; networking.hostName = lib.mkForce "other";`, "networking.hostName is other"},
	{"DHCP", mercury, `networking.useDHCP = true;`, "the spec configures eth0, and networking.useDHCP"},
	{"interfaces", mercury, `networking.interfaces.eth0.mtu = 1400;`, "networking.interfaces configure eth0"},
	{"networkd", mercury, `systemd.network.networks.lan.matchConfig.Name = [ "eth0" ];`, "systemd.network.networks configure eth0"},
	{"networkd, one name", mercury, `systemd.network.networks.lan.matchConfig.Name = "eth0";`, "systemd.network.networks configure eth0"},
	{"networkd, another link", mercury, `systemd.network.networks.lan.matchConfig.Name = "eth1";`, ""},
	{"wireguard", soarin, `networking.wireguard.interfaces.wg0 = {};`, "networking.wireguard (or wg-quick) make wg0"},
	{"wg-quick", soarin, `networking.wg-quick.interfaces.wg0 = {};`, "networking.wireguard (or wg-quick) make wg0"},
	{"two firewalls", mercury, `networking.firewall.enable = true;`, "a packet has to pass both"},
	{"one opens for the other", mercury, `networking.firewall.enable = true; services.nodeagent.openFirewall = true;`, ""},
	{"resolvconf", small(`network.dns.servers = [ "192.0.2.53" ];`), "", "resolvconf writes /etc/resolv.conf"},
	{"resolved", small(`network.dns.servers = [ "192.0.2.53" ];`), `services.resolved.enable = true;`, ""},
	{"no resolvconf", small(`network.dns.servers = [ "192.0.2.53" ];`), `networking.resolvconf.enable = false;`, ""},
	{"read-only /etc", soarin, `system.etc.overlay = { enable = true; mutable = false; };`, "makes read-only"},
	{"sysctl", mercury, `boot.kernel.sysctl."vm.panic_on_oom" = 1;`, "vm.panic_on_oom (1, spec 0)"},
	{"the same sysctl", mercury, `boot.kernel.sysctl."vm.panic_on_oom" = 0;`, ""},
	{"a sysctl of NixOS'", small(`kernel.sysctl."vm.swappiness" = false;`), `boot.kernel.sysctl."vm.swappiness" = 3;`, ""},
	{"kubernetes", mercury, `services.kubernetes.roles = [ "node" ];`, "docs/nixos.md has each option"},
	{"k3s", mercury, `services.k3s.enable = true;`, "take services.kubernetes and services.k3s out"},
	{"etcd", mercury, `services.etcd.enable = true;`, "services.etcd.enable = false"},
	{"etcd elsewhere", small(""), `services.etcd.enable = true;`, ""},
	{"containerd", mercury, `virtualisation.containerd.enable = true;`, "virtualisation.containerd.enable = false"},
}

// TestConflicts: what cannot go together is said at evaluation, and what can
// go together is not.
func TestConflicts(t *testing.T) {
	t.Parallel()
	needNix(t)
	var all strings.Builder
	for _, tc := range conflicts {
		fmt.Fprintf(&all, "%q = failed [ ({ lib, ... }: { %s }) ({ lib, ... }: { %s }) ];\n", tc.name, tc.base, tc.more)
	}
	var got map[string][]string
	eval(t, `
let failed = more: map (a: a.message) (builtins.filter (a: !a.assertion) (system { imports = more; }).assertions); in
{
`+all.String()+`}`, &got)
	for _, tc := range conflicts {
		switch said := got[tc.name]; {
		case tc.want == "" && len(said) > 0:
			t.Errorf("%s: %q, want nothing", tc.name, said)
		case tc.want != "" && (len(said) != 1 || !strings.Contains(said[0], tc.want)):
			t.Errorf("%s: %q, want one with %q", tc.name, said, tc.want)
		}
	}
}

// TestHandover: what NixOS owns it is told.
func TestHandover(t *testing.T) {
	t.Parallel()
	var got struct {
		Modules         []string
		Sysctl          map[string]any
		TCP, UDP        []int
		Trusted, Denied []string
		Hosts, Networkd any
		Warnings        []string
	}
	read := func(base, more string) {
		t.Helper()
		got.Sysctl, got.Hosts, got.Networkd = nil, nil, nil
		eval(t, `
let c = system { imports = [ ({ lib, ... }: { `+base+` }) ({ lib, ... }: { `+more+` }) ]; }; in
{
  modules = c.boot.kernelModules;
  sysctl = c.boot.kernel.sysctl;
  tcp = c.networking.firewall.allowedTCPPorts;
  udp = c.networking.firewall.allowedUDPPorts;
  trusted = c.networking.firewall.trustedInterfaces;
  denied = c.networking.dhcpcd.denyInterfaces;
  hosts = c.environment.etc.hosts.mode or null;
  networkd = c.systemd.network.config.networkConfig;
  warnings = c.warnings;
}`, &got)
	}
	read(soarin, "")
	if !slices.Equal(got.Modules, []string{"br_netfilter", "overlay", "wireguard"}) {
		t.Errorf("modules %v", got.Modules)
	}
	for name, want := range map[string]any{"vm.panic_on_oom": "0", "net.ipv4.ip_forward": "1", "fs.inotify.max_user_instances": "8192"} {
		if got.Sysctl[name] != want {
			t.Errorf("%s = %v, want %v also where NixOS has a default of its own", name, got.Sysctl[name], want)
		}
	}
	if got.Hosts != "0644" {
		t.Errorf("/etc/hosts has mode %v: a link into the store cannot be edited", got.Hosts)
	}
	if len(got.TCP)+len(got.UDP)+len(got.Trusted) > 0 {
		t.Errorf("NixOS' firewall is opened without a word: %v %v %v", got.TCP, got.UDP, got.Trusted)
	}
	if !slices.Contains(got.Denied, "wg0") || len(got.Warnings) > 0 {
		t.Errorf("dhcpcd leaves %v alone; warnings %q", got.Denied, got.Warnings)
	}
	read(soarin, `networking.firewall.enable = lib.mkForce true; services.nodeagent.openFirewall = true; networking.useNetworkd = true;`)
	slices.Sort(got.TCP)
	if diff := cmp.Diff([]int{22, 2379, 2380, 4240, 6443, 10250}, got.TCP); diff != "" {
		t.Error(diff)
	}
	slices.Sort(got.UDP)
	if !slices.Equal(got.UDP, []int{8472, 51820}) || !slices.Contains(got.Trusted, "wg0") {
		t.Errorf("UDP %v, trusted %v", got.UDP, got.Trusted)
	}
	if diff := cmp.Diff(any(map[string]any{"ManageForeignRoutes": false, "ManageForeignRoutingPolicyRules": false}), got.Networkd); diff != "" {
		t.Errorf("networkd would take nodeagent's routes away: %s", diff)
	}
	read(mercury, `services.nodeagent.programs = lib.mkForce [ { type = "derivation"; pname = "kubernetes"; version = "1.35.1"; outPath = "/k"; } ];`)
	if got.Hosts != nil {
		t.Errorf("/etc/hosts has mode %v without a need", got.Hosts)
	}
	if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "wants Kubernetes 1.36.3") {
		t.Errorf("another release of Kubernetes: %q", got.Warnings)
	}
}

// TestUnit: the module's service is that of cmd/nodeagent/nodeagent.service.
func TestUnit(t *testing.T) {
	t.Parallel()
	var got struct {
		Description              string
		After, Before, Wants     []string
		ServiceConfig            map[string]any
		UnitConfig               map[string]any
		RestartIfChanged         bool
		StopIfChanged            bool
		Environment              map[string]string
		Documentation            []string
		WantedBy, ReloadTriggers []string
	}
	eval(t, `(system ({ lib, ... }: { `+mercury+` })).systemd.services.nodeagent`, &got)
	text, err := os.ReadFile("../../cmd/nodeagent/nodeagent.service")
	must(t, err)
	for line := range strings.Lines(string(text)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		is := ""
		switch key {
		case "Description":
			is = got.Description
		case "Documentation":
			is = strings.Join(got.Documentation, " ")
		case "After":
			is = strings.Join(got.After, " ")
		case "Before":
			is = strings.Join(got.Before, " ")
		case "Wants":
			is = strings.Join(got.Wants, " ")
		case "WantedBy":
			is = strings.Join(got.WantedBy, " ")
		case "StartLimitIntervalSec":
			is = fmt.Sprint(got.UnitConfig[key])
		default:
			is = fmt.Sprint(got.ServiceConfig[key])
		}
		if key == "ExecStart" || key == "ExecReload" {
			_, value, _ = strings.Cut(value, "bin/")
			_, is, _ = strings.Cut(is, "bin/")
		}
		if is != value {
			t.Errorf("%s=%s, and %q on NixOS", key, value, is)
		}
	}
}

// TestReload: another fleet and other programs change nothing in the unit but its
// reload triggers, for which NixOS reloads; another nodeagent changes more, and
// NixOS leaves the running one alone.
func TestReload(t *testing.T) {
	t.Parallel()
	type unit = map[string]any
	var got struct{ Before, Fleet, Programs, Package, Upgrade unit }
	eval(t, `
let
  of = more: let u = (system ({ lib, pkgs, ... }: { imports = [ { `+mercury+` } more ]; })).systemd.services.nodeagent; in
    u // { reloadTriggers = map builtins.unsafeDiscardStringContext u.reloadTriggers; };
in
{
  before = of { };
  fleet = of { services.nodeagent.fleet = source + "/hosts/fleets/k8s-235"; services.nodeagent.host = "mercury"; };
  programs = of { services.nodeagent.programs = [ pkgs.etcd ]; };
  package = of { services.nodeagent.package = pkgs.etcd; };
  upgrade = of { services.nodeagent.package = pkgs.etcd; services.nodeagent.restartOnUpgrade = true; };
}`, &got)
	triggers := func(u unit) any { return u["reloadTriggers"] }
	rest := func(u unit) unit {
		more := unit{}
		for k, v := range u {
			if k != "reloadTriggers" {
				more[k] = v
			}
		}
		return more
	}
	for name, u := range map[string]unit{"fleet": got.Fleet, "programs": got.Programs} {
		if cmp.Equal(triggers(u), triggers(got.Before)) {
			t.Errorf("another %s reloads nothing", name)
		}
		if diff := cmp.Diff(rest(got.Before), rest(u)); diff != "" {
			t.Errorf("another %s is more than a reload: %s", name, diff)
		}
	}
	if cmp.Equal(rest(got.Before), rest(got.Package)) || got.Package["restartIfChanged"] != false {
		t.Error("another nodeagent must be in the unit, and not restart it")
	}
	if got.Upgrade["restartIfChanged"] != true || got.Upgrade["stopIfChanged"] != false {
		t.Error("restartOnUpgrade restarts in one step")
	}
}

// TestRescue: one file has the fleet within it and needs nothing else.
func TestRescue(t *testing.T) {
	t.Parallel()
	servers.Require(t, "runs nodeagent with the fleet within it", func() error {
		if _, err := os.Stat("/etc/nodeagent/fleet"); err == nil {
			return errors.New("this machine has a fleet of its own in /etc/nodeagent/fleet, which comes first; move it away")
		}
		return nil
	}, "CI=true")
	path := result(t, "--impure", "--expr", fmt.Sprintf(`
let
  lib = import %[1]s/nix/testing/nixpkgs/lib.nix;
  pkgs = import %[1]s/nix/testing/nixpkgs/pkgs.nix { inherit lib; system = "x86_64-linux"; };
  package = pkgs.callPackage %[1]s/nix/package.nix { };
in import %[1]s/nix/rescue.nix { inherit pkgs package; validator = package; fleet = %[1]s/hosts/fleets/mercury; }`, bench.source))
	content, err := os.ReadFile(path + "/bin/nodeagent")
	must(t, err)
	program := t.TempDir() + "/nodeagent"
	must(t, os.WriteFile(program, content, 0o755))
	stdout, _ := run(t, program, nil, "validate")
	if stdout != "embedded:: valid, 1 host\n" {
		t.Errorf("%q", stdout)
	}
	folder := bench.source + "/hosts/fleets/k8s-235"
	if stdout, stderr := run(t, program, nil, "validate", "--fleet", folder); stdout != folder+": valid, 3 hosts\n" || stderr != "" {
		t.Errorf("a folder that is named comes first: %q %q", stdout, stderr)
	}
	if stdout, _ = run(t, program, []string{"NODEAGENT_FLEET=" + folder}, "validate", "--fleet", "embedded:"); stdout != "embedded:: valid, 1 host\n" {
		t.Errorf("and the one within can be named: %q", stdout)
	}
}
