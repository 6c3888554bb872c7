//go:build !embedfleet

package embedfleet

import "io/fs"

var files fs.FS
