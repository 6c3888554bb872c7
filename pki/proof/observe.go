package proof

import (
	"context"
	"crypto/tls"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// patience bounds one question. A port that takes longer is down for this
// domain, and for the units domain's checks too.
const patience = 5 * time.Second

// Observe asks every live port of want. It changes nothing on the host; what
// it sends are a TLS handshake and, for client pairs, one request that reads.
// What a port shows is read from the first client's handshake with it where
// there is one: it shows it before it knows who asks.
func Observe(ctx context.Context, root layout.Root, want State) (State, error) {
	l := newLook(root)
	have := State{Checks: make([]Check, len(want.Checks))}
	var asking sync.WaitGroup
	for _, q := range questions(want.Checks) {
		asking.Go(func() {
			switch {
			case q.server == none:
				have.Checks[q.client], _ = l.askClient(ctx, want.Checks[q.client])
			case q.client == none:
				have.Checks[q.server] = l.askServer(ctx, want.Checks[q.server])
			default:
				have.Checks[q.client], have.Checks[q.server] = l.askBoth(ctx, want.Checks[q.client], want.Checks[q.server])
			}
		})
	}
	asking.Wait()
	return have, ctx.Err()
}

// question is one conversation with a port and the checks that it answers, by
// their places, none where it does not.
type question struct{ client, server int }

const none = -1

// questions are one for each client, and for each server without clients.
func questions(checks []Check) []question {
	var list []question
	for i, c := range checks {
		if c.Client {
			list = append(list, question{client: i, server: none})
		}
	}
	for i, c := range checks {
		if c.Client {
			continue
		}
		first := slices.IndexFunc(list, func(q question) bool {
			return q.client != none && q.server == none && checks[q.client].Port == c.Port
		})
		if first < 0 {
			list = append(list, question{client: none, server: i})
		} else {
			list[first].server = i
		}
	}
	return list
}

// ask makes one check.
func (l *look) ask(ctx context.Context, want Check) Check {
	if !want.Client {
		return l.askServer(ctx, want)
	}
	client, _ := l.askClient(ctx, want)
	return client
}

// askBoth makes a client's check and that of the port which it speaks with.
func (l *look) askBoth(ctx context.Context, client, server Check) (Check, Check) {
	client, shown := l.askClient(ctx, client)
	if shown == nil && !client.Down {
		return client, l.askServer(ctx, server) // the client could not even begin
	}
	return client, shown.answer(server)
}

// askServer reads the certificate that the port shows. A server that then
// wants a certificate of the client, and gets none, has shown its own before.
func (l *look) askServer(ctx context.Context, want Check) Check {
	var own *tls.Certificate
	if want.Greeter != "" {
		if pair, err := l.pair(want.Greeter); err == nil {
			own = &pair
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, shown, err := l.dial(ctx, want.Port, own)
	if err == nil {
		conn.Close()
	}
	return shown.answer(want)
}

// askClient speaks with the pair on disk; shown is nil where nothing was.
func (l *look) askClient(ctx context.Context, want Check) (Check, *shown) {
	pair, err := l.pair(want.Certificate)
	if err != nil {
		want.Serial, want.PutBack, want.Problem = "", false, err.Error()
		return want, nil
	}
	return l.askWith(ctx, want, pair)
}

// askWith speaks with a pair. etcd refuses it in the handshake; Kubernetes'
// servers let it through and answer 401 to a request, while 403 says that they
// know the user and would not let him.
func (l *look) askWith(ctx context.Context, want Check, pair tls.Certificate) (Check, *shown) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	have := want
	have.Serial, have.PutBack = "", false
	status, shown, err := l.request(ctx, want, pair)
	switch {
	case err == nil && status != http.StatusUnauthorized:
		have.Serial = pair.Leaf.SerialNumber.Text(16)
	case err == nil:
		have.Problem = "401 Unauthorized"
	case refusal(err) != "":
		have.Problem = refusal(err)
	default:
		have.Down = true
	}
	return have, shown
}
