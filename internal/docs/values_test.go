package docs

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/nodeagent/nodeagent/hosts"
)

// Each example and each default of a value is what the schema takes there.
func TestSchemasTakeExamplesAndDefaults(t *testing.T) {
	for k := range hosts.AllKeys() {
		if isTable(k) {
			continue
		}
		file := k.File
		if file == "any" {
			file = "host"
		}
		text, err := json.Marshal(schema(k, file, false))
		if err != nil {
			t.Fatal(err)
		}
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		c := jsonschema.NewCompiler()
		if err := c.AddResource("key.json", document); err != nil {
			t.Fatal(err)
		}
		compiled, err := c.Compile("key.json")
		if err != nil {
			t.Fatalf("%s: %v", k.Path, err)
		}
		for what, value := range map[string]any{"example": k.Example, "default": k.Default} {
			if value == nil {
				continue
			}
			if err := compiled.Validate(value); err != nil {
				t.Errorf("%s of %s: %v", what, k.Path, err)
			}
		}
		if k.Pattern != "" && compiled.Validate(" / * ") == nil {
			t.Errorf("the pattern of %s takes anything", k.Path)
		}
	}
}
