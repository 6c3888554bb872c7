package pki

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// etcdValues stands for what lies in etcd: how many values each key has
// encrypted. What is written is encrypted with the key that lies on disk; the
// real thing is tried in internal/cluster.
type etcdValues struct {
	root   layout.Root
	values map[string]int
	stuck  bool // whatever is written stays as it was
}

func (e *etcdValues) Left(_ context.Context, key string) (int, error) {
	left := 0
	for name, n := range e.values {
		if name != key {
			left += n
		}
	}
	return left, nil
}

func (e *etcdValues) Rewrite(context.Context, string) error {
	content, err := os.ReadFile(e.root.EncryptionConfig())
	if err != nil || e.stuck {
		return err
	}
	keys, err := parseSecretbox(content)
	if err != nil {
		return err
	}
	all := 0
	for name, n := range e.values {
		if name != "" && !slices.ContainsFunc(keys, func(p part) bool { return p.name == name }) {
			return errors.New("a Secret cannot be read any more")
		}
		all += n
	}
	e.values = map[string]int{keys[0].name: all}
	return nil
}

// keyLead makes a coordinator of a host that follows at once, stops before the
// nth step (0: never), and whose clock goes on by itself.
func keyLead(h *host, etcd *etcdValues, stop int, step func(string)) (*KeyCoordinator, *[]KeyDo) {
	steps := &[]KeyDo{}
	return &KeyCoordinator{
		Keys: &LocalKeys{Root: h.root, step: step}, Store: LocalChanges{h.root}, Secrets: etcd, Poll: time.Microsecond,
		Uses: func(_ context.Context, name string) ([]Use, error) {
			if stop > 0 && len(*steps) >= stop {
				return nil, errStopped
			}
			r := NewReport(h.observe(), Want(h.spec), h.now)
			r.Proven = len(h.diff()) == 0
			return KeyUses([]*hosts.Spec{h.spec}, map[string]Report{h.spec.Name: r}, name, h.now), nil
		},
		Follow:  func(context.Context) error { return h.apply(h.diff()) },
		Tell:    func(step KeyDo, _ Change, _ []Use, _ int) { *steps = append(*steps, step) },
		Now:     func() time.Time { h.now = h.now.Add(time.Millisecond); return h.now },
		Overlap: 20 * time.Millisecond,
	}, steps
}

func keyHost(t *testing.T) (*host, *etcdValues) {
	h := newHost(t, mercury())
	h.converge()
	return h, &etcdValues{root: h.root, values: map[string]int{"key1": 5, "": 2}}
}

func keysOf(h *host, name string) []string { s := h.observe(); return s.key(name).IDs }

var keyRoads = map[string][]KeyDo{
	KeyServiceAccount: {KeyAdd, KeySwitch, KeyMark, KeyWait, KeyDrop, KeyDone},
	KeyEncryption:     {KeyAdd, KeySwitch, KeyCount, KeyRewrite, KeyCount, KeyDrop, KeyDone},
}

// TestKeyCoordinator changes both keys, in one go and interrupted before each
// step.
func TestKeyCoordinator(t *testing.T) {
	for name, road := range keyRoads {
		for stop := range len(road) {
			h, etcd := keyHost(t)
			old := keysOf(h, name)
			c, steps := keyLead(h, etcd, stop, nil)
			err := c.Run(t.Context(), name, false)
			if stop > 0 {
				if !errors.Is(err, errStopped) {
					t.Fatalf("%s stopped after step %d: %v", name, stop, err)
				}
				c, more := keyLead(h, etcd, 0, nil)
				err, steps = c.Run(t.Context(), name, false), more
			}
			if err != nil {
				t.Fatalf("%s stopped after step %d: %v", name, stop, err)
			}
			if got := slices.Compact(slices.Clone(*steps)); stop == 0 && !slices.Equal(got, road) {
				t.Errorf("the steps were %v, want %v", got, road)
			}
			changedKey(t, h, etcd, name, old)
		}
	}
}

