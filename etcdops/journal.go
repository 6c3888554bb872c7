package etcdops

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// phase is how far a restore has come, as its journal says. It is written
// before what it names begins.
type phase string

const (
	// phaseStaging: new data is being made beside the live data. Nothing else
	// has changed.
	phaseStaging phase = "staging"
	// phaseStopping: components are being stopped.
	phaseStopping phase = "stopping"
	// phaseSwapping: the folders are being exchanged; which of them is live is
	// read off the mark in the restored one.
	phaseSwapping phase = "swapping"
	// phaseStarting: the restored data is live; etcd is started and has to prove
	// itself.
	phaseStarting phase = "starting"
	// phaseProven: the restore stands; what uses etcd is started again.
	phaseProven phase = "proven"
	// phaseReverting: the old data is being put back.
	phaseReverting phase = "reverting"
)

// journal is the record of a restore under way. While its file is there, the
// restore is not finished.
type journal struct {
	Phase phase       `json:"phase"`
	Plan  RestorePlan `json:"plan"`
}

func journalPath(root layout.Root) string { return filepath.Join(etcdDir(root), "restore.json") }

// RestoreInProgress tells whether a restore is under way on this host, or was
// interrupted. While it is, nobody but the restore may start etcd or what
// writes to it.
func RestoreInProgress(root layout.Root) (bool, error) {
	_, found, err := readJournal(root)
	return found, err
}

func readJournal(root layout.Root) (_ journal, found bool, err error) {
	path := journalPath(root)
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return journal{}, false, nil
	}
	if err != nil {
		return journal{}, false, fmt.Errorf("read journal of the restore: %w", err)
	}
	var j journal
	if err := json.Unmarshal(content, &j); err != nil {
		return journal{}, true, fmt.Errorf("read journal of the restore %q: %w", path, err)
	}
	return j, true, nil
}

func writeJournal(root layout.Root, j journal) error {
	content, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return fmt.Errorf("write journal of the restore: %w", err)
	}
	if err := atomicfile.Write(journalPath(root), append(content, '\n'), 0o600); err != nil {
		return fmt.Errorf("write journal of the restore: %w", err)
	}
	passed("journal " + string(j.Phase))
	return nil
}
