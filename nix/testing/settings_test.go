package testing

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nodeagent/nodeagent/hosts"
)

// sameFleet compares what two fleets come to, wherever their lines are.
func sameFleet(t *testing.T, want, got *hosts.Fleet) {
	t.Helper()
	options := []cmp.Option{
		cmpopts.IgnoreFields(hosts.Spec{}, "Digest", "Defined", "Fleet"), cmpopts.EquateComparable(),
		cmp.Exporter(func(reflect.Type) bool { return true }),
	}
	if diff := cmp.Diff(want.Hosts, got.Hosts, options...); diff != "" {
		t.Error(diff)
	}
}

// through sends a fleet's files through the options of `settings` and the writer
// of TOML.
func through(t *testing.T, expression string) fstest.MapFS {
	t.Helper()
	var files map[string]string
	eval(t, `
let
  toml = import (source + "/nix/toml.nix") { inherit lib; };
  settings = value: (lib.evalModules { modules = [
    { options.it = lib.mkOption { type = import (source + "/nix/settings.nix") { inherit lib; }; }; config.it = value; }
  ]; }).config.it;
  files = value: let s = settings value; in
    { "cluster.toml" = toml s.shared; } // lib.mapAttrs' (h: v: { name = h + ".toml"; value = toml v; }) s.hosts;
  read = dir: let file = name: builtins.fromTOML (builtins.readFile (dir + "/${name}")); in {
    shared = file "cluster.toml";
    hosts = lib.mapAttrs' (f: _: { name = lib.removeSuffix ".toml" f; value = file f; })
      (removeAttrs (builtins.readDir dir) [ "cluster.toml" ]);
  };
in
`+expression, &files)
	made := fstest.MapFS{}
	for name, text := range files {
		made[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return made
}

// TestFleetsInNix: the shipped fleets, as `settings`, are the same fleets.
func TestFleetsInNix(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"mercury", "k8s-235", "hetzner-ha"} {
		t.Run(name, func(t *testing.T) {
			dir := "../../hosts/fleets/" + name
			want, err := hosts.Load(dir)
			must(t, err)
			got, err := hosts.Source{FS: through(t, fmt.Sprintf("files (read (source + %q))", "/hosts/fleets/"+name))}.Load()
			must(t, err)
			sameFleet(t, want, got)
		})
	}
}

// TestExampleIsMercury: nix/examples/mercury.nix says in Nix what the fleet says.
func TestExampleIsMercury(t *testing.T) {
	t.Parallel()
	want, err := hosts.Load("../../hosts/fleets/mercury")
	must(t, err)
	got, err := hosts.Load(build(t, `nixosConfigurations.example-mercury.config.environment.etc."nodeagent/fleet".source`))
	must(t, err)
	sameFleet(t, want, got)
}

// TestEveryExample sends the reference's example of every key through Nix: what
// Nix reads there and writes again is the same TOML, whose values the options take.
func TestEveryExample(t *testing.T) {
	t.Parallel()
	needNix(t)
	var all strings.Builder
	wanted := map[string]any{}
	dir := t.TempDir()
	n := 0
	for key := range hosts.AllKeys() {
		text := key.Snippet()
		file := fmt.Sprintf("%d.toml", n)
		n++
		must(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644))
		part := "shared"
		if key.File == "host" {
			part = "hosts"
		}
		fmt.Fprintf(&all, "  %q = one %q (builtins.fromTOML (builtins.readFile %s/%s));\n", key.Path, part, dir, file)
		tree, err := decode(text)
		must(t, err)
		wanted[key.Path] = tree
	}
	files := through(t, `
let
  one = part: value: if part == "shared" then (files { shared = value; })."cluster.toml" else (files { hosts.h = value; })."h.toml";
in
{
`+all.String()+"}")
	for path, want := range wanted {
		text, err := fs.ReadFile(files, path)
		must(t, err)
		got, err := decode(string(text))
		if err != nil {
			t.Errorf("%s: %v\n%s", path, err, text)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s\n%s", path, diff, text)
		}
	}
	if len(wanted) < 200 {
		t.Errorf("%d keys only", len(wanted))
	}
}

// TestWrongSettings: a value of the wrong type, a word that is none and a key that
// is none are found when Nix evaluates, with the option's name.
func TestWrongSettings(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ settings, want string }{
		{`shared.kubernetes.pod_mtu = "1450"`, "shared.kubernetes.pod_mtu' is not of type"},
		{`shared.kubernetes.pod_mtu = 100`, "shared.kubernetes.pod_mtu' is not of type"},
		{`shared.pki.issuer = "nobody"`, "shared.pki.issuer' is not of type"},
		{`shared.kubernetes.pod_range = "10.0.0.0"`, "shared.kubernetes.pod_range' is not of type"},
		{`shared.kubernetes.pod_rnage = "10.0.0.0/8"`, "shared.kubernetes.pod_rnage' does not exist"},
		{`shared.host.address = "192.0.2.1"`, "shared.host' does not exist"},
		{`hosts.h.cluster.name = "c"`, "hosts.h.cluster' does not exist"},
		{`hosts.h.network.link.eth0.mtu = true`, "link.eth0.mtu' is not of type"},
	} {
		t.Run(tc.settings, func(t *testing.T) {
			_, stderr, err := nix(t, "eval", "--impure", "--json", "--expr", fmt.Sprintf(`
let
  lib = import %[1]s/nix/testing/nixpkgs/lib.nix;
  it = (lib.evalModules { modules = [
    { options.it = lib.mkOption { type = import %[1]s/nix/settings.nix { inherit lib; }; }; config.it.%[2]s; }
  ]; }).config.it;
in builtins.deepSeq it true`, bench.source, tc.settings))
			if err == nil || !strings.Contains(stderr, tc.want) {
				t.Errorf("%v, want %q in\n%s", err, tc.want, stderr)
			}
		})
	}
}
