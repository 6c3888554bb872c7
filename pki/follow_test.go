package pki

import (
	"fmt"
	"testing"
	"time"
)

// TestFollowIsSpread: a thousand hosts that start at the same moment look
// evenly over the time, from the first minutes on, and also while a CA is being
// changed.
func TestFollowIsSpread(t *testing.T) {
	for _, changing := range []bool{false, true} {
		const hosts, part = 1000, 10 * time.Second
		var counts [90]int
		for i := range hosts {
			f := Follow{Host: fmt.Sprintf("worker-%d", i), Of: hosts}
			for at := f.First(); at < time.Duration(len(counts))*part; at += f.Next(changing) {
				counts[at/part]++
			}
		}
		whole := counts[1:] // the first begins with followSoon
		sum := 0
		for _, count := range whole {
			sum += count
		}
		for i, count := range whole {
			if count*len(whole) > 2*sum {
				t.Errorf("changing %t: %d looks in part %d, the mean is %d: %v", changing, count, i+1, sum/len(whole), counts)
				break
			}
		}
	}
}

// TestFollowOfFewHosts: a small fleet waits for nobody.
func TestFollowOfFewHosts(t *testing.T) {
	f := Follow{Host: "n1", Of: 3}
	if first := f.First(); first < followSoon || first > followSoon+time.Second {
		t.Errorf("first look after %s", first)
	}
	if soon, later := f.Next(true), f.Next(false); soon != followSoon || later < followEvery || later > followEvery*5/4 {
		t.Errorf("next look after %s and %s", soon, later)
	}
}
