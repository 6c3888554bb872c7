package main

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// described is what git describe --tags --always --dirty tells: a tag, perhaps
// the number of commits since and the commit, or the commit alone.
var described = regexp.MustCompile(`^(?:v?(\d+\.\d+\.\d+)(?:-([0-9A-Za-z.]+))??(?:-(\d+)-g([0-9a-f]+))?|([0-9a-f]{7,40}))(-dirty)?$`)

// debianVersion is the version of the Debian package, which sorts as releases
// follow each other: a candidate before its release, what comes after a release
// before the next one, and a build without any tag before all.
func debianVersion(version string, built time.Time) (string, error) {
	m := described.FindStringSubmatch(version)
	if m == nil {
		return "", fmt.Errorf("version %q: it is neither a release (v1.2.3, v1.2.3-rc.1) nor what git describe tells of a commit", version)
	}
	release, candidate, ahead, since, commit, dirty := m[1], m[2], m[3], m[4], m[5], m[6]
	if commit != "" {
		release, candidate = "0", "git"+built.UTC().Format("20060102.150405")+".g"+commit
	}
	text := release
	if candidate != "" {
		text += "~" + candidate
	}
	if ahead != "" {
		text += "+" + ahead + ".g" + since
	}
	if dirty != "" {
		text += "+dirty"
	}
	return text, nil
}

// isRelease tells whether the version is a tag, and not a commit after one.
func isRelease(version string) bool {
	m := described.FindStringSubmatch(version)
	return m != nil && m[1] != "" && m[3] == "" && m[6] == ""
}

// plainVersion is a version without the v of its tag.
func plainVersion(version string) string { return strings.TrimPrefix(version, "v") }
