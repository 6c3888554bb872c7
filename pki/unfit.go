package pki

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// unfitFile, in a certificate's folder, is what is remembered of an issuer that
// does not sign what the spec asks for.
const unfitFile = "unfit.json"

// Unfit is the last time that the issuer said that it will not sign a request,
// or signed something that would have to be replaced at once.
type Unfit struct {
	// Asked is the digest of the request and of the trust bundle: another spec
	// is asked for at once, and so is another authority.
	Asked string `json:"asked"`
	// Reason is what the issuer will not sign.
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
	// Attempts counts those with the same Asked, this one included.
	Attempts int `json:"attempts"`
}

// The pause before an issuer is asked again for what it did not sign; it
// doubles. A person who has mended the issuer does not wait: see
// [State.AskAgain].
const (
	firstUnfitPause = 15 * time.Minute
	lastUnfitPause  = 12 * time.Hour
)

// until is when the issuer is asked again: after the pause, but early enough to
// ask while a quarter of what the pair in use had left remains. end is that of
// the pair, the zero time where there is none.
func (u *Unfit) until(end time.Time) time.Time {
	pause := min(firstUnfitPause<<min(max(u.Attempts-1, 0), 6), lastUnfitPause)
	if left := end.Sub(u.At) * 3 / 4; !end.IsZero() && left > 0 {
		pause = min(pause, max(left, time.Minute))
	}
	return u.At.Add(pause)
}

// holds tells whether asking for what is wanted is of no use yet.
func (u *Unfit) holds(want Request, bundle string, f Found, now time.Time) bool {
	return u != nil && u.Asked == asked(want, bundle) && !now.Before(u.At) && now.Before(u.until(f.NotAfter))
}

// asked is the digest of a request and of the digest of the bundle with which
// its answer is checked.
func asked(want Request, bundle string) string {
	return digest([]byte(want.digest() + " " + bundle))
}

// AskAgain is the state without what is remembered of issuers that did not sign
// what was asked for: a person who applies it has a reason to.
func (s State) AskAgain() State {
	list := make([]Certificate, 0, len(s.Certificates))
	for _, c := range s.Certificates {
		c.Found.Unfit = nil
		list = append(list, c)
	}
	s.Certificates = list
	return s
}

// readUnfit reads what is remembered; nil for nothing, and for what cannot be
// read: it must not stop a renewal.
func readUnfit(dir string) *Unfit {
	content, err := os.ReadFile(filepath.Join(dir, unfitFile))
	if err != nil {
		return nil
	}
	u := &Unfit{}
	if json.Unmarshal(content, u) != nil {
		return nil
	}
	return u
}

// unfit says what an issuer will not sign, by the error that came of asking;
// "" where asking again may help.
func unfit(err error) string {
	var times x509.CertificateInvalidError
	if errors.As(err, &times) && times.Reason == x509.Expired {
		return "" // one of two clocks is wrong
	}
	if CauseOf(err) == CauseUnfit {
		return err.Error()
	}
	return ""
}

// noteUnfit remembers a reason for which the issuer need not be asked again
// soon; with none, what was remembered is forgotten.
func (r *run) noteUnfit(want Request, bundle, reason string) error {
	dir := r.certificateFolder(want.Name)
	path := filepath.Join(dir, unfitFile)
	if reason == "" {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return atomicfile.Remove(path)
	}
	note := Unfit{Asked: asked(want, bundle), Reason: reason, At: r.now().UTC(), Attempts: 1}
	if before := readUnfit(dir); before != nil && before.Asked == note.Asked {
		note.Attempts += before.Attempts
	}
	content, err := json.Marshal(note)
	if err != nil {
		return err
	}
	if err := atomicfile.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := atomicfile.Write(path, content, 0o600); err != nil {
		return fmt.Errorf("remember that the issuer does not sign %q: %w", want.Name, err)
	}
	r.disk.did("unfit noted")
	return nil
}

// faultOf says why the certificate that is in use now would be issued again at
// once, "" where it would not. Such a one is used, but not asked for in a loop.
func (r *run) faultOf(ctx context.Context, all State, want Request) string {
	o := newObserver(r.Root)
	o.authorities(ctx)
	o.trust(ctx)
	c := o.certificate(want.Name)
	c.Found.Refused, c.Found.Unfit = nil, nil
	d := differ{have: o.state, want: all, now: r.now()}
	switch v := d.judge(&c, want); v.action {
	case plan.ActionIssue, plan.ActionRenew:
		return "what the issuer signed is not what is asked for: " + v.reason
	}
	return ""
}
