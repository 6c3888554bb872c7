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

// Only what is the file's alone is given back: of a position-independent or a
// dynamically linked program the loader has changed pages that are read-only.
func TestReadMappings(t *testing.T) {
	const smaps = `00400000-017ad000 r-xp 00000000 00:4f 12 /usr/local/bin/node agent
Size:              20148 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd ex mr mw me
017ad000-0332f000 r--p 013ad000 00:4f 12 /usr/local/bin/node agent
Anonymous:             8 kB
Swap:                  0 kB
0332f000-03330000 r--p 013ae000 00:4f 12 /usr/local/bin/node agent
Anonymous:             0 kB
Swap:                  4 kB
03330000-03331000 r--p 013af000 00:4f 12 /usr/local/bin/node agent
03331000-03399000 rw-p 02f2f000 00:4f 12 /usr/local/bin/node agent
Anonymous:             0 kB
Swap:                  0 kB
c000000000-c000400000 rw-p 00000000 00:00 0 
Anonymous:          4096 kB
Swap:                  0 kB
`
	mappings, err := readMappings(strings.NewReader(smaps))
	if err != nil || len(mappings) != 6 {
		t.Fatalf("%v, %v", mappings, err)
	}
	for i, m := range mappings {
		if first := i == 0; m.unchanged() != first {
			t.Errorf("mapping %d is given back: %t: %+v", i, !first, m)
		}
	}
	if m := mappings[0]; m.start != 0x400000 || m.end != 0x17ad000 || m.file != "/usr/local/bin/node agent" {
		t.Errorf("%+v", m)
	}
	for _, bad := range []string{"nonsense r-xp\n", "00400000-017ad000 r-xp 0 00:4f 12 /a\nAnonymous: much kB\n"} {
		if _, err := readMappings(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is read without an error", bad)
		}
	}
}

func TestReleaseUnmapsTheProgramAndItGoesOn(t *testing.T) {
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
