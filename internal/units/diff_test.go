package units

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/internal/plan"
)

const etcdUnit = Header + `
[Unit]
Description=etcd
[Service]
Type=notify
ExecStart=/opt/bin/etcd --config-file /var/lib/nodeagent/components/etcd/etcd.yaml
[Install]
WantedBy=multi-user.target
`

const apiUnit = Header + `
[Unit]
Description=kube-apiserver
[Service]
ExecStart=/opt/bin/kube-apiserver --v=2
[Install]
WantedBy=multi-user.target
`

func wanted() State {
	return State{
		Files: []File{
			{Path: "/var/lib/nodeagent/components/etcd/etcd.yaml", Mode: 0o600, Content: []byte("name: mercury\nquota: 8\nlog: info\n")},
			{Path: "/var/lib/nodeagent/components/kube-apiserver/token", Mode: 0o600, Secret: true, Content: []byte("the-secret-of-the-cluster")},
		},
		Units: []Unit{
			{
				Name: "nodeagent-etcd.service", Content: etcdUnit, Enabled: true, Active: true, Inputs: "e1",
				Effect: plan.Quorum, Binary: "/opt/bin/etcd", Missing: `searched "/opt/bin" (mercury.toml:7)`,
				Ready: &Probe{URL: "https://127.0.0.1:2379/readyz", Timeout: time.Minute},
			},
			{
				Name: "nodeagent-kube-apiserver.service", Content: apiUnit, Enabled: true, Active: true, Inputs: "a1",
				Effect: plan.Restart, Needs: []string{"nodeagent-etcd.service"}, Binary: "/opt/bin/kube-apiserver",
				Missing: `searched "/opt/bin" (mercury.toml:7)`,
			},
		},
	}
}

// converged is what Observe sees once wanted has been applied.
func converged() State {
	s := wanted()
	for i := range s.Units {
		u := &s.Units[i]
		u.Written = u.Inputs
		u.Detail = Detail{ActiveState: "active", SubState: "running", Result: "success", MainPID: 100 + i}
		u.Ready, u.Needs, u.Binary, u.Missing = nil, nil, "", ""
	}
	s.Host.UnitFolder = "/etc/systemd/system"
	return s
}

var bare = State{Host: Host{UnitFolder: "/etc/systemd/system"}}

func TestDiffGolden(t *testing.T) {
	for name, tc := range map[string]func() (have, want State){
		"first apply": func() (State, State) { return bare, wanted() },
		"first apply without binaries": func() (State, State) {
			have := bare
			have.Host.MissingBinaries = []string{"/opt/bin/etcd"}
			return have, wanted()
		},
		"read-only etc": func() (State, State) {
			have := converged()
			have.Host.UnitFolder = "/run/systemd/system"
			for i := range have.Units {
				u := &have.Units[i]
				u.Copies = []string{"/etc/systemd/system/" + u.Name}
				u.Content, u.Written, u.Enabled = "", "", false
			}
			return have, wanted()
		},
		"configuration changed": func() (State, State) {
			want := wanted()
			want.Files[0].Content = []byte("name: mercury\nquota: 4\nlog: info\n")
			want.Files[1].Content = []byte("another-secret")
			want.Units[0].Inputs, want.Units[1].Inputs = "e2", "a2"
			return converged(), want
		},
		"unit file changed": func() (State, State) {
			want := wanted()
			want.Units[1].Content = strings.Replace(apiUnit, "--v=2", "--v=4", 1)
			want.Units[1].Inputs = "a2"
			return converged(), want
		},
		"CA changed": func() (State, State) { want := wanted(); want.Units[0].Inputs = "e2"; return converged(), want },
		"killed before restart": func() (State, State) {
			have, want := converged(), wanted()
			want.Units[0].Inputs, have.Units[0].Written, have.Units[0].Stale = "e2", "e2", true
			return have, want
		},
		"not running": func() (State, State) {
			have := converged()
			for i, d := range []Detail{
				{ActiveState: "failed", SubState: "failed", Result: "exit-code"},
				{ActiveState: "activating", SubState: "auto-restart", Result: "signal"},
			} {
				have.Units[i].Active, have.Units[i].Inputs, have.Units[i].Detail = false, "", d
			}
			return have, wanted()
		},
		"no longer wanted": func() (State, State) { return converged(), State{} },
		"stopped and disabled": func() (State, State) {
			want := wanted()
			for i := range want.Units {
				want.Units[i].Active, want.Units[i].Enabled = false, false
			}
			return converged(), want
		},
		"foreign units": func() (State, State) {
			have := bare
			have.Files = wanted().Files
			have.Host.Foreign = []Foreign{
				{Unit: "nodeagent-etcd.service", Path: "/etc/systemd/system/nodeagent-etcd.service"},
				{Unit: "nodeagent-kube-apiserver.service", Path: "/etc/systemd/system/nodeagent-kube-apiserver.service", Masked: true},
			}
			return have, wanted()
		},
		"modes and kinds": func() (State, State) {
			have := converged()
			have.Files[0].Mode = 0o644
			have.Files[1].Mode, have.Files[1].Content = os.ModeSymlink|0o777, nil
			return have, wanted()
		},
	} {
		t.Run(name, func(t *testing.T) {
			have, want := tc()
			got, err := json.MarshalIndent(Diff(have, want), "", "\t")
			if err != nil {
				t.Fatal(err)
			}
			golden.Check(t, filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".json"), string(got)+"\n")
			for _, secret := range []string{"the-secret-of-the-cluster", "another-secret"} {
				if strings.Contains(string(got), secret) {
					t.Errorf("the plan shows the secret %q", secret)
				}
			}
		})
	}
}

func TestDiffOfConvergedIsEmpty(t *testing.T) {
	if changes := Diff(converged(), wanted()); len(changes) > 0 {
		t.Errorf("changes: %q", names(changes))
	}
}

func TestDiffOrder(t *testing.T) {
	have := converged()
	have.Units = append(have.Units,
		Unit{Name: "nodeagent-containerd.service", Content: service},
		Unit{Name: "nodeagent-kubelet.service", Content: service},
		Unit{Name: "nodeagent-zzz.service", Content: service})
	want := wanted()
	want.Files[0].Content = []byte("new\n")
	want.Units[0].Inputs, want.Units[1].Inputs = "e2", "a2"
	have.Files = append(have.Files, File{Path: "/var/lib/nodeagent/components/kubelet/old"})
	var got []string
	for _, c := range Diff(have, want) {
		got = append(got, string(c.Action)+" "+filepath.Base(c.Key))
	}
	expected := []string{
		"delete unit nodeagent-kubelet.service", "delete unit nodeagent-containerd.service", "delete unit nodeagent-zzz.service",
		"update etcd.yaml",
		"update unit nodeagent-etcd.service", "update unit nodeagent-kube-apiserver.service",
		"restart unit nodeagent-etcd.service", "restart unit nodeagent-kube-apiserver.service",
		"delete old",
	}
	if !slices.Equal(got, expected) {
		t.Error(cmp.Diff(expected, got))
	}
}
