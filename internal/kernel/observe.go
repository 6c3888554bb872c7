package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Observe returns the modules and sysctls that want names as they are. It
// writes nothing. Where part of it fails it returns the rest together with an
// error that names the part.
func Observe(ctx context.Context, sys *System, want State) (State, error) {
	var have State
	var failed []error
	for _, m := range want.Modules {
		module, err := sys.observeModule(m)
		if err != nil {
			failed = append(failed, err)
		}
		have.Modules = append(have.Modules, module)
	}
	for _, s := range want.Sysctls {
		if err := ctx.Err(); err != nil {
			return have, err
		}
		value, exists, err := sys.readSysctl(s.Name)
		if err != nil {
			failed = append(failed, err)
			// As if it had the wanted value: what cannot be read cannot be
			// compared, and the error says so.
			value, exists = s.Value, true
		}
		have.Sysctls = append(have.Sysctls, Sysctl{Name: s.Name, Value: value, Exists: exists})
	}
	return have, errors.Join(failed...)
}

func (s *System) observeModule(want Module) (Module, error) {
	have := Module{Name: want.Name, Presence: s.presence(want.Name), Parameters: map[string]Parameter{}}
	names := []string{want.Name}
	if have.Presence == Absent {
		if names = s.aliasOf(want.Name); len(names) == 0 {
			return have, nil
		}
		have.Presence = Loaded
		for _, name := range names {
			if s.presence(name) == Absent {
				have.Presence = Absent
				return have, nil
			}
		}
	}
	var failed []error
	for parameter := range want.Parameters {
		value, err := s.observeParameter(names[0], parameter)
		if err != nil {
			failed = append(failed, err)
			value = want.Parameters[parameter]
		}
		have.Parameters[parameter] = value
	}
	return have, errors.Join(failed...)
}

// presence tells how the module of this very name is in the kernel.
func (s *System) presence(name string) Presence {
	state, err := os.ReadFile(filepath.Join(s.Sys, "module", name, "initstate"))
	switch {
	case err == nil && strings.TrimSpace(string(state)) == "live":
		return Loaded
	case err == nil: // coming or going
		return Absent
	case s.isBuiltIn(name):
		return BuiltIn
	}
	return Absent
}

// aliasOf returns the modules that a name is an alias of; none where it is a
// module's own name or nothing is known of it.
func (s *System) aliasOf(name string) []string {
	t, err := s.modules()
	if err != nil {
		return nil // loading says why
	}
	if _, ok := t.files[name]; ok {
		return nil
	}
	return t.aliases[name]
}

func (s *System) observeParameter(module, name string) (Parameter, error) {
	path := filepath.Join(s.Sys, "module", module, "parameters", name)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		known, err := s.knowsParameter(module, name)
		if err != nil {
			return Parameter{}, fmt.Errorf("look for parameter %q of module %q: %w", name, module, err)
		}
		return Parameter{Hidden: known, Unknown: !known}, nil
	}
	if err != nil {
		return Parameter{}, fmt.Errorf("read parameter %q of module %q: %w", name, module, err)
	}
	if info.Mode().Perm()&0o444 == 0 { // a write-only trigger
		return Parameter{Hidden: true, Writable: true}, nil
	}
	value, err := os.ReadFile(path)
	if err != nil {
		return Parameter{}, fmt.Errorf("read parameter %q of module %q: %w", name, module, err)
	}
	return Parameter{Value: strings.TrimSpace(string(value)), Writable: info.Mode().Perm()&0o200 != 0}, nil
}

// sysctlPath returns the file of a canonical name.
func (s *System) sysctlPath(name string) (string, error) {
	parts, err := sysctlParts(name)
	if err != nil {
		return "", err
	}
	return filepath.Join(append([]string{s.Proc, "sys"}, parts...)...), nil
}

// readSysctl returns a sysctl's value without the newline at its end, and
// whether the kernel has the key.
func (s *System) readSysctl(name string) (value string, exists bool, err error) {
	path, err := s.sysctlPath(name)
	if err != nil {
		return "", false, err
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || isNotDir(err) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("read sysctl %q: %w", name, err)
	}
	if info.IsDir() {
		return "", false, fmt.Errorf("read sysctl %q: it is a folder of sysctls, not one", name)
	}
	if info.Mode().Perm()&0o444 == 0 {
		return "", false, fmt.Errorf("read sysctl %q: it is a trigger that can only be written, it has no value to keep", name)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return "", false, fmt.Errorf("read sysctl %q: %w", name, err)
	}
	return strings.TrimRight(string(content), "\n"), true, nil
}
