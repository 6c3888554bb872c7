package testing

import (
	"encoding/json"

	"github.com/BurntSushi/toml"
)

// decode reads TOML into plain maps and lists: a list of tables is the same
// however it was written.
func decode(text string) (any, error) {
	var tree map[string]any
	if _, err := toml.Decode(text, &tree); err != nil {
		return nil, err
	}
	content, err := json.Marshal(tree)
	if err != nil {
		return nil, err
	}
	var plain any
	return plain, json.Unmarshal(content, &plain)
}