// changedKey holds the end of a change against what it must leave.
func changedKey(t *testing.T, h *host, etcd *etcdValues, name string, old []string) {
	t.Helper()
	h.converge()
	if have := keysOf(h, name); len(have) != 1 || have[0] == old[0] {
		t.Fatalf("%s: in the end %v, before %v", name, have, old)
	}
	if left, err := (LocalChanges{h.root}).Load(t.Context(), keyChange(name)); left != nil || err != nil {
		t.Errorf("it is still remembered: %+v, %v", left, err)
	}
	retired, err := RetiredKeys(h.root)
	if err != nil {
		t.Fatal(err)
	}
	if name == KeyServiceAccount {
		folder, err := os.ReadDir(filepath.Dir(h.root.ServiceAccountKey()))
		if err != nil || len(folder) != 2 || len(retired) != 0 {
			t.Errorf("beside the pair there is %v, %v; retired %v", folder, err, retired)
		}
		return
	}
	if !slices.Equal(retired, old) {
		t.Errorf("retired are %v, want %v", retired, old)
	}
	content, err := os.ReadFile(h.root.EncryptionConfig())
	if err != nil {
		t.Fatal(err)
	}
	keys, err := parseSecretbox(content)
	if err != nil || len(keys) != 1 || etcd.values[keys[0].name] != 7 || keys[0].name == "key1" {
		t.Errorf("in etcd are %v, the keys are %v, %v", etcd.values, len(keys), err)
	}
}

