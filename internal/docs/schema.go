package docs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/nodeagent/nodeagent/hosts"
)

// member is one pair of a JSON object whose order is kept.
type member struct {
	name  string
	value any
}

type object []member

// MarshalJSON writes the members in their order.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := plainJSON(m.name)
		if err != nil {
			return nil, err
		}
		value, err := plainJSON(m.value)
		if err != nil {
			return nil, fmt.Errorf("write %q: %w", m.name, err)
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// plainJSON leaves <, > and & as they are, which people read better.
func plainJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSpace(b.Bytes()), err
}

// Schemas makes a JSON Schema for cluster.toml and one for the hosts' files, by
// file name. They are of draft 7, the newest that taplo takes without
// misunderstandings, and have no references but one, next to which it would
// overlook what it shows.
//
// What they refuse the loader refuses as well. It refuses more: what lies beyond
// one value, and what takes both files to see.
func Schemas() (map[string][]byte, error) {
	schemas := map[string][]byte{}
	for file, title := range map[string]string{"cluster": "cluster.toml of a nodeagent fleet", "host": "A host's file of a nodeagent fleet"} {
		root := table(hosts.Reference(), file, false)
		root = append(object{
			{"$schema", "http://json-schema.org/draft-07/schema#"},
			{"$comment", "Made by make docs; do not edit."},
			{"title", title},
		}, root...)
		root = append(root, member{"required", []string{file}}, member{"definitions", object{{"dotted", dotted()}}})
		text, err := plainJSON(root)
		if err != nil {
			return nil, fmt.Errorf("write the schema of the %s's file: %w", file, err)
		}
		var b bytes.Buffer
		if err := json.Indent(&b, text, "", " "); err != nil {
			return nil, fmt.Errorf("indent the schema of the %s's file: %w", file, err)
		}
		b.WriteByte('\n')
		schemas[file+".schema.json"] = b.Bytes()
	}
	return schemas, nil
}

// schema is what a key takes in a file. whole says that all of the table that it
// stands in is in one file, so that what is required must be there.
func schema(k *hosts.Key, file string, whole bool) object {
	whole = whole || k.File != "any"
	o := about(k)
	switch k.Form {
	case hosts.FormValue:
		return append(o, value(k)...)
	case hosts.FormFree:
		return append(o, member{"type", "object"})
	case hosts.FormList:
		return append(o, member{"type", "array"}, member{"items", schema(k.Each, file, true)})
	case hosts.FormNamed:
		return append(o, names(k, file, whole)...)
	}
	return append(o, table(k.Keys, file, whole)...)
}

// about is what an editor shows of a key.
func about(k *hosts.Key) object {
	if k.Meaning == "" {
		return nil
	}
	description := k.Meaning
	if u := k.WhenUnset(); u == "required" {
		description += "\n\nRequired."
	} else if u != "" {
		description += "\n\nDefault: " + u
	}
	description += "\n\nType: " + k.Type() + ". Since " + k.Since + "."
	if isTable(k) {
		description += "\n\n```toml\n" + k.Snippet() + "```"
	}
	o := object{{"description", description}}
	if k.Default != nil {
		o = append(o, member{"default", k.Default})
	}
	if !isTable(k) {
		o = append(o, member{"examples", []any{k.Example}})
	}
	return o
}

func value(k *hosts.Key) object {
	switch {
	case k.TOML == "scalar":
		// "string, number or boolean"; that a boolean has to be false the loader says.
		types := strings.FieldsFunc(strings.NewReplacer(" or ", ",", "false", "boolean").Replace(k.Shape), func(r rune) bool { return r == ',' || r == ' ' })
		return object{{"type", types}}
	case k.TOML == "integer":
		return object{{"type", "integer"}, {"minimum", k.Lowest}, {"maximum", k.Highest}}
	case len(k.Words) > 0:
		return object{{"type", k.TOML}, {"enum", k.Words}}
	case k.Pattern != "":
		return object{{"type", k.TOML}, {"pattern", k.Pattern}}
	case k.TOML == "string":
		return object{{"type", k.TOML}, {"minLength", 1}}
	}
	return object{{"type", k.TOML}}
}

func names(k *hosts.Key, file string, whole bool) object {
	o := object{{"type", "object"}}
	each := schema(k.Each, file, whole)
	switch {
	case k.Dotted:
		return append(o, member{"additionalProperties", object{{"$ref", "#/definitions/dotted"}}})
	case len(k.NameWords) > 0:
		var properties object
		for _, name := range k.NameWords {
			properties = append(properties, member{name, each})
		}
		return append(o, member{"properties", properties}, member{"additionalProperties", false})
	case k.NamePattern != "":
		o = append(o, member{"propertyNames", object{{"pattern", k.NamePattern}}})
	}
	return append(o, member{"additionalProperties", each})
}

// dotted is a sysctl, or a table of some: TOML reads net.core.somaxconn as
// three tables.
func dotted() object {
	leaf := hosts.Lookup("kernel.sysctl.NAME")
	return object{{"anyOf", []object{
		append(about(leaf), value(leaf)...),
		{{"type", "object"}, {"additionalProperties", object{{"$ref", "#/definitions/dotted"}}}},
	}}}
}

func table(keys []*hosts.Key, file string, whole bool) object {
	var properties object
	var required []string
	for _, k := range keys {
		if k.File != "any" && k.File != file {
			continue
		}
		name := k.Name()
		properties = append(properties, member{name, schema(k, file, whole)})
		if k.Required {
			required = append(required, name)
		}
	}
	o := object{{"type", "object"}, {"properties", properties}, {"additionalProperties", false}}
	switch {
	case len(required) > 0 && whole:
		o = append(o, member{"required", required})
	case len(required) > 0:
		// The other file may have them: an editor proposes them, no more.
		o = append(o, member{"x-taplo", object{{"initKeys", required}}})
	}
	return o
}
