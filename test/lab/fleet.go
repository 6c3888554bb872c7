package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/BurntSushi/toml"
)

// mercuryDifferences is all that the lab's mercury has different from the
// shipped fleet, and why. It is laid over the host's file.
const mercuryDifferences = `
# The server programs are the lab's own builds, bound into the host; Debian's
# package has the network plugins here.
[kubernetes]
binaries = "` + programsPath + `"
cni_binaries = "/usr/lib/cni"

# The test machine's control groups may be of version 1, which no server that
# is set up today has; the kubelet refuses them unless it is told otherwise, and
# its driver is then cgroupfs. A test machine may have swap. The root folder's
# device has no node in the host, so its space cannot be counted.
[kubernetes.config.kubelet]
failCgroupV1 = false
failSwapOn = false
cgroupDriver = "cgroupfs"
localStorageCapacityIsolation = false

# The test machine's root may lack CAP_SYS_RESOURCE, without which no process
# may lower an OOM score.
[kubernetes.config.containerd.plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true

# These sysctls belong to the machine, also where the host has a network
# namespace of its own: writing them is refused. Zero leaves them alone.
[kubernetes.config.kube-proxy.conntrack]
maxPerCore = 0
tcpEstablishedTimeout = "0s"
tcpCloseWaitTimeout = "0s"
`

// MercuryFleet reads the shipped fleet in the folder and returns its files
// with the lab's differences, by name.
func MercuryFleet(dir string) (map[string][]byte, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.toml"))
	if err == nil && len(names) == 0 {
		err = errors.New("no TOML file there")
	}
	if err != nil {
		return nil, fmt.Errorf("read shipped fleet %s: %w", dir, err)
	}
	files := map[string][]byte{}
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read shipped fleet: %w", err)
		}
		if filepath.Base(name) == "mercury.toml" {
			if content, err = overlay(string(content), mercuryDifferences); err != nil {
				return nil, fmt.Errorf("change shipped %s for the lab: %w", name, err)
			}
		}
		files[filepath.Base(name)] = content
	}
	if files["mercury.toml"] == nil {
		return nil, fmt.Errorf("read shipped fleet %s: it has no mercury.toml", dir)
	}
	return files, nil
}

// WithDifferences is a host's file with the lab's differences laid over it.
func WithDifferences(text string) (string, error) {
	content, err := overlay(text, mercuryDifferences)
	return string(content), err
}

// overlay lays one TOML document over another: tables merge, everything else
// is replaced.
func overlay(base, differences string) ([]byte, error) {
	var have, want map[string]any
	if _, err := toml.Decode(base, &have); err != nil {
		return nil, err
	}
	if _, err := toml.Decode(differences, &want); err != nil {
		return nil, err
	}
	merge(have, want)
	var out bytes.Buffer
	err := toml.NewEncoder(&out).Encode(have)
	return out.Bytes(), err
}

func merge(have, want map[string]any) {
	for key, value := range want {
		below, isTable := value.(map[string]any)
		if there, ok := have[key].(map[string]any); isTable && ok {
			merge(there, below)
			continue
		}
		have[key] = value
	}
}
