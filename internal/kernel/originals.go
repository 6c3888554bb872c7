package kernel

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// Originals are the values that sysctls had before nodeagent first changed
// them, by canonical name. A sysctl that already had the spec's value when it
// was first seen has none: there is nothing to put back.
type Originals map[string]string

// originalsVersion is the version of the file's shape. A file of another
// version is refused, not overwritten.
const originalsVersion = 1

type originalsFile struct {
	Version int       `json:"version"`
	Sysctls Originals `json:"sysctls"`
}

// OriginalsPath is the file of the original values.
func OriginalsPath(root layout.Root) string {
	return filepath.Join(root.State(), "kernel", "sysctl-originals.json")
}

// LoadOriginals reads the kept original values; none where there is no file.
func LoadOriginals(root layout.Root) (Originals, error) {
	path := OriginalsPath(root)
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Originals{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read original sysctl values: %w", err)
	}
	var file originalsFile
	if err := json.Unmarshal(content, &file); err != nil {
		return nil, fmt.Errorf("read original sysctl values %q: %w; move the file aside to go on without them", path, err)
	}
	if file.Version != originalsVersion {
		return nil, fmt.Errorf("read original sysctl values %q: version %d, this nodeagent knows version %d: it was written by another release", path, file.Version, originalsVersion)
	}
	if file.Sysctls == nil {
		file.Sysctls = Originals{}
	}
	return file.Sysctls, nil
}

// save replaces the file durably.
func (o Originals) save(root layout.Root) error {
	content, err := json.MarshalIndent(originalsFile{originalsVersion, o}, "", "  ")
	if err != nil {
		return fmt.Errorf("keep original sysctl values: %w", err)
	}
	path := OriginalsPath(root)
	if err := atomicfile.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("keep original sysctl values: %w", err)
	}
	if err := atomicfile.Write(path, append(content, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep original sysctl values: %w", err)
	}
	return nil
}
