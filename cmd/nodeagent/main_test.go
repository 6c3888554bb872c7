package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes the test binary answer as nodeagent when a script calls it.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"nodeagent": main, "etcd": etcdServer})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"jsonkeys": jsonKeys,
			"exits":    exits,
		},
		Condition:           conditions,
		RequireExplicitExec: true,
	})
}

// conditions knows [namespaces]: whether a script can have a network and mounts
// of its own. In CI it must.
func conditions(name string) (bool, error) {
	if name != "namespaces" {
		return false, fmt.Errorf("unknown condition %q", name)
	}
	out, err := exec.Command("unshare", "-r", "-n", "-m", "ip", "link").CombinedOutput()
	if err != nil && os.Getenv("CI") == "true" {
		return false, fmt.Errorf("namespaces of a script's own: %w: %s", err, out)
	}
	return err == nil, nil
}

// jsonKeys KEY… checks that standard output is one JSON object that has every
// key; a dotted key names one within the first element of a list.
func jsonKeys(ts *testscript.TestScript, neg bool, args []string) {
	var object map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &object))
	for _, arg := range args {
		var at any = object
		for _, key := range strings.Split(arg, ".") {
			if list, ok := at.([]any); ok && len(list) > 0 {
				at = list[0]
			}
			fields, ok := at.(map[string]any)
			if !ok {
				ts.Fatalf("no object above key %q of %q", key, arg)
			}
			if at, ok = fields[key]; ok == neg {
				ts.Fatalf("key %q: present %v", arg, ok)
			}
		}
	}
}

// exits CODE COMMAND… runs nodeagent and checks its exit code exactly.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE ARG…")
	}
	script := `"$@" >"$WORK/stdout.txt" 2>"$WORK/stderr.txt"; echo "exit $?"`
	ts.Check(ts.Exec("sh", append([]string{"-c", script, "sh"}, args[1:]...)...))
	if got := strings.TrimSpace(ts.ReadFile("stdout")); got != "exit "+args[0] {
		ts.Fatalf("%v: %s, want exit %s\n%s", args[1:], got, args[0], ts.ReadFile("stderr.txt"))
	}
}
