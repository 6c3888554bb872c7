package agent

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// residentFile is how much of mapped files this process has resident, in KiB.
func residentFile(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "RssFile:"); ok {
			n, err := strconv.Atoi(strings.Fields(value)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no RssFile in /proc/self/status")
	return 0
}

func TestReleaseUnmapsTextAndTheProgramGoesOn(t *testing.T) {
	text, err := textMappings()
	if err != nil || len(text) == 0 {
		t.Fatalf("text mappings %v, %v", text, err)
	}
	before := residentFile(t)
	for range 3 {
		if err := release(); err != nil {
			t.Fatal(err)
		}
	}
	if after := residentFile(t); after >= before {
		t.Errorf("%d KiB of files resident, %d before", after, before)
	}
}
