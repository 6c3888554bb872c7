package plan

import (
	"encoding/json"
	"io"
)

// WriteJSON prints the plan as one JSON object with the stable key "changes",
// a list (never null) of objects with the keys domain, key, action, effect,
// reason, before and after.
func WriteJSON(w io.Writer, p Plan) error {
	if p.Changes == nil {
		p.Changes = []Change{}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(p)
}
