package vault

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

// Issuer asks Vault for one host. It logs in when it is first needed and keeps
// its token, in memory alone, for everything that follows; see [Issuer.Keep].
type Issuer struct {
	spec  *hosts.Spec
	host  string
	vault hosts.Vault
	place Place
	root  layout.Root
	log   *slog.Logger
	now   func() time.Time
	// patience is how often Vault is asked again.
	patience patience

	// turn is held, by having sent to it, while session is looked at or made. A
	// channel, so that who waits for a slow login hears of the end of its ctx.
	turn    chan struct{}
	session *session
	used    time.Time // when a session was last asked for

	mu     sync.Mutex
	public *conn  // without token and client certificate, made when needed
	outage outage // the last time that Vault could not be reached
	// silent is what was logged already and still holds.
	silent map[string]bool
}

var _ pki.Issuer = (*Issuer)(nil)

// New is the issuer of the host of a spec whose issuer is Vault. It sends
// nothing yet.
func New(spec *hosts.Spec, root layout.Root, log *slog.Logger) *Issuer {
	return &Issuer{
		spec: spec, host: spec.Name, vault: *spec.PKI.Vault, place: Place(spec.PKI.Vault.Mount), root: root, log: log,
		now: time.Now, patience: usual, turn: make(chan struct{}, 1), silent: map[string]bool{},
	}
}

// outage is the last failure to reach Vault. For a moment after it nobody else
// tries: where ten certificates are due, nine need not find out again.
type outage struct {
	at  time.Time
	err error
}

// outageMemory is how long an outage answers for Vault. The daemon's own pauses
// are longer.
const outageMemory = time.Second

// Sign implements pki.Issuer. The chain ends below the root.
func (i *Issuer) Sign(ctx context.Context, r pki.Request, csr []byte) ([]byte, error) {
	a := i.asked(fmt.Sprintf("sign %q", r.Name), r.CA)
	a.role = i.place.Role(i.host, r.Name)
	if err := pki.CheckCSR(r, csr); err != nil {
		return nil, fmt.Errorf("%s: %w", a.what, err)
	}
	parameters := SignParameters(r)
	parameters["csr"] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))
	var chain []byte
	err := i.do(ctx, a, func(ctx context.Context, c *conn) error {
		answer, err := c.write(ctx, a.engine+"/sign/"+a.role, parameters)
		if err == nil {
			chain, err = chainOf(answer)
		}
		return err
	})
	return chain, err
}

// asked is a question about the engine of a CA.
func (i *Issuer) asked(what, ca string) asked {
	return asked{vault: &i.vault, host: i.host, what: what, engine: i.place.Engine(ca)}
}

// do sends a request with the host's token. One that Vault takes for no token
// any more, because it was revoked or has ended, is replaced once.
func (i *Issuer) do(ctx context.Context, a asked, send func(context.Context, *conn) error) error {
	for again := true; ; again = false {
		if err := i.out(); err != nil {
			return refuse(a, err)
		}
		s, err := i.current(ctx)
		if err != nil {
			return i.noticed(refuse(a, err))
		}
		err = i.patience.ask(ctx, true, func() error { return send(ctx, s.conn) })
		if again && status(err) == http.StatusForbidden && !i.alive(ctx, s) {
			i.drop(ctx, s)
			continue
		}
		if distrusted(err) {
			i.drop(ctx, s) // its connections know the CA file as it was
		}
		if err != nil {
			return i.noticed(refuse(a, err))
		}
		return nil
	}
}

// doPublic sends a request that needs no token.
func (i *Issuer) doPublic(ctx context.Context, a asked, send func(context.Context, *conn) error) error {
	a.public = true
	if err := i.out(); err != nil {
		return refuse(a, err)
	}
	c, err := i.publicConn()
	if err == nil {
		err = i.patience.ask(ctx, true, func() error { return send(ctx, c) })
	}
	if err != nil {
		return i.noticed(refuse(a, err))
	}
	return nil
}

func (i *Issuer) publicConn() (*conn, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.public == nil {
		c, err := dial(&i.vault, nil)
		if err != nil {
			return nil, err
		}
		i.public = c
	}
	return i.public, nil
}

// out is the outage that was met a moment ago, nil for none.
func (i *Issuer) out() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if since := i.now().Sub(i.outage.at); i.outage.err == nil || since < 0 || since > outageMemory {
		return nil
	}
	return i.outage.err
}

// noticed remembers an outage, and after an answer of somebody else's reads the
// CA file anew for the next request: a person may have corrected it.
func (i *Issuer) noticed(err error) error {
	var r *pki.Refusal
	if !errors.As(err, &r) || errors.Is(err, context.Canceled) {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	switch r.Cause {
	case pki.CauseUnreachable:
		i.outage = outage{i.now(), r.Err}
	case pki.CauseUntrusted:
		if i.public != nil {
			i.public.close()
			i.public = nil
		}
	}
	return err
}

// chainOf is the certificate of a signing answer and the intermediates above
// it, PEM, the leaf first. Roots are left out: a peer has them or does not
// trust them.
func chainOf(answer *api.Secret) ([]byte, error) {
	leaf, err := text(answer, "certificate")
	if err != nil {
		return nil, err
	}
	above, _ := answer.Data["ca_chain"].([]any)
	if len(above) == 0 {
		above = []any{answer.Data["issuing_ca"]}
	}
	list := []string{leaf}
	for _, one := range above {
		content, ok := one.(string)
		if !ok {
			return nil, errors.New("the answer names no authority above the certificate")
		}
		ca, err := parseCA(content)
		if err != nil {
			return nil, err
		}
		if !selfSigned(ca) {
			list = append(list, content)
		}
	}
	return join(list), nil
}
