package confirm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// Store keeps the records as files of a folder, each written durably.
//
// The order of writes makes every point at which the power may go harmless: an
// attempt is written before the network is touched, its rejection before the
// attempt is removed. A confirmation is written before the rejection is
// forgotten, and that before the attempt is: cut in between, the attempt is
// undone, and undoing it makes the rejection anew.
type Store struct{ Dir string }

const (
	attemptFile  = "attempt.json"
	rejectedFile = "rejected.json"
	// confirmedFile holds the last confirmed network.
	confirmedFile = "confirmed.json"
)

// Load reads the records. What cannot be read is an error: to guess here would
// mean to touch a network that somebody may be losing.
func (s Store) Load() (Records, error) {
	var r Records
	err := errors.Join(load(s, attemptFile, &r.Attempt), load(s, rejectedFile, &r.Rejected), load(s, confirmedFile, &r.Confirmed))
	return r, err
}

func load[T any](s Store, name string, into **T) error {
	path := filepath.Join(s.Dir, name)
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(content, into)
	}
	if err != nil {
		return fmt.Errorf("read record %q: %w; once the network is as it should be, remove the file", path, err)
	}
	return nil
}

func (s Store) save(name string, record any) error {
	content, err := json.MarshalIndent(record, "", "  ")
	if err == nil {
		err = atomicfile.MkdirAll(s.Dir, 0o700)
	}
	if err == nil {
		err = atomicfile.Write(filepath.Join(s.Dir, name), append(content, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep record of a network change: %w", err)
	}
	return nil
}

// SaveAttempt writes the attempt.
func (s Store) SaveAttempt(a *Attempt) error { return s.save(attemptFile, a) }

// SaveRejected writes the rejection.
func (s Store) SaveRejected(r *Rejected) error { return s.save(rejectedFile, r) }

// SaveConfirmed writes what was last confirmed.
func (s Store) SaveConfirmed(c *Confirmed) error { return s.save(confirmedFile, c) }

// Reject ends an attempt that was undone.
func (s Store) Reject(r *Rejected) error {
	if err := s.SaveRejected(r); err != nil {
		return err
	}
	return s.remove(attemptFile)
}

// Accept makes a network the confirmed one; it ends an attempt, and forgets a
// rejection.
func (s Store) Accept(c *Confirmed) error {
	if err := s.save(confirmedFile, c); err != nil {
		return err
	}
	if err := s.remove(rejectedFile); err != nil {
		return err
	}
	return s.remove(attemptFile)
}

func (s Store) remove(name string) error {
	if err := atomicfile.Remove(filepath.Join(s.Dir, name)); err != nil {
		return fmt.Errorf("forget record of a network change: %w", err)
	}
	return nil
}
