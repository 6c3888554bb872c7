//go:build embedfleet

package embedfleet

import (
	"embed"
	"io/fs"
)

//go:embed fleet/*.toml
var folder embed.FS

var files = within()

func within() fs.FS {
	sub, err := fs.Sub(folder, "fleet")
	if err != nil {
		panic(err) // the name is a constant
	}
	return sub
}