// TestKeyCoordinatorBack turns changes back before each step.
func TestKeyCoordinatorBack(t *testing.T) {
	for name, road := range keyRoads {
		dropped := slices.Index(road, KeyDrop) + 1
		for stop := 1; stop <= dropped; stop++ {
			h, etcd := keyHost(t)
			old := keysOf(h, name)
			c, _ := keyLead(h, etcd, stop, nil)
			if err := c.Run(t.Context(), name, false); !errors.Is(err, errStopped) {
				t.Fatal(err)
			}
			c, steps := keyLead(h, etcd, 0, nil)
			err := c.Run(t.Context(), name, true)
			if now := keysOf(h, name); !slices.Contains(now, old[0]) {
				if err == nil || !strings.Contains(err.Error(), "dropped already") {
					t.Errorf("%s turned back after the drop: %v", name, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("%s turned back after step %d: %v", name, stop, err)
			}
			if have := keysOf(h, name); !slices.Equal(have, old) {
				t.Errorf("%s turned back after step %d: %v, want %v", name, stop, have, old)
			}
			// Tokens that the new key has signed keep it for as long.
			if signed := stop >= 2; name == KeyServiceAccount && signed != slices.Contains(*steps, KeyWait) {
				t.Errorf("turned back after step %d by %v", stop, *steps)
			}
			if name == KeyEncryption && etcd.values["key1"] != 7 {
				t.Errorf("turned back after step %d: in etcd are %v", stop, etcd.values)
			}
			h.converge()
		}
	}
}

func TestKeyCoordinatorRefuses(t *testing.T) {
	h, etcd := keyHost(t)
	c, _ := keyLead(h, etcd, 0, nil)
	if err := c.Run(t.Context(), KeyEncryption, true); err == nil {
		t.Error("turned back what was not begun")
	}
	etcd.stuck = true
	err := c.Run(t.Context(), KeyEncryption, false)
	if err == nil || !strings.Contains(err.Error(), "nothing was dropped") {
		t.Errorf("Secrets that stay as they were: %v", err)
	}
	if have := keysOf(h, KeyEncryption); len(have) != 2 {
		t.Errorf("after that the keys are %v", have)
	}

	h, etcd = keyHost(t)
	c, _ = keyLead(h, etcd, 0, nil)
	changed := strings.Replace(readString(t, h.root.EncryptionConfig()), "- secrets", "- secrets\n      - configmaps", 1)
	if err := os.WriteFile(h.root.EncryptionConfig(), []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	err = c.Run(t.Context(), KeyEncryption, false)
	if err == nil || !strings.Contains(err.Error(), "changed by a person") || readString(t, h.root.EncryptionConfig()) != changed {
		t.Errorf("a configuration of a person's: %v", err)
	}
	if secret := strings.Fields(strings.SplitN(changed, "secret:", 2)[1])[0]; strings.Contains(err.Error(), secret) {
		t.Error("the error has the key in it")
	}
}

// TestKeyChangeKilledAtEveryStep kills the process wherever a change of a key
// has written something. After each kill what is in use is whole, no key that
// something needs is lost, and the same change goes on to its end.
func TestKeyChangeKilledAtEveryStep(t *testing.T) {
	for name := range keyRoads {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := 1
			for ; ; at++ {
				h, _ := keyHost(t)
				old := keysOf(h, name)
				killed := runKeyToCrash(t, h.root, name, at)
				usable(t, h.observe(), at)
				if have := keysOf(h, name); !slices.Contains(have, old[0]) && len(have) != 1 {
					t.Fatalf("killed at step %d: the keys are %v, before %v", at, have, old)
				}
				if err := crashKey(h.root, name, h.now, nil); err != nil {
					t.Fatalf("killed at step %d: the change after it: %v", at, err)
				}
				now := keysOf(h, name)
				retired, err := RetiredKeys(h.root)
				if err != nil {
					t.Fatal(err)
				}
				if len(now) != 1 || now[0] == old[0] || name == KeyEncryption && !slices.Contains(retired, old[0]) {
					t.Fatalf("killed at step %d: in the end %v, retired %v, before %v", at, now, retired, old)
				}
				if !killed {
					break
				}
			}
			if at < 20 {
				t.Errorf("only %d steps were met", at)
			}
			t.Logf("killed at each of %d steps", at-1)
		})
	}
}

// crashKey changes a key of the host at the root; where its change was at its
// end when it was killed, that is cleared away and nothing more.
func crashKey(root layout.Root, name string, now time.Time, step func(string)) error {
	h := &host{t: panicking{}, root: root, spec: mercury(), now: now}
	content, err := os.ReadFile(root.EncryptionConfig())
	if err != nil {
		return err
	}
	keys, err := secretboxKeys(content)
	if err != nil {
		return err
	}
	etcd := &etcdValues{root: root, values: map[string]int{keys[len(keys)-1].name: 3}}
	if have, err := Observe(context.Background(), root); err != nil {
		return err
	} else if changes := Diff(have, Want(h.spec), now); len(changes) > 0 {
		if err := h.apply(changes); err != nil {
			return err
		}
	}
	change, err := (LocalChanges{root}).Load(context.Background(), keyChange(name))
	if err != nil || change == nil && step == nil && keys[0].name != "key1" {
		return err
	}
	c, _ := keyLead(h, etcd, 0, step)
	return c.Run(context.Background(), name, false)
}

// runKeyToCrash changes a key in a process of its own, which kills itself at
// the step.
func runKeyToCrash(t *testing.T, root layout.Root, name string, at int) bool {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), crashRoot+"="+string(root), crashNow+"="+strconv.FormatInt(start.Unix(), 10), crashAt+"="+strconv.Itoa(at), crashChange+"="+name)
	output, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true
	}
	if err != nil {
		t.Fatalf("change key: %v\n%s", err, output)
	}
	return false
}

// panicking is the testing.TB of a process that is no test.
type panicking struct{ testing.TB }

func (panicking) Helper()           {}
func (panicking) Fatal(args ...any) { panic(args) }

