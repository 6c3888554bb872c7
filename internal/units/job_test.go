package units

import (
	"testing"

	godbus "github.com/godbus/dbus/v5"
)

func TestFailureText(t *testing.T) {
	for _, tc := range []struct {
		properties map[string]any
		want       string
	}{
		{map[string]any{
			"ActiveState": "failed", "SubState": "failed", "LoadState": "loaded", "Result": "exit-code",
			"ExecMainCode": int32(1), "ExecMainStatus": int32(2), "NRestarts": uint32(5), "StatusText": "waiting for peers",
		}, `it is failed (failed), result exit-code, its process exited with 2, restarted 5 times, last status "waiting for peers"`},
		{map[string]any{
			"ActiveState": "failed", "SubState": "failed", "LoadState": "loaded", "Result": "signal", "ExecMainCode": int32(2), "ExecMainStatus": int32(9),
		}, "it is failed (failed), result signal, its process was killed by SIGKILL"},
		{map[string]any{
			"ActiveState": "failed", "SubState": "failed", "LoadState": "loaded", "Result": "core-dump", "ExecMainCode": int32(3), "ExecMainStatus": int32(6),
		}, "it is failed (failed), result core-dump, its process was killed by SIGABRT and dumped core"},
		{map[string]any{
			"ActiveState": "inactive", "SubState": "dead", "LoadState": "bad-setting", "LoadError": []any{"org.x", "no ExecStart="},
		}, "it is inactive (dead), unit file bad-setting: no ExecStart="},
		// A property of another type than expected is left out, not a panic.
		{map[string]any{
			"ActiveState": "active", "SubState": "running", "LoadState": "loaded", "Result": 7, "ExecMainCode": "1", "LoadError": "x",
		}, "it is active (running)"},
	} {
		if got := failureText(tc.properties); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}

func TestClassify(t *testing.T) {
	const etcd = godbus.ObjectPath("/org/freedesktop/systemd1/unit/nodeagent_2detcd_2eservice")
	const agent = godbus.ObjectPath("/org/freedesktop/systemd1/unit/nodeagent_2eservice")
	const properties, manager = "org.freedesktop.DBus.Properties.PropertiesChanged", "org.freedesktop.systemd1.Manager."
	for _, tc := range []struct {
		name   string
		signal godbus.Signal
		want   event
	}{
		{"ours changed", godbus.Signal{Name: properties, Path: etcd, Body: []any{unitIface}}, unitChanged},
		{"ours, of another interface", godbus.Signal{Name: properties, Path: etcd, Body: []any{"org.freedesktop.systemd1.Service"}}, unrelated},
		{"the agent itself", godbus.Signal{Name: properties, Path: agent, Body: []any{unitIface}}, unrelated},
		{"ours appeared", godbus.Signal{Name: manager + "UnitNew", Path: systemdPath, Body: []any{"nodeagent-etcd.service", etcd}}, unitAppeared},
		{"ours went", godbus.Signal{Name: manager + "UnitRemoved", Path: systemdPath, Body: []any{"nodeagent-etcd.service", etcd}}, unitChanged},
		{"another appeared", godbus.Signal{Name: manager + "UnitNew", Path: systemdPath, Body: []any{"nodeagent.service", agent}}, unrelated},
		{"systemd went", godbus.Signal{Name: busIface + ".NameOwnerChanged", Body: []any{systemdName, ":1.2", ""}}, unrelated},
		{"systemd returned", godbus.Signal{Name: busIface + ".NameOwnerChanged", Body: []any{systemdName, "", ":1.9"}}, systemdReturned},
		{"empty bodies", godbus.Signal{Name: properties, Path: etcd}, unrelated},
		{"short body", godbus.Signal{Name: manager + "UnitNew", Body: []any{"x"}}, unrelated},
		{"wrong types", godbus.Signal{Name: manager + "UnitNew", Body: []any{1, 2}}, unrelated},
	} {
		if got, _ := classify(&tc.signal); got != tc.want {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}
