package pki

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// owedRevocation is a pair that is to be revoked once a newer one is in use. It
// is kept as a file until that is done: a run that is cut off in between must
// not forget a leaked key, and needs the key to revoke it.
type owedRevocation struct {
	Name  string    `json:"name"`
	CA    string    `json:"ca"`
	Since time.Time `json:"since"`
	// Serial in hexadecimal, and the end, of the pair.
	Serial   string    `json:"serial"`
	NotAfter time.Time `json:"not_after"`
	// Chain and Key are PEM, the leaf first.
	Chain []byte `json:"chain"`
	Key   []byte `json:"key"`
}

// String hides the key.
func (o owedRevocation) String() string { return fmt.Sprintf("revocation of %s %s", o.Name, o.Serial) }

// GoString hides the key.
func (o owedRevocation) GoString() string { return o.String() }

func owedFolder(root layout.Root) string { return filepath.Join(root.Operations(), "revoke") }

func (o owedRevocation) file(root layout.Root) string {
	return filepath.Join(owedFolder(root), o.Name+"."+o.Serial+".json")
}

// owe notes that the pair in use is to be revoked.
func owe(root layout.Root, want Request, f Found, now time.Time) error {
	at := root.Certificate(want.Name)
	o := owedRevocation{Name: want.Name, CA: want.CA, Since: now.UTC(), Serial: f.Serial, NotAfter: f.NotAfter}
	for path, content := range map[string]*[]byte{at.Cert: &o.Chain, at.Key: &o.Key} {
		r, err := readFile(path)
		if err != nil {
			return fmt.Errorf("note that certificate %q is to be revoked: %w", want.Name, err)
		}
		*content = r.content
	}
	content, err := json.Marshal(o)
	if err != nil {
		return err
	}
	for _, dir := range []string{root.Operations(), owedFolder(root)} {
		if err := atomicfile.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return atomicfile.Write(o.file(root), content, 0o600)
}

// owedRevocations reads what is still to be revoked, sorted by name and age.
func owedRevocations(root layout.Root) ([]owedRevocation, error) {
	entries, err := os.ReadDir(owedFolder(root))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what is to be revoked: %w", err)
	}
	var list []owedRevocation
	var failed []error
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		path := filepath.Join(owedFolder(root), e.Name())
		o, err := readAs(path, func(content []byte) (o owedRevocation, err error) {
			if json.Unmarshal(content, &o) != nil {
				err = errors.New("is damaged") // the decoder's error may have part of the key
			}
			return o, err
		})
		if err != nil {
			failed = append(failed, fmt.Errorf("read what is to be revoked: %q %s", path, problem(err)))
			continue
		}
		list = append(list, o)
	}
	slices.SortStableFunc(list, func(a, b owedRevocation) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return a.Since.Compare(b.Since)
	})
	return list, errors.Join(failed...)
}
