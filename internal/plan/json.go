package plan

import (
	"encoding/json"
	"io"
)

// WriteJSON prints the plan as one JSON object with the stable keys "changes",
// a list (never null) of objects with the keys domain, key, action, effect,
// reason, before and after, and "warnings", a list (never null) of strings.
func WriteJSON(w io.Writer, p Plan) error {
	if p.Changes == nil {
		p.Changes = []Change{}
	}
	if p.Warnings == nil {
		p.Warnings = []string{}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(p)
}
