package kube

import (
	"maps"
	"slices"
	"strings"
)

// option is one command line flag: "--name=value".
type option struct{ name, value string }

type flags []option

// with returns the flags with extra ones put over them: a name that is already
// there takes the new value in its place, others follow sorted by name.
func (f flags) with(extra map[string]string) flags {
	merged := slices.Clone(f)
	for _, name := range slices.Sorted(maps.Keys(extra)) {
		set := option{name: name, value: extra[name]}
		at := slices.IndexFunc(merged, func(have option) bool { return have.name == name })
		if at >= 0 {
			merged[at] = set
			continue
		}
		merged = append(merged, set)
	}
	return merged
}

// value returns the value of a flag, empty where it is not among them.
func (f flags) value(name string) string {
	for _, o := range f {
		if o.name == name {
			return o.value
		}
	}
	return ""
}

// args returns the flags as a process gets them.
func (f flags) args() []string {
	args := make([]string, len(f))
	for i, o := range f {
		args[i] = "--" + o.name + "=" + o.value
	}
	return args
}

// plainCharacters need no quoting in a unit file.
const plainCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@+=:,./_-*"

// specifiers doubles what systemd would otherwise expand in any setting.
var specifiers = strings.NewReplacer("%", "%%")

// arguments doubles what systemd would otherwise expand in a command line.
var arguments = strings.NewReplacer("%", "%%", "$", "$$")

var escapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "\r", `\r`)

// quote writes one word of a unit file's setting as systemd.syntax(7) and
// systemd.service(5), "Command lines", have it.
func quote(word string, expand *strings.Replacer) string {
	if word != "" && strings.Trim(word, plainCharacters) == "" {
		return word
	}
	return `"` + expand.Replace(escapes.Replace(word)) + `"`
}
