package kube

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"sigs.k8s.io/yaml"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// programs is the folder with the real components, which test/servers builds.
func programs(t *testing.T) string {
	t.Helper()
	cache := os.Getenv("NODEAGENT_CACHE")
	if cache == "" {
		cache = filepath.Join("..", "..", ".cache")
	}
	folders, err := filepath.Glob(filepath.Join(cache, "programs", "*", layout.APIServer))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range folders {
		if !strings.Contains(file, ".building") {
			return filepath.Dir(file)
		}
	}
	unavailable(t, "the real components are not in "+cache+"; run: go run ./test/servers/build")
	return ""
}

// unavailable skips, and fails where nothing may be left out.
func unavailable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// TestFlagsExist asks each program whether it knows every flag that it is
// given.
func TestFlagsExist(t *testing.T) {
	dir := programs(t)
	for _, spec := range []*hosts.Spec{mesh(), single()} {
		spec.Kubernetes.ExtraArgs = nil
		for _, c := range components(spec, "") {
			out, err := exec.Command(filepath.Join(dir, c.name), "--help").CombinedOutput()
			if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			for _, f := range c.flags {
				known := regexp.MustCompile(`(?m)^\s+(-\w, )?-?-` + regexp.QuoteMeta(f.name) + `[\s=,]`)
				if !known.Match(out) {
					t.Errorf("%s has no flag --%s", c.name, f.name)
				}
			}
		}
	}
}

// TestContainerdReads has containerd itself read the configuration and print
// what it made of it.
func TestContainerdReads(t *testing.T) {
	dir := programs(t)
	for _, spec := range []*hosts.Spec{mesh(), single()} {
		path := filepath.Join(t.TempDir(), "config.toml")
		if err := os.WriteFile(path, fileOf(t, Render(spec, "", Facts{}), "config.toml").Content, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(filepath.Join(dir, layout.Containerd), "--config", path, "config", "dump")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("containerd config dump: %v\n%s", err, stderr.String())
		}
		if strings.Contains(stderr.String(), "Ignoring unknown key") {
			t.Errorf("containerd doesn't know a key:\n%s", stderr.String())
		}
		var config struct {
			Plugins map[string]map[string]any `toml:"plugins"`
		}
		if err := toml.Unmarshal(out, &config); err != nil {
			t.Fatal(err)
		}
		images, runtime := config.Plugins["io.containerd.cri.v1.images"], config.Plugins["io.containerd.cri.v1.runtime"]
		if got := images["pinned_images"].(map[string]any)["sandbox"]; got != spec.Kubernetes.PauseImage {
			t.Errorf("pause image is %v", got)
		}
		runc := runtime["containerd"].(map[string]any)["runtimes"].(map[string]any)["runc"].(map[string]any)
		if got := runc["options"].(map[string]any)["SystemdCgroup"]; got != true {
			t.Errorf("SystemdCgroup is %v", got)
		}
		if got := runc["runtime_type"]; got != "io.containerd.runc.v2" {
			t.Errorf("runtime is %v", got)
		}
		network := runtime["cni"].(map[string]any)
		if got := network["bin_dirs"].([]any); len(got) != 1 || got[0] != spec.Kubernetes.CNIBinaries {
			t.Errorf("CNI plugins are searched in %v", got)
		}
		if network["use_internal_loopback"] != true || network["conf_dir"] != cniFolder(spec, "") {
			t.Errorf("CNI settings are %v", network)
		}
		if spec.Kubernetes.CNI == "bridge" && runtime["restrict_oom_score_adj"] != true {
			t.Error("the fleet's own setting is lost")
		}
	}
}

// TestKubeProxyReads has kube-proxy decode the configuration, which it does
// strictly, and write down what it made of it.
func TestKubeProxyReads(t *testing.T) {
	dir := programs(t)
	for _, spec := range []*hosts.Spec{mesh(), single()} {
		temp := t.TempDir()
		in, out := filepath.Join(temp, "in.yaml"), filepath.Join(temp, "out.yaml")
		if err := os.WriteFile(in, fileOf(t, Render(spec, "", Facts{}), "kube-proxy/config.yaml").Content, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(filepath.Join(dir, layout.KubeProxy), "--config", in, "--write-config-to", out)
		if log, err := cmd.CombinedOutput(); err != nil || bytes.Contains(log, []byte("strict decoding")) {
			t.Fatalf("kube-proxy: %v\n%s", err, log)
		}
		content, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		var config map[string]any
		if err := yaml.Unmarshal(content, &config); err != nil {
			t.Fatal(err)
		}
		if config["mode"] != "nftables" || config["clusterCIDR"] != spec.Kubernetes.PodRange.String() {
			t.Errorf("kube-proxy reads mode %v, clusterCIDR %v", config["mode"], config["clusterCIDR"])
		}
	}
}

// TestSystemdReads has systemd check the units. The programs that they name
// stand in for the components: verify wants them to exist.
func TestSystemdReads(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		unavailable(t, "systemd-analyze is not installed")
	}
	dir := t.TempDir()
	binaries := filepath.Join(dir, "bin")
	if err := os.Mkdir(binaries, 0o755); err != nil {
		t.Fatal(err)
	}
	spec := single()
	spec.Kubernetes.Binaries = binaries
	spec.Kubernetes.ExtraArgs["etcd"] = map[string]string{"odd": `50% of $HOME "quoted"`}
	args := []string{"verify", "--man=no"}
	for _, unit := range Render(spec, "", Facts{}).Units {
		path := filepath.Join(dir, unit.Name)
		if err := os.WriteFile(path, []byte(unit.Content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/bin/true", unit.Binary); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	out, err := exec.Command(analyze, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("systemd-analyze verify: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, layout.UnitPrefix) {
			t.Errorf("systemd-analyze verify: %s", line)
		}
	}
}
