package hosts

import (
	"iter"
	"slices"
	"strings"
	"sync"
)

// Form is how a key of the fleet's files is laid out.
type Form string

// The forms.
const (
	FormValue Form = "value" // one value: see Key.TOML and Key.Shape
	FormTable Form = "table" // a table with Key.Keys
	FormNamed Form = "named" // a table whose keys are names; each is as Key.Each
	FormList  Form = "list"  // a list; each element is as Key.Each
	FormFree  Form = "free"  // a table with anything in it
)

// Key is one place in the fleet's files: what the schema takes there, and what
// hosts/reference says of it. It is the one source of docs/spec.md, the JSON
// Schemas, the manual pages, `nodeagent explain` and the NixOS options.
type Key struct {
	// Path is dotted: "network.link.NAME.mtu". NAME stands for a name that people
	// choose. What a list consists of has the path of the list.
	Path string
	Form Form
	// File is the file that may hold the key: "cluster", "host" or "any".
	File string

	// Each is what the names of a named table, or the elements of a list, hold;
	// Keys are those of a table, in the order of the reference.
	Each *Key
	Keys []*Key

	// Of a value: TOML is "string", "integer", "boolean", or "scalar" for any of
	// these. Shape is what the reference calls it, "duration". Words are all that
	// a word may be. An integer lies from Lowest to Highest. Every string that is
	// taken matches Pattern, where there is one, a regular expression that Go and
	// ECMA-262 read alike; others may match it, too.
	TOML            string
	Shape           string
	Words           []string
	Lowest, Highest int64
	Pattern         string

	// Of the names in a named table, the same. Dotted names may also be written
	// as nested tables.
	NameShape   string
	NameWords   []string
	NamePattern string
	Dotted      bool

	// Doc is what people are told. What has no row of its own in the reference,
	// as network.link.NAME, has an empty one.
	Doc
}

// Doc is what hosts/reference says of a key.
type Doc struct {
	// Required keys have to be there as soon as their table is.
	Required bool `toml:"required"`
	// Default is what the key is where no file says it: a string, an int64, a
	// bool or an empty []any. It is nil where there is nothing that a file could
	// say instead; Unset tells in words, as Markdown, and may be empty.
	Default any    `toml:"default"`
	Unset   string `toml:"unset"`
	// Meaning is one sentence or a few, as Markdown, without a final full stop.
	Meaning string `toml:"meaning"`
	// Example is a value; of a table or a list of tables it is a text in TOML.
	Example any `toml:"example"`
	// Names are what Example has for NAME, here and below.
	Names []string `toml:"names"`
	// Since is the first release that has the key.
	Since string `toml:"since"`
}

// Reference returns the top tables of a fleet's files with all that is below,
// in the order of the reference. Callers must not change it.
func Reference() []*Key { return reference().Keys }

// AllKeys goes through every key that has a row in the reference, each table
// before what is in it.
func AllKeys() iter.Seq[*Key] {
	return func(yield func(*Key) bool) {
		reference().walk(func(k *Key) bool { return k.Meaning == "" || yield(k) })
	}
}

// Lookup returns the key at a path, in which a chosen name may stand for NAME:
// "network.link.eth0.mtu". Nil where there is none.
func Lookup(path string) *Key {
	k := reference()
	for part := range strings.SplitSeq(path, ".") {
		if k.Dotted {
			return k.Each
		}
		if k = k.child(part); k == nil {
			return nil
		}
	}
	return k
}

// child is the key below another one, NAME or a chosen name in a named table.
func (k *Key) child(name string) *Key {
	switch k.Form {
	case FormNamed:
		return k.Each
	case FormList:
		return k.Each.child(name)
	}
	if i := slices.IndexFunc(k.Keys, func(c *Key) bool { return c.Name() == name }); i >= 0 {
		return k.Keys[i]
	}
	return nil
}

// Children are the keys that are written below this one, past NAME and the
// elements of lists.
func (k *Key) Children() []*Key {
	for k.Each != nil && k.Each.Meaning == "" {
		k = k.Each
	}
	if k.Each != nil {
		return []*Key{k.Each}
	}
	return k.Keys
}

// walk goes on while yield wants more.
func (k *Key) walk(yield func(*Key) bool) bool {
	if k.Path != "" && !yield(k) {
		return false
	}
	if k.Each != nil && !k.Each.walk(yield) {
		return false
	}
	for _, child := range k.Keys {
		if !child.walk(yield) {
			return false
		}
	}
	return true
}

var reference = sync.OnceValue(func() *Key {
	docs, order := readDocs()
	return describe("", schema(), anyFile, docs, order)
})

// describe makes keys of rules, and adds what the reference says of them.
func describe(path string, r *rule, only scope, docs map[string]Doc, order map[string]int) *Key {
	if r.only != anyFile {
		only = r.only
	}
	k := &Key{Path: path, File: [...]string{"any", "cluster", "host"}[only], Doc: docs[path]}
	switch r.form {
	case formLeaf:
		k.Form, k.TOML, k.Shape, k.Words = FormValue, r.leaf.kind, r.leaf.shape, r.leaf.words
		k.Lowest, k.Highest = r.leaf.bounds.lowest, r.leaf.bounds.highest
		k.Pattern = patterns[r.leaf.shape]
	case formFree:
		k.Form = FormFree
	case formList:
		k.Form = FormList
		k.Each = describe(path, r.each, only, docs, order)
		k.Each.Doc = Doc{} // what is said is said of the list
	case formNamed, formFlat:
		k.Form, k.Dotted = FormNamed, r.form == formFlat
		k.NameShape, k.NameWords, k.NamePattern = r.name.shape, r.name.words, patterns[r.name.shape]
		k.Each = describe(path+".NAME", r.each, only, docs, order)
	case formTable:
		k.Form = FormTable
		for key, child := range r.keys {
			k.Keys = append(k.Keys, describe(strings.TrimPrefix(path+"."+key, "."), child, only, docs, order))
		}
		slices.SortFunc(k.Keys, func(a, b *Key) int { return order[a.Path] - order[b.Path] })
	}
	return k
}

// Type is what the reference calls the type: "list of address".
func (k *Key) Type() string {
	switch {
	case k.Form == FormValue:
		return k.Shape
	case k.Form == FormFree:
		return "free-form table"
	case k.Form == FormList && k.Each.Form == FormValue:
		return "list of " + k.Each.Shape
	case k.Form == FormList:
		return "list of tables"
	}
	return "table"
}

// Sentence is the meaning with a capital letter, unless it begins with a mark, and
// a full stop. It is empty where nothing is said of the key.
func (k *Key) Sentence() string {
	if k.Meaning == "" {
		return ""
	}
	return strings.ToUpper(k.Meaning[:1]) + k.Meaning[1:] + "."
}

// WhenUnset is what holds where no file has the key, as Markdown: Unset, or the
// default. It is empty for most tables.
func (k *Key) WhenUnset() string {
	if k.Unset == "" && k.Default != nil {
		return "`" + TOML(k.Default) + "`"
	}
	return k.Unset
}
