package pki

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// The variables that turn TestKilledWithSeveralUnderWay into the process that
// it kills.
const (
	togetherRoot = "PKI_TEST_TOGETHER_ROOT"
	togetherAt   = "PKI_TEST_TOGETHER_AT"
)

func togetherWant() State {
	return Want(spec("n1", "192.0.2.1", hosts.RoleEtcd, hosts.RoleWorker))
}

// TestKilledWithSeveralUnderWay kills a renewal of six certificates at each of
// its steps, while as many as ever are issued at once have left the issuer
// together: after each kill one whole, matching pair of each is in use, and one
// apply completes.
func TestKilledWithSeveralUnderWay(t *testing.T) {
	if root := os.Getenv(togetherRoot); root != "" {
		renewTogether(t, layout.Root(root))
		return
	}
	t.Parallel()
	several, at := 0, 1
	for ; ; at++ {
		killed, under := killTogether(t, at)
		if !killed {
			break
		}
		if under > 1 {
			several++
		}
	}
	if at < 60 || several < at/3 {
		t.Errorf("killed at %d steps, at %d of them with several under way", at-1, several)
	}
	t.Logf("killed at each of %d steps, at %d of them with several certificates half made", at-1, several)
}

// together lets nobody have an answer before as many have asked as ever do.
type together struct {
	*Local
	mu      sync.Mutex
	waiting int
	go4     chan struct{} // closed when there are enough
	rest    int           // that have not asked yet
}

func (g *together) Sign(ctx context.Context, r Request, csr []byte) ([]byte, error) {
	g.mu.Lock()
	if g.waiting == 0 {
		g.go4 = make(chan struct{})
	}
	g.waiting, g.rest = g.waiting+1, g.rest-1
	opened := g.go4
	if g.waiting == atOnce || g.rest == 0 {
		close(opened)
		g.waiting = 0
	}
	g.mu.Unlock()
	select {
	case <-opened:
	case <-time.After(20 * time.Second):
		return nil, errors.New("nobody else asks")
	}
	return g.Local.Sign(ctx, r, csr)
}

// renewTogether is the process that is killed.
func renewTogether(t *testing.T, root layout.Root) {
	at, err := strconv.Atoi(os.Getenv(togetherAt))
	if err != nil {
		t.Fatal(err)
	}
	now := start.Add(70 * day)
	have, err := Observe(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	changes := Diff(have, togetherWant(), now)
	steps := 0
	a := &Applier{
		Root: root, Now: func() time.Time { return now },
		Issuer: func(context.Context) (Issuer, error) {
			return &together{Local: &Local{Root: root, Now: func() time.Time { return now }}, rest: len(changes)}, nil
		},
		step: func(string) {
			if steps++; steps == at {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
			// Who waits for a step for longer than a millisecond gets its turn
			// before whoever made the last one (sync.Mutex), so they go in step.
			time.Sleep(1500 * time.Microsecond)
		},
	}
	if err := a.Apply(t.Context(), changes, plan.Silent{}); err != nil {
		t.Fatal(err)
	}
}

// killTogether makes a host, kills its renewal at a step and repairs it. It
// tells whether the step was reached and how many certificates were then half
// made.
func killTogether(t *testing.T, at int) (killed bool, under int) {
	t.Helper()
	h := newHost(t, spec("n1", "192.0.2.1", hosts.RoleEtcd, hosts.RoleWorker))
	defer os.RemoveAll(string(h.root))
	h.converge()
	before := h.observe()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestKilledWithSeveralUnderWay$")
	cmd.Env = append(os.Environ(), togetherRoot+"="+string(h.root), togetherAt+"="+fmt.Sprint(at))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status := exit.Sys().(syscall.WaitStatus)
		killed = status.Signaled() && status.Signal() == syscall.SIGKILL
	}
	if err != nil && !killed {
		t.Fatalf("step %d: %v\n%s", at, err, out)
	}
	have := h.observe()
	usable(t, have, at)
	for _, c := range before.Certificates {
		f := have.Pair(c.Name)
		if f.Condition != Sound || f.SignedBy == "" {
			t.Fatalf("killed at step %d: certificate %s is not whole: %+v", at, c.Name, f)
		}
		if len(f.Leftovers) > 0 {
			under++
		}
		if !killed && f.Serial == c.Found.Serial {
			t.Fatalf("certificate %s was not renewed", c.Name)
		}
	}
	h.now = start.Add(70 * day)
	h.converge()
	return killed, under
}
