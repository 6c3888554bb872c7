package e2e

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Several clusters run at once, and all their processes are root's of the one
// machine: they share its inotify instances, of which a host of a cluster takes
// 25 and the kernel gives 128. Who gets none does not start, or does not notice
// a rotated certificate.
const (
	instancesPath   = "/proc/sys/fs/inotify/max_user_instances"
	instancesWanted = 1024
	// instancesBefore holds what the machine's value was while it is raised; who
	// uses it holds a shared lock of the file.
	instancesBefore = "/run/nodeagent-lab-inotify"
)

// oneAtATime is why the clusters cannot run at once; empty where they can.
var oneAtATime string

func TestMain(m *testing.M) {
	back, err := moreInstances()
	if err != nil {
		oneAtATime = fmt.Sprintf("the machine has too few inotify instances for clusters side by side, and no more can be had: %v", err)
		fmt.Fprintln(os.Stderr, oneAtATime)
	}
	code := m.Run()
	if err := back(); err != nil {
		fmt.Fprintf(os.Stderr, "put %s back: %v\n", instancesPath, err)
		code = 1
	}
	os.Exit(code)
}

// sideBySide lets the test, which has a lab of its own and waits more than it
// works, run beside others.
func sideBySide(t *testing.T) {
	t.Helper()
	if oneAtATime == "" {
		t.Parallel()
	}
}

// moreInstances raises the machine's limit where it is too low. The last test
// process to call back puts it back.
func moreInstances() (back func() error, err error) {
	back = func() error { return nil }
	have, err := readNumber(instancesPath)
	if err != nil || have >= instancesWanted && !exists(instancesBefore) {
		return back, err
	}
	file, err := os.OpenFile(instancesBefore, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return back, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_SH); err != nil {
		return back, errors.Join(err, file.Close())
	}
	if have < instancesWanted {
		err = errors.Join(os.WriteFile(instancesBefore, []byte(strconv.Itoa(have)), 0o600), writeNumber(instancesPath, instancesWanted))
		if err != nil {
			return back, errors.Join(err, os.Remove(instancesBefore), file.Close())
		}
	}
	return func() error {
		defer file.Close()
		if unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			return nil // another one is running, and will
		}
		before, err := readNumber(instancesBefore)
		if err != nil {
			return err
		}
		return errors.Join(writeNumber(instancesPath, before), os.Remove(instancesBefore))
	}, nil
}

func readNumber(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

func writeNumber(path string, n int) error {
	return os.WriteFile(path, []byte(strconv.Itoa(n)), 0o600)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
