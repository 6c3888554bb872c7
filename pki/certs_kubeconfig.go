package pki

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
)

// CheckKubeconfigFile tells whether a person's kubeconfig may be written to a
// path: nothing is there, or a file of the same kind, which is replaced.
func CheckKubeconfigFile(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %q: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%q is there and is not a regular file", path)
	}
	content, err := readFile(path)
	if err != nil {
		return fmt.Errorf("read %q: %w", path, err)
	}
	if !bytes.HasPrefix(content.content, []byte(kubeconfigMark)) {
		return fmt.Errorf("%q is there and was not made by this command: what it holds would be lost", path)
	}
	return nil
}

// WriteKubeconfig writes a person's kubeconfig, mode 0600.
func WriteKubeconfig(path string, content []byte) error {
	if err := CheckKubeconfigFile(path); err != nil {
		return err
	}
	return atomicfile.Write(path, content, 0o600)
}
