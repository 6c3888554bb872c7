package main

import (
	"os/exec"
	"testing"
	"time"
)

func TestDebianVersion(t *testing.T) {
	built := time.Date(2026, 11, 21, 23, 30, 5, 0, time.UTC)
	for version, want := range map[string]string{
		"v1.2.3":                  "1.2.3",
		"1.2.3":                   "1.2.3",
		"v1.2.3-rc.1":             "1.2.3~rc.1",
		"v1.2.3-5-gabcdef0":       "1.2.3+5.gabcdef0",
		"v1.2.3-rc.1-5-gabcdef0":  "1.2.3~rc.1+5.gabcdef0",
		"v1.2.3-dirty":            "1.2.3+dirty",
		"v1.2.3-5-gabcdef0-dirty": "1.2.3+5.gabcdef0+dirty",
		"8f841ca":                 "0~git20261121.233005.g8f841ca",
		"8f841ca-dirty":           "0~git20261121.233005.g8f841ca+dirty",
		"unknown":                 "",
		"":                        "",
		"v1.2":                    "",
		"v1.2.3; rm":              "",
		"v1.2.3/../../etc":        "",
	} {
		got, err := debianVersion(version, built)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("version %q is %q for Debian (%v), want %q", version, got, err, want)
		}
	}
}

// TestDebianVersionsSort: as Debian itself compares them.
func TestDebianVersionsSort(t *testing.T) {
	order := []string{"8f841ca", "v0.1.0-rc.1", "v0.1.0-rc.1-2-gabcdef0", "v0.1.0-rc.2", "v0.1.0", "v0.1.0-5-gabcdef0", "v0.1.0-12-gabcdef0", "v0.1.1-rc.1", "v0.1.1", "v0.2.0", "v0.10.0", "v1.0.0"}
	var before string
	for _, version := range order {
		now, err := debianVersion(version, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if before != "" {
			if err := exec.Command("dpkg", "--compare-versions", before, "lt", now).Run(); err != nil {
				t.Errorf("%s does not come before %s: %v", before, now, err)
			}
		}
		before = now
	}
}

func TestIsRelease(t *testing.T) {
	for version, want := range map[string]bool{
		"v1.2.3": true, "1.2.3": true, "v1.2.3-rc.1": true,
		"v1.2.3-5-gabcdef0": false, "v1.2.3-dirty": false, "8f841ca": false, "unknown": false,
	} {
		if got := isRelease(version); got != want {
			t.Errorf("isRelease(%q) = %t", version, got)
		}
	}
}
