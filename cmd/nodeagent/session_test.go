package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// sudo takes the variable away from its command, not from the shell before it.
func TestSessionBehindSudo(t *testing.T) {
	const session = "203.0.113.9 50022 192.0.2.1 22"
	if os.Getenv("NODEAGENT_TEST_SESSION") != "" {
		os.Stdout.WriteString("session=" + sshSession() + "\n")
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The second command keeps the shell from replacing itself by the first.
	shell := exec.Command("sh", "-c", `env -u SSH_CONNECTION NODEAGENT_TEST_SESSION=1 "$0" -test.run TestSessionBehindSudo; :`, self)
	shell.Env = append(os.Environ(), sshVariable+"="+session)
	out, err := shell.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "session="+session+"\n") {
		t.Errorf("%v:\n%s", err, out)
	}
}
