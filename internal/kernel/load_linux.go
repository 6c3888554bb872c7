package kernel

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// Open returns the running kernel, with files below root.
func Open(root layout.Root) (*System, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, fmt.Errorf("ask for the kernel's release: %w", err)
	}
	return &System{Root: root, Proc: "/proc", Sys: "/sys", Release: unix.ByteSliceToString(name.Release[:])}, nil
}

// load loads a module with its parameters, those that it needs first. Modules
// that are there already are left alone, so that it can be repeated.
func (s *System) load(m Module) error {
	t, err := s.modules()
	if err != nil {
		return fmt.Errorf("load module %q: %w", m.Name, err)
	}
	names := t.resolve(m.Name)
	if len(names) == 0 {
		return fmt.Errorf("load module %q: it is neither built into the running kernel %s nor in %s: check the name, or install the package that brings it", m.Name, s.Release, t.dir)
	}
	for _, name := range names {
		if err := s.loadOne(t, name, m.Parameters, map[string]bool{}); err != nil {
			return fmt.Errorf("load module %q: %w", m.Name, err)
		}
	}
	return nil
}

// loadOne loads a module after those that it needs. Those in begun are on the
// way already: soft dependencies can go round in a circle.
func (s *System) loadOne(t *tree, name string, parameters map[string]Parameter, begun map[string]bool) error {
	order, ok := t.loadOrder(name)
	if !ok {
		if s.presence(name) != Absent {
			return nil // an alias of something built in
		}
		return fmt.Errorf("%s does not list %q", filepath.Join(t.dir, "modules.dep"), name)
	}
	for parameter := range parameters {
		// The kernel itself only logs a parameter that the module does not have.
		known, err := s.knowsParameter(name, parameter)
		if err != nil {
			return err
		}
		if !known {
			return fmt.Errorf("module %s has no parameter %q", name, parameter)
		}
	}
	for _, path := range order {
		module, given := fileModule(path), map[string]Parameter(nil)
		if fileModule(path) == name {
			given = parameters
		}
		// One that is begun comes with its own parameters.
		if s.presence(module) != Absent || (begun[module] && module != name) {
			continue
		}
		begun[module] = true
		s.loadSoft(t, t.soft[module].before, begun)
		if err := insert(filepath.Join(t.dir, path), parameterLine(withDefaults(module, given))); err != nil {
			return fmt.Errorf("insert %q: %w%s", path, err, insertHint(err))
		}
		s.loadSoft(t, t.soft[module].after, begun)
	}
	if s.presence(name) == Absent {
		return fmt.Errorf("the kernel took %q but does not show it in %s", name, filepath.Join(s.Sys, "module"))
	}
	return nil
}

// defaults are parameters that modules are loaded with where the spec gives no
// others: these would make a link of their own when they are loaded, which then
// stands in the way of the spec's link of that name. It is what systemd has in
// modprobe.d/systemd.conf for modprobe.
var defaults = map[string]map[string]string{
	"bonding": {"max_bonds": "0"},
	"dummy":   {"numdummies": "0"},
	"ifb":     {"numifbs": "0"},
}

// withDefaults adds the defaults of a module to its parameters.
func withDefaults(module string, parameters map[string]Parameter) map[string]Parameter {
	all := map[string]Parameter{}
	for name, value := range defaults[module] {
		all[name] = Parameter{Value: value}
	}
	maps.Copy(all, parameters)
	return all
}

// loadSoft loads modules that another one works better with. It works without
// them, so that what cannot be loaded is passed over, as modprobe(8) does.
func (s *System) loadSoft(t *tree, wanted []string, begun map[string]bool) {
	for _, alias := range wanted {
		for _, name := range t.resolve(alias) {
			if !begun[name] {
				begun[name] = true
				_ = s.loadOne(t, name, nil, begun)
			}
		}
	}
}

// insert hands a module's file to the kernel: as it is where the kernel can
// decompress it, otherwise decompressed here.
func insert(path, parameters string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(path, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	err = unix.FinitModule(int(f.Fd()), parameters, flags)
	if flags != 0 && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)) {
		// Built without CONFIG_MODULE_DECOMPRESS or for another format, or older
		// than Linux 5.17, which does not know the flag.
		var image []byte
		if image, err = readModule(path); err != nil {
			return err
		}
		err = unix.InitModule(image, parameters)
	}
	if errors.Is(err, unix.EEXIST) {
		return nil // somebody else was faster
	}
	return err
}

func insertHint(err error) string {
	switch {
	case errors.Is(err, unix.ENOSYS):
		return "; this kernel was built without loadable modules (CONFIG_MODULES): it must have the module built in"
	case errors.Is(err, unix.EPERM):
		return "; this needs root outside of a container, and kernel.modules_disabled must be 0"
	case errors.Is(err, unix.EKEYREJECTED), errors.Is(err, unix.ENOKEY):
		return "; the kernel wants modules signed with a key that it knows (secure boot)"
	case errors.Is(err, unix.ENOEXEC):
		return "; the file was built for another kernel"
	case errors.Is(err, unix.ENOENT):
		return "; a symbol that it needs is missing (see the kernel's log): run depmod"
	}
	return ""
}

// readModule returns a module's ELF image, decompressed by the file's name.
func readModule(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	switch filepath.Ext(path) {
	case ".gz":
		r, err = gzip.NewReader(f)
	case ".xz":
		r, err = xz.NewReader(f)
	case ".zst":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(f, zstd.WithDecoderConcurrency(1)); err == nil {
			defer d.Close()
			r = d
		}
	}
	if err != nil {
		return nil, fmt.Errorf("decompress %q: %w", path, err)
	}
	image, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("decompress %q: %w", path, err)
	}
	return image, nil
}

// knowsParameter tells whether a module takes a parameter, by the list in its
// file or, of a built-in one, in modules.builtin.modinfo. Without a module
// folder nothing is known, which is no error: the kernel shows what it has.
func (s *System) knowsParameter(module, parameter string) (bool, error) {
	t, err := s.modules()
	if err != nil {
		return false, nil
	}
	if file, ok := t.files[module]; ok {
		image, err := readModule(filepath.Join(t.dir, file.path))
		if err != nil {
			return false, err
		}
		info, err := modinfo(image)
		if err != nil {
			return false, fmt.Errorf("read module file %q: %w", file.path, err)
		}
		return slices.Contains(parameterNames(info, ""), parameter), nil
	}
	info, err := os.ReadFile(filepath.Join(t.dir, "modules.builtin.modinfo"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return slices.Contains(parameterNames(info, module+"."), parameter), nil
}

// modinfo returns the .modinfo section of a module's ELF image: strings
// key=value, each with a NUL at its end.
func modinfo(image []byte) ([]byte, error) {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("it has no .modinfo section")
	}
	return section.Data()
}

// parameterNames returns the parameters that a .modinfo lists as
// "parmtype=name:type" (every one) or "parm=name:description"; each key has the
// prefix in front, which modules.builtin.modinfo uses for the module.
func parameterNames(info []byte, prefix string) []string {
	names := map[string]bool{}
	for entry := range strings.SplitSeq(string(info), "\x00") {
		key, value, _ := strings.Cut(entry, "=")
		if key == prefix+"parm" || key == prefix+"parmtype" {
			name, _, _ := strings.Cut(value, ":")
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}
