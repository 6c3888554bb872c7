package hosts

import (
	"fmt"
	"strconv"
	"strings"
)

// TOML writes a value as the fleet's files have it: a string, an int64, a bool
// or a list of these.
func TOML(value any) string {
	switch v := value.(type) {
	case string:
		return strconv.Quote(v)
	case []any:
		items := make([]string, len(v))
		for i, item := range v {
			items[i] = TOML(item)
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	return fmt.Sprint(value)
}

// Snippet is the example as it would stand in a file, with its headers.
func (k *Key) Snippet() string {
	if text, ok := k.Example.(string); ok && k.Form != FormValue {
		return strings.TrimSpace(text) + "\n"
	}
	headers, name := k.place()
	return strings.Join(append(headers, name+" = "+TOML(k.Example)), "\n") + "\n"
}

// place is the headers below which the key stands, "[network.link.eth0]", and
// its name there, with the example's names. A list of tables within one of
// another takes the header of both.
func (k *Key) place() (headers []string, name string) {
	parts := k.named()
	at := reference()
	for i, part := range strings.Split(k.Path, ".") {
		header := strings.Join(parts[:i], ".")
		switch {
		case i == 0:
		case at.Form == FormList:
			headers = append(headers, "[["+header+"]]")
		case i == len(parts)-1:
			headers = append(headers, "["+header+"]")
		}
		at = at.child(part)
	}
	return headers, parts[len(parts)-1]
}

// named is the path in parts, with the example's names for NAME.
func (k *Key) named() []string {
	parts := strings.Split(k.Path, ".")
	var names []string
	at, dotted := reference(), false
	for _, part := range parts {
		dotted = at.Dotted
		if at = at.child(part); len(at.Names) > 0 {
			names = at.Names
		}
	}
	for i, part := range parts {
		if part == "NAME" && len(names) > 0 {
			parts[i], names = tomlKey(names[0], dotted), names[1:]
		}
	}
	return parts
}

func tomlKey(name string, dotted bool) string {
	if isBareKey(name) || dotted {
		return name
	}
	return strconv.Quote(name)
}