// TestRefreshKeys lets a host follow an issuer that shares its secrets.
func TestRefreshKeys(t *testing.T) {
	for _, name := range []string{KeyServiceAccount, KeyEncryption} {
		h := newHost(t, mercury())
		shared := &sharing{Local: Local{Root: h.root, Now: func() time.Time { return h.now }}, secrets: map[string][]byte{}}
		h.issuer = shared
		h.converge()
		a := &Applier{Root: h.root, Issuer: func(context.Context) (Issuer, error) { return shared, nil }, Now: func() time.Time { return h.now }}
		refresh := func(want ...string) {
			t.Helper()
			got, err := a.RefreshKeys(t.Context(), Want(h.spec))
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("refreshed %v, %v; want %v", got, err, want)
			}
		}
		refresh()
		old, before := keysOf(h, name), shared.secrets[name]
		parts, err := parseParts(name, before)
		if err != nil {
			t.Fatal(err)
		}
		fresh, err := freshPart(name)
		if err != nil {
			t.Fatal(err)
		}
		shared.secrets[name] = joinParts(name, append(slices.Clone(parts), fresh))
		refresh(name)
		refresh()
		if have := keysOf(h, name); !slices.Equal(have, []string{old[0], fresh.id}) {
			t.Errorf("after the new one was added the keys are %v", have)
		}
		if beside := filepath.Join(filepath.Dir(h.root.ServiceAccountKey()), besideFile); name == KeyServiceAccount {
			if _, err := os.Stat(beside); !os.IsNotExist(err) {
				t.Errorf("the private key that does not sign is on the host: %v", err)
			}
		}
		shared.secrets[name] = joinParts(name, []part{fresh, parts[0]})
		refresh(name)
		shared.secrets[name] = joinParts(name, []part{fresh})
		refresh(name)
		if have := keysOf(h, name); !slices.Equal(have, []string{fresh.id}) {
			t.Errorf("in the end the keys are %v", have)
		}
		if left := h.diff(); len(left) > 0 {
			t.Errorf("to be done is\n%s", printed(left))
		}
		// One that this host has never heard of is not taken, and what is no key
		// at all neither.
		for _, content := range [][]byte{before, []byte("nothing"), nil} {
			shared.secrets[name] = content
			if got, err := a.RefreshKeys(t.Context(), Want(h.spec)); err == nil || len(got) > 0 {
				t.Errorf("refreshed %v from something else: %v", got, err)
			}
		}
		if have := keysOf(h, name); !slices.Equal(have, []string{fresh.id}) {
			t.Errorf("after that the keys are %v", have)
		}
	}
	// With the local issuer there is nobody to ask.
	h := newHost(t, mercury())
	h.converge()
	a := &Applier{Root: h.root, Issuer: func(context.Context) (Issuer, error) { return &Local{Root: h.root}, nil }}
	if got, err := a.RefreshKeys(t.Context(), Want(h.spec)); err != nil || len(got) > 0 {
		t.Errorf("the local issuer refreshed %v, %v", got, err)
	}
}

// sharing is the local issuer with secrets that others may change.
type sharing struct {
	Local
	mu      sync.Mutex
	secrets map[string][]byte
}

func (s *sharing) Secret(_ context.Context, name string, fresh func() ([]byte, error)) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if content, there := s.secrets[name]; there {
		return content, nil
	}
	content, err := fresh()
	if err == nil {
		s.secrets[name] = content
	}
	return content, err
}

// A sound host that was changed in the middle gets its public keys back whole.
func TestPublicKeysComeBackDuringAChange(t *testing.T) {
	h, etcd := keyHost(t)
	c, _ := keyLead(h, etcd, 2, nil)
	if err := c.Run(t.Context(), KeyServiceAccount, false); !errors.Is(err, errStopped) {
		t.Fatal(err)
	}
	before := keysOf(h, KeyServiceAccount)
	if err := os.Remove(h.root.ServiceAccountPublic()); err != nil {
		t.Fatal(err)
	}
	h.converge()
	if after := keysOf(h, KeyServiceAccount); len(before) != 2 || !slices.Equal(before, after) {
		t.Errorf("keys %v, before %v", after, before)
	}
}
