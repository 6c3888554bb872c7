package pki

import (
	"os"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// TestCAKeysKilledAtEveryStep kills each way from one protection to another at
// each of its steps. After each kill every authority can still sign, with the
// same key, and one apply completes.
func TestCAKeysKilledAtEveryStep(t *testing.T) {
	for _, tc := range []struct {
		from, to string
		least    int
	}{
		{ProtectPlain, ProtectCredential, 6},
		{ProtectCredential, ProtectPlain, 5},
		{ProtectPassphrase, ProtectCredential, 2},
		{"", ProtectCredential, 40},
	} {
		t.Run(tc.from+" to "+tc.to, func(t *testing.T) {
			at := 1
			for killProtect(t, tc.from, tc.to, at) {
				at++
			}
			if at <= tc.least {
				t.Errorf("only %d steps were met", at-1)
			}
			t.Logf("killed at each of %d steps", at-1)
		})
	}
}

func killProtect(t *testing.T, from, to string, at int) bool {
	root := layout.Root(folder(t))
	defer os.RemoveAll(string(root))
	if from != "" {
		t.Setenv(crashKeys, from)
		if err := crashApply(root, start, nil); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv(crashKeys, to)
	killed := runToCrash(t, root, start, at)
	seen, err := Observe(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	usable(t, seen, at)
	l := &Local{Root: root, Keys: testKeyring(root), Now: func() time.Time { return start }}
	for _, w := range crashWant().Certificates {
		if a := seen.authority(w.CA); a == nil || a.Condition != Sound {
			continue // from nothing: not made yet
		}
		if err := Try(t.Context(), l, w.Request, start); err != nil {
			t.Fatalf("killed at step %d: %v", at, err)
		}
	}
	if err := crashApply(root, start, nil); err != nil {
		t.Fatalf("killed at step %d: apply after it: %v", at, err)
	}
	got, err := Observe(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	if left := Diff(got, crashWant(), start); len(left) > 0 {
		t.Fatalf("killed at step %d: one apply later there is left\n%s", at, printed(left))
	}
	sameSecrets(t, seen, got, at)
	if h := (&host{t: t, root: root}); to != ProtectPlain && len(h.inClear()) > 0 {
		t.Fatalf("killed at step %d: in clear: %v", at, h.inClear())
	}
	return killed
}
