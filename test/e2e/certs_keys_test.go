package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nodeagent/nodeagent/test/lab"
)

// keysChange changes both shared secrets, while tokens are made and used and
// Secrets are read at every API server.
func keysChange(t *testing.T, c *trio) {
	l := &keyLoad{trio: c}
	for n := range secretCount {
		c.must(t, "create", "secret", "generic", secretName(n), "--from-literal=value="+secretValue(n))
	}
	sealed := c.sealing(t)
	servers := c.hosts[:2]
	// Tokens of the key that goes, of each API server.
	for _, h := range servers {
		token, err := l.mint(c.ctx, h)
		if err != nil {
			t.Fatal(err)
		}
		l.old = append(l.old, token)
	}
	ctx, stop := context.WithCancel(c.ctx)
	defer stop()
	var loads sync.WaitGroup
	for _, h := range servers {
		loads.Go(func() { l.useTokens(ctx, h) })
		loads.Go(func() { l.readSecrets(ctx, h) })
	}

	var changes errgroup.Group
	var tokens, secrets keyChanged
	changes.Go(func() (err error) {
		tokens, err = c.changeKey(c.vault, "service-account", "--overlap", keyOverlap.String())
		return err
	})
	changes.Go(func() (err error) {
		secrets, err = c.changeKey(c.hosts[0], "encryption")
		return err
	})
	// Hosts ask Vault every two minutes while nothing happens; who is in a hurry
	// says so.
	changes.Go(func() error { return c.hurry(servers) })
	if err := changes.Wait(); err != nil {
		t.Error(err)
	}
	// Whatever was asked last was asked after the last step.
	round := l.round(servers)
	c.until(time.Minute, "another round of requests", func() error {
		for i, n := range l.round(servers) {
			if n < round[i]+2 {
				return errors.New("one has not come round yet")
			}
		}
		return nil
	})
	stop()
	loads.Wait()
	t.Logf("service-account: %s", tokens)
	t.Logf("encryption: %s", secrets)
	l.report(t, tokens.at("drop"))

	for _, h := range servers {
		for i, token := range l.old {
			if status, err := l.use(c.ctx, h, token); err != nil || status != http.StatusUnauthorized {
				t.Errorf("%s answers token %d of the dropped key %d, %v", h.Name(), i, status, err)
			}
		}
	}
	now := c.sealing(t)
	for name, before := range sealed {
		if now[name] == before {
			t.Errorf("secret %s is encrypted with %s still", name, before)
		}
	}
	for _, h := range servers {
		if _, err := c.nodeagent(c.ctx, h, "plan", "--exit-code"); err != nil {
			t.Error(err)
		}
	}
}

// hurry has agents look at Vault until they have a second key.
func (c *trio) hurry(servers []*lab.Mercury) error {
	return within(c.ctx, 2*time.Minute, "hosts to accept a second key", func() error {
		for _, h := range servers {
			content, err := readSwitched(filepath.Join(h.Root(), "var/lib/nodeagent/pki/keys/service-account/current/sa.pub"))
			if err != nil {
				return err
			}
			if n := strings.Count(string(content), "BEGIN"); n < 2 {
				_, err := h.Exec(c.ctx, "systemctl", "reload", "nodeagent.service")
				return errors.Join(err, fmt.Errorf("%s has %d", h.Name(), n))
			}
		}
		return nil
	})
}

const (
	secretCount = 5
	keyOverlap  = 5 * time.Second
	// keyPace leaves the processors to the cluster.
	keyPace = 500 * time.Millisecond
)

func secretName(n int) string  { return fmt.Sprintf("kept-%d", n) }
func secretValue(n int) string { return fmt.Sprintf("value-%d", n) }

