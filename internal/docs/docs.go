// Package docs makes what people and editors read from its sources: what
// package hosts knows of every key of a fleet's files, the command line's own
// help texts, and the prose in this folder.
//
// What is committed (docs/spec.md, docs/cli.md, docs/schema) is held to its
// sources by a test; manual pages are made for packages. Nothing of this is
// part of the shipped program.
package docs

import (
	"maps"
	"path"

	"github.com/spf13/cobra"

	"github.com/nodeagent/nodeagent/hosts"
)

// Files returns what is committed, by its path in the repository.
func Files(root *cobra.Command) (map[string][]byte, error) {
	spec, err := Spec()
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{
		"docs/spec.md": spec,
		"docs/cli.md":  CLI(root),
	}
	schemas, err := Schemas()
	if err != nil {
		return nil, err
	}
	for name, content := range schemas {
		files[path.Join("docs/schema", name)] = content
	}
	return files, nil
}

// Pages returns the manual pages by file name: one for each command, and
// nodeagent-spec(5) for the fleet's files.
func Pages(root *cobra.Command, e Edition) (map[string][]byte, error) {
	pages, err := commandPages(root, e)
	if err != nil {
		return nil, err
	}
	spec, err := specPage(e)
	if err != nil {
		return nil, err
	}
	maps.Copy(pages, map[string][]byte{"nodeagent-spec.5": spec})
	return pages, nil
}

// isTable tells of keys whose example is a text with a header of its own.
func isTable(k *hosts.Key) bool {
	return k.Form != hosts.FormValue && (k.Form != hosts.FormList || k.Each.Form != hosts.FormValue)
}
