package units

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// How a starting unit is watched: the first looks come quickly, for a warm
// start takes less than a second, later ones each second.
const (
	firstPause     = 50 * time.Millisecond
	longestPause   = time.Second
	attemptTimeout = 3 * time.Second
	// answerLength is how much of a bad answer an error repeats, in bytes.
	answerLength = 200
)

// Check asks once whether a unit is ready: it is active, its probe, if it has
// one, answers, and the programs that it runs are there. The error says what is
// wrong.
func (s *Systemd) Check(ctx context.Context, u Unit) error {
	state, err := s.activeState(ctx, u.Name)
	if err != nil {
		return err
	}
	if state != "active" && state != "reloading" {
		return fmt.Errorf("%s: %w", u.Name, s.failure(ctx, u.Name))
	}
	if u.Ready != nil {
		if err := u.Ready.Ask(ctx); err != nil {
			return fmt.Errorf("%s: %w", u.Name, u.why(ctx, err))
		}
	}
	if lacks := u.lacks(executable); lacks != "" {
		return fmt.Errorf("%s runs, but there is %s", u.Name, lacks)
	}
	return nil
}

// awaitReady repeats what Check does until the unit is ready, fails or its time
// is over. Without a probe one look is enough: the start job is done.
func (s *Systemd) awaitReady(ctx context.Context, u Unit) error {
	ctx, cancel := u.deadline(ctx)
	defer cancel()
	pause := firstPause
	var answer error
	for {
		state, err := s.activeState(ctx, u.Name)
		if err != nil && ctx.Err() != nil && answer != nil {
			return s.late(ctx, u, answer)
		}
		if err != nil {
			return err
		}
		if state == "failed" || state == "inactive" || (u.Ready == nil && state == "activating") {
			return s.failure(ctx, u.Name)
		}
		if u.Ready == nil {
			return nil
		}
		if answer = u.Ready.Ask(ctx); answer == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return s.late(ctx, u, answer)
		case <-time.After(pause):
		}
		pause = min(2*pause, longestPause)
	}
}

// late is the error of a unit whose time is over, with its last answer, or what
// that comes of, and with what systemd knows, as it may fail and be restarted over
// and over.
func (s *Systemd) late(ctx context.Context, u Unit, answer error) error {
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), attemptTimeout)
	defer cancel()
	answer = u.why(look, fmt.Errorf("last answer: %w", answer))
	return fmt.Errorf("%w; %w; %w", context.Cause(ctx), answer, s.failure(look, u.Name))
}

// why says what a bad answer of the unit comes of, where that is known.
func (u Unit) why(ctx context.Context, answer error) error {
	if u.Server != nil {
		if err := u.Server.Ask(ctx); err != nil {
			return fmt.Errorf("it waits for %s: %w", u.Server.Name, err)
		}
	}
	return answer
}

func (s *Systemd) activeState(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := s.connect(ctx)
	if err != nil {
		return "", err
	}
	p, err := conn.GetUnitPropertyContext(ctx, name, "ActiveState")
	if err != nil {
		return "", fmt.Errorf("ask for the state of %q: %w", name, err)
	}
	state, _ := p.Value.Value().(string)
	return state, nil
}

// Ask makes one attempt; an error says what speaks against readiness. The files
// are read anew each time, as they may be replaced while the unit starts.
func (p *Probe) Ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, attemptTimeout, fmt.Errorf("no answer within %s", attemptTimeout))
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true}
	if strings.HasPrefix(p.URL, "https:") {
		config, err := p.tls()
		if err != nil {
			return err
		}
		transport.TLSClientConfig = config
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL, nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: transport, CheckRedirect: noRedirect}).Do(request)
	if err != nil {
		return errors.Join(err, causeOnly(ctx))
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, answerLength))
	if response.StatusCode == http.StatusOK {
		return nil
	}
	return errors.Join(fmt.Errorf("%s answers %s: %s", p.URL, response.Status, strings.TrimSpace(string(body))), err)
}

// causeOnly returns the cause with which ctx ended where it says more than the
// error of the call that it ended.
func causeOnly(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(cause, ctx.Err()) {
		return cause
	}
	return nil
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func (p *Probe) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: p.ServerName}
	if p.CA != "" {
		bundle, err := os.ReadFile(p.CA)
		if err != nil {
			return nil, fmt.Errorf("read CA bundle of the probe: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(bundle) {
			return nil, fmt.Errorf("read CA bundle of the probe: %q holds no certificate", p.CA)
		}
	}
	if p.Cert != "" {
		pair, err := tls.LoadX509KeyPair(p.Cert, p.Key)
		if err != nil {
			return nil, fmt.Errorf("read client certificate of the probe: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
