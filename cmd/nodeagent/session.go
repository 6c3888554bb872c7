package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
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
	for pid := os.Getppid(); pid > 1; pid = parentOf(pid) {
		environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			continue // another user's, or just gone
		}
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

// parentOf is a process's parent, 0 where it is not to be found out.
func parentOf(pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if text, found := strings.CutPrefix(line, "PPid:"); found {
			parent, err := strconv.Atoi(strings.TrimSpace(text))
			if err != nil {
				return 0
			}
			return parent
		}
	}
	return 0
}