// must runs kubectl on the first host.
func (c *trio) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.hosts[0].Kubectl(c.ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// sealing is with which key each of the Secrets is encrypted in etcd.
func (c *trio) sealing(t *testing.T) map[string]string {
	t.Helper()
	keys := map[string]string{}
	for n := range secretCount {
		out, err := c.etcdctl(c.hosts[0], "get", "--print-value-only", "/registry/secrets/default/"+secretName(n))
		parts := strings.SplitN(out, ":", 6)
		if err != nil || len(parts) < 6 || strings.Join(parts[:4], ":") != "k8s:enc:secretbox:v1" {
			t.Fatalf("secret %s in etcd is %.40q (%v)", secretName(n), out, err)
		}
		if strings.Contains(out, secretValue(n)) {
			t.Errorf("secret %s is readable in etcd", secretName(n))
		}
		keys[secretName(n)] = parts[4]
	}
	return keys
}

// keyChanged is what rotate-key tells.
type keyChanged struct {
	Done  bool
	Steps []struct{ Step, After string }
	began time.Time
}

func (k keyChanged) String() string {
	var list []string
	for _, s := range k.Steps {
		list = append(list, s.Step+" "+s.After)
	}
	return strings.Join(list, ", ")
}

// at is a moment that is not later than the first time of a step.
func (k keyChanged) at(step string) time.Time {
	for _, s := range k.Steps {
		if after, err := time.ParseDuration(s.After); s.Step == step && err == nil {
			return k.began.Add(after)
		}
	}
	return time.Now()
}

// changeKey changes a key with the administrator's token.
func (c *trio) changeKey(h *lab.Mercury, name string, flags ...string) (k keyChanged, err error) {
	k.began = time.Now()
	out, err := h.Exec(c.ctx, append([]string{"env", "VAULT_TOKEN=" + c.token, "nodeagent", "certs", "rotate-key", name, "-o", "json"}, flags...)...)
	if err == nil {
		err = json.Unmarshal([]byte(out), &k)
	}
	if err == nil && !k.Done {
		err = errors.New("it says that it is not done")
	}
	if err != nil {
		err = fmt.Errorf("change key %s: %w\n%s", name, err, out)
	}
	return k, err
}

// keyLoad is what is asked of API servers while keys change. A connection that
// breaks while a server is restarted is made again; all else is a failure.
type keyLoad struct {
	*trio
	old []string // tokens of the key that goes

	mu       sync.Mutex
	rounds   map[string]int
	requests int
	failures []keyFailure
}

type keyFailure struct {
	at   time.Time
	old  bool // it was about a token of the key that goes
	what string
}

func (l *keyLoad) fail(old bool, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = append(l.failures, keyFailure{time.Now(), old, fmt.Sprintf(format, args...)})
}

func (l *keyLoad) came(what string, h *lab.Mercury) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rounds == nil {
		l.rounds = map[string]int{}
	}
	l.rounds[what+h.Name()]++
}

func (l *keyLoad) round(servers []*lab.Mercury) (list []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range servers {
		list = append(list, l.rounds["tokens"+h.Name()], l.rounds["secrets"+h.Name()])
	}
	return list
}

// report fails the test for every failure, but for those of old tokens after
// the moment when they were to end.
func (l *keyLoad) report(t *testing.T, dropped time.Time) {
	t.Helper()
	var failures []string
	for _, f := range l.failures {
		if !f.old || f.at.Before(dropped) {
			failures = append(failures, fmt.Sprintf("%s %s", f.at.UTC().Format("15:04:05.000"), f.what))
		}
	}
	t.Logf("%d requests while keys changed, %d failures", l.requests, len(failures))
	failFor(t, failures)
}

// answered makes a request until a server that is restarted is there again.
func (l *keyLoad) answered(ctx context.Context, what string, ask func() (int, []byte, error)) (status int, content []byte, err error) {
	err = within(ctx, 2*time.Minute, what, func() error {
		status, content, err = ask()
		if err != nil && !remade(err) {
			return lab.Permanent(err)
		}
		if err == nil && (status == http.StatusTooManyRequests || status >= http.StatusInternalServerError) {
			err = fmt.Errorf("%d: %s", status, content)
		}
		l.mu.Lock()
		l.requests++
		l.mu.Unlock()
		return err
	})
	return status, content, err
}

