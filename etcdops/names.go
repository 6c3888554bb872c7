package etcdops

import "path/filepath"

// Name is the name of the snapshot's file, as it is in every place that has it.
func (m Manifest) Name() string { return filepath.Base(m.Path("")) }

// ManifestName is the name of the manifest of the snapshot of a name.
func ManifestName(snapshot string) string { return manifestPath(snapshot) }

// IsSnapshotName tells whether a file of that name is a snapshot, as far as a
// name tells.
func IsSnapshotName(name string) bool {
	stem, ok := splitName(name)
	return ok && filepath.Base(stem) != "" && filepath.Base(stem) != "."
}

// IsManifestName tells the same of a manifest.
func IsManifestName(name string) bool { return filepath.Ext(name) == manifestSuffix }
