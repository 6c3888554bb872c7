package main

import (
	"fmt"
	"os"
	"strings"

	attempts "github.com/nodeagent/nodeagent/internal/confirm"
)

// sshVariable is how ssh(1) names a session's ends to what runs in it.
const sshVariable = "SSH_CONNECTION"

// sshSession is the SSH session that this process runs in, as SSH_CONNECTION has
// it, "" for none. sudo and su take the variable away, so that the processes
// that this one came from are asked too, as far as they may be.
func sshSession() string {
	if session := os.Getenv(sshVariable); session != "" {
		return session
	}
	var err error
	for pid := os.Getppid(); pid > 1 && err == nil; pid, err = attempts.Parent(pid) {
		// What cannot be read is another user's, or just gone.
		environment, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if session := variableOf(environment, sshVariable); session != "" {
			return session
		}
	}
	return ""
}

// variableOf reads proc_pid_environ(5): entries that end in a zero byte.
func variableOf(environment []byte, name string) string {
	for entry := range strings.SplitSeq(string(environment), "\x00") {
		if value, found := strings.CutPrefix(entry, name+"="); found {
			return value
		}
	}
	return ""
}
