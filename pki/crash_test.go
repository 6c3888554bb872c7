package pki

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// The variables that turn the test binary into a run of Apply that kills
// itself at its nth step.
const (
	crashRoot   = "PKI_TEST_CRASH_ROOT"
	crashNow    = "PKI_TEST_CRASH_NOW"
	crashAt     = "PKI_TEST_CRASH_AT"
	crashBack   = "PKI_TEST_CRASH_BACK"    // the certificate to put back, instead of an apply
	crashChange = "PKI_TEST_CRASH_CHANGE"  // the key to change, instead of an apply
	crashForget = "PKI_TEST_CRASH_FORGET"  // to forget the local issuer, instead of an apply
	crashKeys   = "PKI_TEST_CRASH_CA_KEYS" // how the CAs' keys are to lie on disk
)

func TestMain(m *testing.M) {
	if root := os.Getenv(crashRoot); root != "" {
		if err := crash(layout.Root(root)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// crashSpec is small, and has each kind of thing that Apply makes.
func crashSpec() *hosts.Spec {
	return spec("n1", "192.0.2.1", hosts.RoleWorker)
}

// crashWant is the worker's state with the keys of a control plane.
func crashWant() State {
	s := crashSpec()
	if how := os.Getenv(crashKeys); how != "" {
		s.PKI.Local = &hosts.LocalIssuer{CAKeys: how}
	}
	w := Want(s)
	w.Keys = []Key{{Name: KeyEncryption}, {Name: KeyServiceAccount}}
	return w
}

// crash applies and, at the step whose number it is given, kills the process:
// no deferred function runs, as when the power goes.
func crash(root layout.Root) error {
	seconds, err := strconv.ParseInt(os.Getenv(crashNow), 10, 64)
	if err != nil {
		return err
	}
	at, err := strconv.Atoi(os.Getenv(crashAt))
	if err != nil {
		return err
	}
	steps := 0
	step := func(string) {
		if steps++; steps == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	now := time.Unix(seconds, 0)
	if name := os.Getenv(crashBack); name != "" {
		return crashPutBack(root, name, now, step)
	}
	if name := os.Getenv(crashChange); name != "" {
		return crashKey(root, name, now, step)
	}
	if os.Getenv(crashForget) != "" {
		return forgetLocal(root, step)
	}
	return crashApply(root, now, step)
}

func crashPutBack(root layout.Root, name string, now time.Time, step func(string)) error {
	want := crashWant()
	a := &Applier{Root: root, Now: func() time.Time { return now }, step: step}
	return a.PutBack(context.Background(), want.certificate(name).Request, "it was refused")
}

func crashApply(root layout.Root, now time.Time, step func(string)) error {
	have, err := Observe(context.Background(), root)
	if err != nil {
		return err
	}
	clock := func() time.Time { return now }
	keys := testKeyring(root)
	a := &Applier{
		Root: root, Keys: keys, Now: clock, step: step,
		Issuer: func(context.Context) (Issuer, error) { return &Local{Root: root, Keys: keys, Now: clock}, nil },
	}
	return a.Apply(context.Background(), Diff(have, crashWant(), now), plan.Silent{})
}

// runToCrash runs Apply in a process of its own and tells whether it came to
// the step at which it kills itself.
func runToCrash(t *testing.T, root layout.Root, now time.Time, at int) bool {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), crashRoot+"="+string(root), crashNow+"="+strconv.FormatInt(now.Unix(), 10), crashAt+"="+strconv.Itoa(at))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status := exit.Sys().(syscall.WaitStatus); status.Signaled() && status.Signal() == syscall.SIGKILL {
			return true
		}
	}
	if err != nil {
		t.Fatalf("apply: %v\n%s", err, stderr.String())
	}
	return false
}

// usable fails where a link is in use that leads to half a generation: the
// promise that holds at every single moment.
func usable(t *testing.T, have State, at int) {
	t.Helper()
	for _, c := range have.Certificates {
		if c.Found.Condition == Damaged || (c.Found.Condition == Sound && c.Found.Bundle == "") {
			t.Fatalf("killed at step %d: certificate %s: %s", at, c.Name, c.Found.Problem)
		}
	}
	for _, k := range have.Keys {
		if k.Condition == Damaged || k.Condition == Incomplete {
			t.Fatalf("killed at step %d: key %s: %s", at, k.Name, k.Problem)
		}
	}
	for _, a := range have.Authorities {
		if a.Condition == Damaged {
			t.Fatalf("killed at step %d: authority %s: %s", at, a.Name, a.Problem)
		}
	}
}

// TestKilledAtEveryStep kills a first apply and a renewal at each of their
// steps. After each kill nothing in use is half made, no authority's or
// encryption key that was there is another one, and one apply completes.
func TestKilledAtEveryStep(t *testing.T) {
	for _, tc := range []struct {
		name string
		made time.Time // when the host was made; zero for not at all
	}{
		{"first apply", time.Time{}},
		{"renewal", start.Add(-70 * day)},
		{"renewal of authorities", start.Add(-3600 * day)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			at := 1
			for killOnce(t, tc.made, at) {
				at++
			}
			if at < 40 {
				t.Errorf("only %d steps were met", at)
			}
			t.Logf("killed at each of %d steps", at-1)
		})
	}
}

// killOnce makes a host, kills an apply at one step and repairs it. It tells
// whether the step was reached.
func killOnce(t *testing.T, made time.Time, at int) bool {
	root := layout.Root(folder(t))
	defer os.RemoveAll(string(root))
	if !made.IsZero() {
		if err := crashApply(root, made, nil); err != nil {
			t.Fatal(err)
		}
	}
	killed := runToCrash(t, root, start, at)
	seen, err := Observe(context.Background(), root)
	if err != nil {
		t.Fatal(err)
	}
	usable(t, seen, at)
	if err := crashApply(root, start, nil); err != nil {
		t.Fatalf("killed at step %d: apply after it: %v", at, err)
	}
	got, err := Observe(context.Background(), root)
	if err != nil {
		t.Fatal(err)
	}
	if left := Diff(got, crashWant(), start); len(left) > 0 {
		t.Fatalf("killed at step %d: one apply later there is left\n%s", at, printed(left))
	}
	sameSecrets(t, seen, got, at)
	return killed
}

// sameSecrets fails where a secret that was in place at the kill was replaced.
func sameSecrets(t *testing.T, seen, got State, at int) {
	t.Helper()
	for _, a := range seen.Authorities {
		if a.KeyID != "" && got.authority(a.Name).KeyID != a.KeyID {
			t.Fatalf("killed at step %d: authority %s has another key", at, a.Name)
		}
	}
	for _, k := range seen.Keys {
		if k.Condition == Sound && got.key(k.Name).Fingerprint != k.Fingerprint {
			t.Fatalf("killed at step %d: key %s is another one", at, k.Name)
		}
	}
}
