package pki

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// retiredPath is the file with the encryption keys that were dropped. What they
// encrypted is in no Secret any more, but in every snapshot of etcd that was
// taken before.
func retiredPath(root layout.Root) string {
	return filepath.Join(keysFolder(root), KeyEncryption, "retired")
}

const retiredHeader = `# Keys that once encrypted Secrets in etcd, and that nothing needs any more but
# snapshots from before they were dropped. To read such a snapshot, put its key
# as a further one, behind the others, into the list of keys of encryption.yaml.
`

// retire keeps the keys in use that the content is without. It is done before
// they are dropped: killed between the two, a key that is still in use is in the
// file too, and once.
func retire(root layout.Root, content []byte) error {
	have, err := readFile(root.EncryptionConfig())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	before, err := secretboxKeys(have.content)
	if err != nil {
		return nil // no error: what is damaged has no key to keep
	}
	after, err := parseEncryptionKeys(content)
	if err != nil {
		return fmt.Errorf("the encryption configuration %w", err)
	}
	kept, err := readRetired(root)
	if err != nil {
		return err
	}
	text := kept
	for _, p := range before {
		still := slices.ContainsFunc(after, func(key []byte) bool { return p.is(key) })
		if !still && !strings.Contains(text, "# "+p.id+",") {
			text += fmt.Sprintf("# %s, dropped %s\n- name: %s\n  secret: %s\n", p.id, time.Now().UTC().Format(time.DateOnly), p.name, p.secret)
		}
	}
	if text == kept {
		return nil
	}
	if kept == "" {
		text = retiredHeader + text
	}
	if err := atomicfile.Write(retiredPath(root), []byte(text), 0o600); err != nil {
		return fmt.Errorf("keep the encryption keys that are dropped: %w", err)
	}
	return nil
}

func readRetired(root layout.Root) (string, error) {
	r, err := readFile(retiredPath(root))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(r.content), err
}

// RetiredKeys returns the fingerprints of the encryption keys that this host
// has dropped, for snapshots of etcd that were taken with them.
func RetiredKeys(root layout.Root) ([]string, error) {
	text, err := readRetired(root)
	if err != nil {
		return nil, fmt.Errorf("read encryption keys that were dropped: %w", err)
	}
	var list []string
	for line := range strings.Lines(text) {
		if id, _, found := strings.Cut(strings.TrimPrefix(line, "# "), ", dropped "); found && strings.HasPrefix(id, "sha256:") {
			list = append(list, id)
		}
	}
	return list, nil
}

// RetiredFile is the path of the file with the encryption keys that were
// dropped.
func RetiredFile(root layout.Root) string { return retiredPath(root) }
