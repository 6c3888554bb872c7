package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
	"github.com/nodeagent/nodeagent/pki/vault"
)

// keyStep is for how much longer than until the slowest host has heard of one
// step of a key's change the next one is awaited after this host took one: that
// host may restart a component then. That there are two keys says nothing: the
// old one of service accounts verifies for a day.
const keyStep = 90 * time.Second

// Report says how far this host is with its certificates: what lies on disk,
// and whether its components run with it.
func (h *Host) Report(ctx context.Context) (pki.Report, error) {
	have, err := pki.Observe(ctx, h.root)
	if err != nil {
		return pki.Report{}, err
	}
	r := pki.NewReport(have, pki.Want(h.Spec()), time.Now().UTC())
	domains, err := Only(h.Domains(), []string{DomainPKI, DomainUnits, DomainProof})
	if err != nil {
		return r, err
	}
	p, err := Plan(ctx, domains)
	r.Problem = outstanding(p, err)
	if r.Problem == "" {
		r.Problem = h.encryptionInUse(ctx, r.Keys[pki.KeyEncryption])
	}
	r.Proven = r.Problem == ""
	return r, nil
}

// outstanding says why a host is not proven, in one line.
func outstanding(p plan.Plan, err error) string {
	switch {
	case err != nil:
		return firstLine(err.Error())
	case len(p.Changes) > 0:
		c := p.Changes[0]
		return fmt.Sprintf("%d changes are to be made, first: %s, because %s", len(p.Changes), c, c.Reason)
	}
	return ""
}

// follower keeps a host's trust bundles those of its issuer, and tells the
// issuer how far the host is.
type follower struct {
	host *Host
	log  *slog.Logger
	// told is the last report that arrived, failed the last failure that was
	// logged.
	told   pki.Report
	failed string
	// rekeyed is when the issuer had other keys last.
	rekeyed time.Time
}

// followIssuer does so until ctx is done. With the local issuer there is nothing to
// follow: its authorities are part of what the host converges to. Whether their
// keys can be opened is looked at, so that it is known before it is needed.
func (h *Host) followIssuer(ctx context.Context, log *slog.Logger) {
	f := &follower{host: h, log: log}
	for wait := followOf(h).First(); h.awaitLook(ctx, wait); {
		wait = followOf(h).Next(false)
		if len(h.Spec().Roles) == 0 {
			continue
		}
		if h.Spec().PKI.Issuer == pki.IssuerLocal {
			f.tellKeys(h.keyring.Check(ctx))
		}
		if h.Spec().PKI.Issuer != pki.IssuerVault {
			continue
		}
		changing, err := f.look(ctx)
		f.tell(err)
		if changing && err == nil {
			wait = followOf(h).Next(true)
		}
	}
}

func followOf(h *Host) pki.Follow {
	spec := h.Spec()
	return pki.Follow{Host: spec.Name, Of: len(spec.Peers) + 1}
}

// awaitLook waits for the time to pass or for lookNow; false when ctx is done.
func (h *Host) awaitLook(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-h.looks:
	}
	return true
}

// lookNow makes the daemon ask the issuer at once.
func (h *Host) lookNow() {
	select {
	case h.looks <- struct{}{}:
	default: // it is about to
	}
}

// look refreshes and reports; it tells whether a change is under way.
func (f *follower) look(ctx context.Context) (changing bool, err error) {
	applier := pki.Applier{Root: f.host.root, Issuer: f.host.issuer}
	want := pki.Want(f.host.Spec())
	err = f.host.exclusively(ctx, DomainPKI, func() error {
		changed, err := applier.Refresh(ctx, want)
		if len(changed) > 0 {
			f.log.Info("the issuer has other authorities than before", "of", changed)
		}
		keys, keysErr := applier.RefreshKeys(ctx, want)
		if len(keys) > 0 {
			f.log.Info("the issuer has other keys than before", "of", keys)
			f.rekeyed = time.Now()
		}
		return errors.Join(err, keysErr)
	})
	if err != nil {
		return false, err
	}
	r, err := f.host.Report(ctx)
	if err != nil {
		return false, err
	}
	changing = f.changing(r, time.Now())
	if r.Same(f.told) && r.At.Sub(f.told.At) < pki.ReportAtMost {
		return changing, nil
	}
	issuer, err := f.host.issuer(ctx)
	if err != nil {
		return changing, err
	}
	teller, ok := issuer.(*vault.Issuer)
	if !ok {
		return changing, nil
	}
	if err := teller.Report(ctx, r); err != nil {
		return changing, err
	}
	f.told = r
	return changing, nil
}

// tellKeys is tell of the local issuer: what there is to tell is that its keys
// cannot be opened.
func (f *follower) tellKeys(err error) {
	if err == nil && f.failed == "" {
		if note, noteErr := readIssuerNote(f.host.root); noteErr == nil && note.Problem == "" {
			return
		}
	}
	f.note(err, "no certificate can be issued; what lies on disk serves on", "the keys of the CAs can be opened again")
}

// changing tells whether a change is under way, or this host has not caught up.
func (f *follower) changing(r pki.Report, now time.Time) bool {
	for _, trusted := range r.Trust {
		if len(trusted) > 1 {
			return true
		}
	}
	return !r.Proven || now.Sub(f.rekeyed) < followOf(f.host).Next(false)+keyStep
}

// tell is note of Vault.
func (f *follower) tell(err error) {
	f.note(err, "the issuer is not followed; what lies on disk serves on", "the issuer answers again")
}

// note logs a failure once, and that it is over.
func (f *follower) note(err error, fails, over string) {
	now := ""
	if err != nil {
		now = firstLine(err.Error())
	}
	if err := noteIssuer(f.host.root, now, time.Now()); err != nil {
		f.log.Warn("status cannot tell when the issuer last answered", "error", err)
	}
	switch {
	case now == f.failed:
	case now == "":
		f.log.Info(over)
	default:
		f.log.Warn(fails, "because", now)
	}
	f.failed = now
}
