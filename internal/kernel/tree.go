package kernel

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// tree is what a kernel release's module folder says of its modules, in the
// files that depmod(8) writes. It is read only when a module is not seen to be
// in the kernel already.
type tree struct {
	dir     string
	files   map[string]moduleFile // by name
	aliases map[string][]string   // exact aliases only, patterns are for devices
	soft    map[string]softNeeds  // by name
}

// softNeeds are the modules, or aliases, that a module works better with: such
// as the cipher that it asks the kernel for by name.
type softNeeds struct{ before, after []string }

// moduleFile is one line of modules.dep: a module's file and those of the
// modules that it needs, the nearest first, all relative to the folder.
type moduleFile struct {
	path  string
	needs []string
}

// openTree reads modules.dep, modules.alias and modules.softdep of the folder.
func openTree(dir string) (*tree, error) {
	t := &tree{dir: dir}
	content, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("read the list of modules: %w", err)
	}
	t.files = parseDep(string(content))
	content, err = os.ReadFile(filepath.Join(dir, "modules.alias"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the aliases of modules: %w", err)
	}
	t.aliases = parseAlias(string(content))
	content, err = os.ReadFile(filepath.Join(dir, "modules.softdep"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the soft dependencies of modules: %w", err)
	}
	t.soft = parseSoft(string(content))
	return t, nil
}

// parseSoft reads modules.softdep: lines "softdep <module> pre: <modules> post:
// <modules>". Words before both say nothing (kmod passes over them, too).
func parseSoft(content string) map[string]softNeeds {
	soft := map[string]softNeeds{}
	for line := range strings.Lines(content) {
		words := strings.Fields(line)
		if len(words) < 3 || words[0] != "softdep" {
			continue
		}
		name := strings.ReplaceAll(words[1], "-", "_")
		needs, to := soft[name], (*[]string)(nil)
		for _, word := range words[2:] {
			switch {
			case word == "pre:":
				to = &needs.before
			case word == "post:":
				to = &needs.after
			case to != nil:
				*to = append(*to, strings.Clone(strings.ReplaceAll(word, "-", "_")))
			}
		}
		soft[strings.Clone(name)] = needs
	}
	return soft
}

// parseDep reads modules.dep.
func parseDep(content string) map[string]moduleFile {
	files := map[string]moduleFile{}
	for line := range strings.Lines(content) {
		path, needs, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		files[fileModule(path)] = moduleFile{path: path, needs: strings.Fields(needs)}
	}
	return files
}

// parseAlias reads modules.alias: lines "alias <name or pattern> <module>".
func parseAlias(content string) map[string][]string {
	aliases := map[string][]string{}
	for line := range strings.Lines(content) {
		words := strings.Fields(line)
		if len(words) != 3 || words[0] != "alias" || strings.ContainsAny(words[1], "*?[") {
			continue
		}
		// Cloned, so that the few names kept do not hold the whole file in memory.
		alias := strings.Clone(strings.ReplaceAll(words[1], "-", "_"))
		aliases[alias] = append(aliases[alias], strings.Clone(strings.ReplaceAll(words[2], "-", "_")))
	}
	return aliases
}

// fileModule returns the name of the module in a file: the file's name up to
// ".ko", with underscores.
func fileModule(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// resolve returns the modules behind a name: itself, or those that it is an
// alias of; none where the folder does not know the name.
func (t *tree) resolve(name string) []string {
	if _, ok := t.files[name]; ok {
		return []string{name}
	}
	return t.aliases[name]
}

// loadOrder returns the files to load for a module, each after those that it
// needs and the module itself last. It is false where there is no such module.
//
// modules.dep lists all needs, indirect ones too, such that loading from the
// last to the first works (depmod's own order); each one's own line is followed
// nevertheless, since lists made by other tools name the direct needs only.
func (t *tree) loadOrder(name string) ([]string, bool) {
	file, ok := t.files[name]
	if !ok {
		return nil, false
	}
	var order []string
	seen := map[string]bool{}
	var visit func(moduleFile)
	visit = func(f moduleFile) {
		if seen[f.path] {
			return
		}
		seen[f.path] = true
		for i := len(f.needs) - 1; i >= 0; i-- {
			need, ok := t.files[fileModule(f.needs[i])]
			if !ok {
				need = moduleFile{path: f.needs[i]}
			}
			visit(need)
		}
		order = append(order, f.path)
	}
	visit(file)
	return order, true
}

// scanModules returns the module names of modules.builtin: one file a line.
func scanModules(path string) (map[string]bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names := map[string]bool{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		names[fileModule(lines.Text())] = true
	}
	return names, lines.Err()
}
