package pki

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// refusedFile, in a certificate's folder, is what is remembered of a pair that
// its users did not take.
const refusedFile = "refused.json"

// Refused is a pair that was issued, put in place and not taken by the
// component that should use it, or by the server to which it should speak. The
// pair before it is in use again.
type Refused struct {
	// Serial in hexadecimal, and NotBefore, of the pair.
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"not_before"`
	// Request is the digest of what was asked for: a spec that asks for
	// something else is tried at once.
	Request string `json:"request"`
	// Reason is what was said against it.
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
	// Attempts counts pairs that were refused, this one included, with less than
	// a day between one and the next.
	Attempts int `json:"attempts"`
}

// The pause after a refused pair before another one is issued: it doubles, as
// a pair that was refused twice is not refused by chance.
const (
	firstRefusalPause = time.Hour
	lastRefusalPause  = 24 * time.Hour
)

// until is when another pair may be issued: after the pause, but early enough
// to try a last time while a quarter of what the pair in use had left remains.
func (r *Refused) until(end time.Time) time.Time {
	pause := firstRefusalPause << min(r.Attempts-1, 5)
	pause = min(pause, lastRefusalPause, end.Sub(r.At)*3/4)
	return r.At.Add(max(pause, 0))
}

// holds tells whether the refusal still speaks against issuing what is wanted:
// the pair in use is the one from before, and the request is the same.
func (r *Refused) holds(want Request, f Found, now time.Time) bool {
	return r != nil && r.NotBefore.After(f.NotBefore) && r.Request == want.digest() &&
		now.Before(r.until(f.NotAfter)) && now.Before(f.NotAfter)
}

// digest is of everything that a request asks for.
func (r Request) digest() string {
	r.Slot = Slot{} // it asks for nothing, and other hosts come and go
	return digest(fmt.Appendf(nil, "%+v", r))
}

// readRefused reads what is remembered of a refused pair; nil for nothing.
func readRefused(dir string) (*Refused, error) {
	content, err := os.ReadFile(filepath.Join(dir, refusedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := &Refused{}
	if err := json.Unmarshal(content, r); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, refusedFile), err)
	}
	return r, nil
}

// Previous returns the pair before the one in use.
func Previous(root layout.Root, name string) (tls.Certificate, error) {
	at := root.Certificate(name)
	dir := filepath.Join(filepath.Dir(at.Dir), previousFolder)
	return tls.LoadX509KeyPair(filepath.Join(dir, filepath.Base(at.Cert)), filepath.Join(dir, filepath.Base(at.Key)))
}

// PutBack takes the pair before the one in use into use again, because of
// reason, and remembers the other as refused, so that it is not asked for in a
// loop. It is an error where none is kept or it is no longer valid; nothing has
// changed then.
//
// The refusal is written first: killed after that, the pair in use is the
// refused one still, and whoever proves it will come here again.
func (a *Applier) PutBack(_ context.Context, want Request, reason string) error {
	r := &run{Applier: a, disk: disk{a.step}}
	dir := r.certificateFolder(want.Name)
	have := newObserver(a.Root).certificate(want.Name).Found
	files, err := r.previousPair(want)
	if err != nil {
		return fmt.Errorf("put back certificate %q: %w", want.Name, err)
	}
	refused := Refused{
		Serial: have.Serial, NotBefore: have.NotBefore, Request: want.digest(), Reason: reason, At: r.now(), Attempts: 1,
	}
	if before := have.Refused; before != nil && refused.At.Sub(before.At) < 2*lastRefusalPause {
		refused.Attempts += before.Attempts
	}
	content, err := json.Marshal(refused)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(dir, refusedFile), content, 0o600); err != nil {
		return fmt.Errorf("put back certificate %q: %w", want.Name, err)
	}
	r.disk.did("refusal written")
	err = r.disk.publish(dir, files, false, func(generation string) error { return sameFiles(generation, files) })
	if err != nil {
		return fmt.Errorf("put back certificate %q: %w", want.Name, err)
	}
	return nil
}

// previousPair reads the pair before the one in use, which must still be good:
// it belongs together and is valid now. What the spec wants of it now does not
// matter: it worked.
func (r *run) previousPair(want Request) ([]file, error) {
	at := r.Root.Certificate(want.Name)
	dir := filepath.Join(filepath.Dir(at.Dir), previousFolder)
	var files []file
	for path, mode := range map[string]fs.FileMode{at.Key: 0o600, at.Cert: 0o644, at.CA: 0o644} {
		f, err := readFile(filepath.Join(dir, filepath.Base(path)))
		if err != nil {
			return nil, err
		}
		files = append(files, file{filepath.Base(path), f.content, mode})
	}
	pair, err := Previous(r.Root, want.Name)
	if err != nil {
		return nil, err
	}
	if now := r.now(); now.After(pair.Leaf.NotAfter) || now.Before(pair.Leaf.NotBefore) {
		return nil, fmt.Errorf("the one before is valid from %s to %s only", date(pair.Leaf.NotBefore), date(pair.Leaf.NotAfter))
	}
	return files, nil
}
