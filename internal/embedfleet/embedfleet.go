// Package embedfleet has the fleet that was built into the program, for rescue
// media and hosts without a file of their own. To build one in, copy the fleet's
// TOML files into the folder "fleet" beside this file and build with the tag
// embedfleet; `make single FLEET=…` does both.
//
// What is built in can be read by whoever has the program; a fleet holds no
// secrets, and the loader refuses one that does.
package embedfleet

import "io/fs"

// FS has the fleet's files, nil where none was built in.
func FS() fs.FS { return files }
