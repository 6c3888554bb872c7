package testing

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestEvaluates evaluates every output of the flake for both systems, whole
// machines and the virtual machine's test included, as `nix flake check` does
// before it builds.
func TestEvaluates(t *testing.T) {
	t.Parallel()
	for attribute, paths := range map[string]string{
		"packages":            "builtins.mapAttrs (_: builtins.mapAttrs (_: d: d.drvPath))",
		"checks":              "builtins.mapAttrs (_: builtins.mapAttrs (_: d: d.drvPath))",
		"devShells":           "builtins.mapAttrs (_: builtins.mapAttrs (_: d: d.drvPath))",
		"apps":                "builtins.mapAttrs (_: builtins.mapAttrs (_: a: a.program))",
		"formatter":           "builtins.mapAttrs (_: d: d.drvPath)",
		"nixosConfigurations": "builtins.mapAttrs (_: c: c.config.system.build.toplevel.drvPath)",
	} {
		_, stderr, err := nix(t, flake("eval", "--json", "path:"+bench.source+"#"+attribute, "--apply", paths)...)
		if err != nil {
			t.Errorf("%s: %v\n%s", attribute, err, stderr)
		}
	}
}

// TestOutputs: the flake has what README.md and docs/nixos.md name.
func TestOutputs(t *testing.T) {
	t.Parallel()
	var got map[string]any
	eval(t, `
let
  nixpkgs = { inherit lib; legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] pkgsFor; };
  outputs = (import (source + "/flake.nix")).outputs { inherit nixpkgs; self = outputs; };
in
builtins.mapAttrs (name: v:
  if builtins.elem name [ "packages" "checks" "apps" "devShells" ] then builtins.mapAttrs (_: builtins.attrNames) v else builtins.attrNames v
) outputs`, &got)
	both := func(names ...any) any { return map[string]any{"x86_64-linux": names, "aarch64-linux": names} }
	want := map[string]any{
		"packages": both("default", "host-bastion", "host-fsn1", "host-hel1", "host-mercury", "host-nbg1",
			"host-sassaflash", "host-soarin", "host-stormfeather", "nodeagent"),
		"checks":              both("fleet-hetzner-ha", "fleet-k8s-235", "fleet-mercury", "lint", "options", "package", "vm"),
		"apps":                both("default"),
		"devShells":           both("default"),
		"formatter":           []any{"aarch64-linux", "x86_64-linux"},
		"overlays":            []any{"default"},
		"nixosModules":        []any{"default", "nodeagent"},
		"nixosConfigurations": []any{"example-mercury", "example-soarin"},
		"lib":                 []any{"mkNodeagent", "mkRescue"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// run runs a program with nothing but what is given in its environment.
func run(t *testing.T, program string, env []string, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errors strings.Builder
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.Dir = env, &out, &errors, t.TempDir()
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %v: %v\n%s", program, args, err, errors.String())
	}
	return out.String(), errors.String()
}

// TestHost: `nix build .#host-soarin` gives a nodeagent that knows its fleet by
// its store path, which the files alone decide.
func TestHost(t *testing.T) {
	t.Parallel()
	soarin, other := build(t, "host-soarin"), build(t, "host-stormfeather")
	var said struct{ Fleets []struct{ Fleet string } }
	stdout, _ := run(t, filepath.Join(soarin, "bin/nodeagent"), nil, "validate", "-o", "json")
	must(t, json.Unmarshal([]byte(stdout), &said))
	fleet := said.Fleets[0].Fleet
	if !strings.Contains(fleet, "/store/") || !strings.HasSuffix(fleet, "-fleet") {
		t.Fatalf("the fleet is %s, and no store path", fleet)
	}
	entries, err := os.ReadDir(fleet)
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, []string{"cluster.toml", "sassaflash.toml", "soarin.toml", "stormfeather.toml"}) {
		t.Errorf("the fleet has %v", names)
	}
	one, err := os.ReadFile(filepath.Join(soarin, "bin/nodeagent"))
	must(t, err)
	two, err := os.ReadFile(filepath.Join(other, "bin/nodeagent"))
	must(t, err)
	if strings.ReplaceAll(string(one), "soarin", "stormfeather") != string(two) {
		t.Errorf("two hosts differ in more than their name:\n%s\n%s", one, two)
	}
	if _, err := os.Stat(filepath.Join(soarin, "share/man/man1/nodeagent.1")); err != nil {
		t.Errorf("a host's nodeagent has no manual page: %v", err)
	}
	// A flag and the environment still say what is meant.
	stdout, _ = run(t, filepath.Join(soarin, "bin/nodeagent"), nil, "validate", "--fleet", filepath.Join(bench.source, "hosts/fleets/mercury"))
	if !strings.Contains(stdout, "mercury: valid") {
		t.Errorf("--fleet: %s", stdout)
	}
}

// TestConsumers builds what somebody's own flake has: fleets that are valid, and
// fleets that fail the build with the validator's lines.
func TestConsumers(t *testing.T) {
	t.Parallel()
	needNix(t)
	dir := t.TempDir()
	write := func(name, text string) {
		file := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		must(t, os.WriteFile(file, []byte(text), 0o644))
	}
	must(t, os.CopyFS(filepath.Join(dir, "good"), os.DirFS(filepath.Join(bench.source, "hosts/fleets/mercury"))))
	must(t, os.CopyFS(filepath.Join(dir, "broken"), os.DirFS("../../hosts/fleets/mercury")))
	write("good/README.md", "not the fleet's\n")
	cluster, err := os.ReadFile("../../hosts/fleets/mercury/cluster.toml")
	must(t, err)
	write("broken/cluster.toml", strings.Replace(string(cluster), "pod_range", "pod_rnage", 1))
	write("secret/mercury.toml", "[host]\nroles = []\naddress = \"192.0.2.1\"\n")
	write("secret/cluster.toml", "[cluster]\nname = \"c\"\n[pki]\nissuer = \"local\"\ntoken = \"hvs.CAESIJ0123456789\"\n")
	write("flake.nix", `{
	  inputs.nixpkgs.url = "path:`+bench.source+`/nix/testing/nixpkgs";
	  inputs.nodeagent.url = "path:`+bench.source+`";
	  inputs.nodeagent.inputs.nixpkgs.follows = "nixpkgs";
	  outputs = { self, nixpkgs, nodeagent }:
	    let
	      pkgs = nixpkgs.legacyPackages.x86_64-linux;
	      of = fleet: host: nodeagent.lib.mkNodeagent { inherit pkgs fleet host; };
	    in {
	      packages.x86_64-linux = {
	        good = of ./good "mercury";
	        broken = of ./broken "mercury";
	        secret = of ./secret "mercury";
	        nobody = of ./good "nobody";
	        overlaid = (nodeagent.overlays.default pkgs pkgs).nodeagent;
	      };
	    };
	}`)
	for _, tc := range []struct {
		name string
		want []string // what the build says; nothing for one that succeeds
	}{
		{"good", nil},
		{"overlaid", nil},
		{"broken", []string{`cluster.toml:11: kubernetes.pod_rnage: unknown key (did you mean "pod_range"?)`, "is not valid"}},
		{"secret", []string{"cluster.toml:5: pki.token: "}},
		{"nobody", []string{"has no nobody.toml"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			link := filepath.Join(t.TempDir(), "result")
			_, stderr, err := nix(t, "build", "--impure", "-L", "-o", link, "path:"+dir+"#"+tc.name)
			if (err == nil) != (tc.want == nil) {
				t.Fatalf("%v\n%s", err, stderr)
			}
			for _, want := range tc.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("no %q in\n%s", want, stderr)
				}
			}
			if strings.Contains(stderr, "hvs.CAESI") {
				t.Error("the build repeats the secret")
			}
		})
	}
}
