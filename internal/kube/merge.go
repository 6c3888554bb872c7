package kube

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"strconv"

	"github.com/BurntSushi/toml"
	"sigs.k8s.io/yaml"

	"github.com/nodeagent/nodeagent/internal/units"
)

// object is a configuration file as a tree of values, before it is written as
// YAML, JSON or TOML. No Kubernetes type is linked for it.
type object = map[string]any

// merge puts over on top of base and returns the result; neither is changed.
// Tables merge, everything else replaces.
func merge(base, over map[string]any) map[string]any {
	merged := maps.Clone(base)
	if merged == nil {
		merged = map[string]any{}
	}
	for key, value := range over {
		table, ok := value.(map[string]any)
		below, also := merged[key].(map[string]any)
		if ok && also {
			merged[key] = merge(below, table)
			continue
		}
		merged[key] = finite(value)
	}
	return merged
}

// finite writes TOML's inf and nan, for which YAML and JSON have no number, as
// text: the component then names the field and its wrong type.
func finite(value any) any {
	switch v := value.(type) {
	case float64:
		if math.IsInf(v, 0) || math.IsNaN(v) {
			return strconv.FormatFloat(v, 'g', -1, 64)
		}
	case []any:
		return mapped(v)
	case []map[string]any:
		tables := make([]any, len(v))
		for i, table := range v {
			tables[i] = table
		}
		return mapped(tables)
	case map[string]any:
		return merge(nil, v)
	}
	return value
}

func mapped(values []any) []any {
	finished := make([]any, len(values))
	for i, value := range values {
		finished[i] = finite(value)
	}
	return finished
}

// yamlFile writes a tree as YAML with the header. Keys are sorted.
func yamlFile(path string, mode fs.FileMode, tree map[string]any) units.File {
	body, err := yaml.Marshal(tree)
	if err != nil {
		panic(unwritable(path, err))
	}
	return units.File{Path: path, Mode: mode, Content: append([]byte(units.Header+"\n"), body...)}
}

// tomlFile writes a tree as TOML with the header. Keys are sorted.
func tomlFile(path string, mode fs.FileMode, tree map[string]any) units.File {
	var b bytes.Buffer
	b.WriteString(units.Header + "\n")
	encoder := toml.NewEncoder(&b)
	encoder.Indent = ""
	if err := encoder.Encode(tree); err != nil {
		panic(unwritable(path, err))
	}
	return units.File{Path: path, Mode: mode, Content: b.Bytes()}
}

// unwritable is a fault of this program: the trees are made here, and what is
// merged into them was read from TOML, all of whose values can be written.
func unwritable(path string, err error) error {
	return fmt.Errorf("write configuration %q: %w", path, err)
}
