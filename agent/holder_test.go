package agent

import "testing"

func TestHoldingNext(t *testing.T) {
	for _, c := range []struct {
		name string
		have holding
		want step
	}{
		{"nobody holds it", holding{known: true, up: true}, stepClaim},
		{"nobody holds it and the link is down", holding{known: true}, stepWait},
		{"the claim lapsed while the address stayed", holding{known: true, here: true, up: true}, stepClaim},
		{"this host holds it", holding{known: true, holder: "a", here: true, up: true}, stepRenew},
		{"this host holds the claim of its life before", holding{known: true, holder: "a", up: true}, stepRenew},
		{"the cable of the holder is pulled", holding{known: true, holder: "a", here: true}, stepGive},
		{"the holder's link is gone", holding{known: true, holder: "a"}, stepGive},
		{"another host holds it", holding{known: true, holder: "b", up: true}, stepWait},
		{"another host has taken it meanwhile", holding{known: true, holder: "b", here: true, up: true}, stepGive},
		{"no quorum, the holder", holding{here: true, up: true}, stepKeep},
		{"no quorum, cut off from the new holder's etcd but not from its link", holding{here: true, up: true, rival: "02:00:00:00:00:02"}, stepGive},
		{"no quorum, the link is down", holding{here: true}, stepGive},
		{"the link cannot be read", holding{known: true, blind: true}, stepWait},
		{"the link of the holder cannot be read", holding{known: true, holder: "a", blind: true}, stepWait},
		{"no quorum, another host", holding{up: true}, stepWait},
	} {
		c.have.self = "a"
		if got, reason := c.have.next(); got != c.want || reason == "" {
			t.Errorf("%s: %q (%s), want %q", c.name, got, reason, c.want)
		}
	}
}