// mint has a server make a token for the longest while that it is asked for.
func (l *keyLoad) mint(ctx context.Context, h *lab.Mercury) (string, error) {
	const ask = `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":3600}}`
	var made struct{ Status struct{ Token string } }
	status, content, err := l.answered(ctx, "a token of "+h.Name(), func() (int, []byte, error) {
		if err := l.ready(ctx, h); err != nil {
			return 0, nil, err
		}
		return l.talk(ctx, h, "admin", "k8s-server", http.MethodPost,
			"https://"+address(h)+":6443/api/v1/namespaces/default/serviceaccounts/default/token", ask, nil)
	})
	if err == nil && status != http.StatusCreated {
		err = fmt.Errorf("make a token at %s: %d: %s", h.Name(), status, content)
	}
	if err == nil {
		err = json.Unmarshal(content, &made)
	}
	return made.Status.Token, err
}

// ready asks as load balancers do: a server that has just started denies
// everything until it has read the roles.
func (l *keyLoad) ready(ctx context.Context, h *lab.Mercury) error {
	status, _, err := l.talk(ctx, h, "admin", "k8s-server", http.MethodGet, "https://"+address(h)+":6443/readyz", "", nil)
	if err == nil && status != http.StatusOK {
		err = errNotReady
	}
	return err
}

// use shows a server a token and returns its answer: 401 is for tokens that it
// does not know.
func (l *keyLoad) use(ctx context.Context, h *lab.Mercury, token string) (int, error) {
	status, _, err := l.answered(ctx, "an answer to a token of "+h.Name(), func() (int, []byte, error) {
		if err := l.ready(ctx, h); err != nil {
			return 0, nil, err
		}
		return l.talk(ctx, h, "", "k8s-server", http.MethodGet, "https://"+address(h)+":6443/api", "", http.Header{"Authorization": {"Bearer " + token}})
	})
	return status, err
}

// useTokens shows every API server the old tokens, and new ones of this server.
func (l *keyLoad) useTokens(ctx context.Context, h *lab.Mercury) {
	pace := time.NewTicker(keyPace)
	defer pace.Stop()
	for ; ctx.Err() == nil; l.came("tokens", h) {
		<-pace.C
		token, err := l.mint(ctx, h)
		if err != nil && ctx.Err() == nil {
			l.fail(false, "new token of %s: %v", h.Name(), err)
		}
		for _, server := range l.hosts[:2] {
			for i, shown := range append([]string{token}, l.old...) {
				if shown == "" {
					continue
				}
				if status, err := l.use(ctx, server, shown); ctx.Err() == nil && (err != nil || status != http.StatusOK) {
					l.fail(i > 0, "%s answers token %d (0 is new, of %s): %d, %v", server.Name(), i, h.Name(), status, err)
				}
			}
		}
	}
}

func (l *keyLoad) readSecrets(ctx context.Context, h *lab.Mercury) {
	pace := time.NewTicker(keyPace)
	defer pace.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		<-pace.C
		name := secretName(n % secretCount)
		var secret struct{ Data struct{ Value []byte } }
		status, content, err := l.answered(ctx, "secret "+name+" of "+h.Name(), func() (int, []byte, error) {
			if err := l.ready(ctx, h); err != nil {
				return 0, nil, err
			}
			return l.talk(ctx, h, "admin", "k8s-server", http.MethodGet, "https://"+address(h)+":6443/api/v1/namespaces/default/secrets/"+name, "", nil)
		})
		if err == nil {
			err = json.Unmarshal(content, &secret)
		}
		if ctx.Err() == nil && (err != nil || status != http.StatusOK || string(secret.Data.Value) != secretValue(n%secretCount)) {
			l.fail(false, "secret %s at %s: %d, %v", name, h.Name(), status, err)
		}
		l.came("secrets", h)
	}
}
