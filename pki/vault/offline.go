package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// WriteRequests writes the signing request of every authority that waits for
// its certificate to NAME.csr in the folder, which is made if it is missing,
// and answers the files. Nothing in them is secret.
func WriteRequests(ctx context.Context, client *api.Client, have, want State, dir string) ([]string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("write signing requests: %w", err)
	}
	var files []string
	for _, waiting := range have.Waiting() {
		a := want.authority(waiting.Name)
		if a == nil {
			continue
		}
		request, err := SigningRequest(ctx, client, *a)
		if err != nil {
			return files, err
		}
		file := filepath.Join(dir, a.Name+".csr")
		if err := atomicfile.Write(file, request, 0o644); err != nil {
			return files, fmt.Errorf("write signing request of authority %q: %w", a.Name, err)
		}
		files = append(files, file)
	}
	return files, nil
}

// ReadSigned puts the certificates NAME.crt of a folder into the wanted
// authorities that wait for them, and checks all of them before any is used. At
// least one must be there.
func ReadSigned(ctx context.Context, client *api.Client, have State, want *State, dir string, now time.Time) error {
	found, waiting := 0, have.Waiting()
	if len(waiting) == 0 {
		return errors.New("import signed certificates: no authority waits for one")
	}
	var failed []error
	for _, w := range waiting {
		a := want.authority(w.Name)
		file := filepath.Join(dir, w.Name+".crt")
		content, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) || a == nil {
			continue
		}
		found++
		var request []byte
		if err == nil {
			request, err = SigningRequest(ctx, client, *a)
		}
		if err == nil {
			err = CheckSigned(string(content), request, a.Leaf, now)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("import %q: %w", file, err))
			continue
		}
		a.Signed = string(content)
	}
	if found == 0 {
		return fmt.Errorf("import signed certificates: there is no file such as %q in %q", waiting[0].Name+".crt", dir)
	}
	return errors.Join(failed...)
}

// Offline has the authorities that are not there yet signed by a root outside
// of this Vault.
func (s *State) Offline() {
	for i := range s.Authorities {
		s.Authorities[i].Offline = true
	}
}
