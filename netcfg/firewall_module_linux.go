package netcfg

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// hasNFTables tells whether the running kernel has nf_tables now, without making
// it load the module: merely to ask nfnetlink for a table does that, and
// planning must not change the host. In doubt it answers yes.
//
// A kernel without loadable modules (no /proc/modules) is asked; on one with
// modules nf_tables is there if it is loaded (/sys/module) or built in
// (modules.builtin). Tables cannot be without it.
func hasNFTables(root string) (bool, error) {
	modular, err := exists(filepath.Join(root, "proc/modules"))
	if err != nil || !modular {
		return true, err
	}
	loaded, err := exists(filepath.Join(root, "sys/module/nf_tables"))
	if err != nil || loaded {
		return true, err
	}
	var uname unix.Utsname
	if err := unix.Uname(&uname); err != nil {
		return true, fmt.Errorf("read the kernel's release: %w", err)
	}
	builtin, err := os.ReadFile(filepath.Join(root, "lib/modules", unix.ByteSliceToString(uname.Release[:]), "modules.builtin"))
	if err != nil {
		return true, nil // nothing tells
	}
	return bytes.Contains(builtin, []byte("/nf_tables.ko")), nil
}

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for nf_tables: %w", err)
	}
	return true, nil
}
