package pki

import (
	"fmt"
	"time"
)

// Clock is what is known of the host's clock beside the time that it tells;
// observed only. The zero value knows nothing, and nothing waits for it.
type Clock struct {
	// Unsynchronised tells that the kernel takes the clock for unsynchronised: no
	// time service has set it since the boot, since a person did, or for hours.
	Unsynchronised bool
	// Vouched tells that a time service has set it since the boot, however long
	// ago.
	Vouched bool
	// Uptime is how long ago the host booted, by a clock that nobody sets, and
	// Stepped what it was when the clock was last seen to be set to another
	// time; 0 where it was not.
	Uptime, Stepped time.Duration
	// Built is when this program was made: no clock is right that is earlier.
	// The zero time where that is not known.
	Built time.Time
}

// How long issuing waits for a clock that nobody has synchronised, counted from
// the boot or from when it was last set. Hosts without a time server never get
// there, so it ends.
const (
	// wrongClockPatience is for a clock that is certainly wrong: what is issued
	// by it is of no use to others, or to this host later.
	wrongClockPatience = 5 * time.Minute
	// clockPatience is for one that may be right, while there is a pair to go
	// on with. A first installation does not wait.
	clockPatience = 2 * time.Minute
)

// wrong says why the clock is certainly wrong; "" where it may be right. newest
// is the latest beginning of what was issued to this host before.
func (c Clock) wrong(now, newest time.Time) string {
	switch {
	case now.Before(c.Built):
		return fmt.Sprintf("the clock says %s, but this nodeagent was built on %s", date(now), date(c.Built))
	case now.Before(newest):
		return fmt.Sprintf("the clock says %s, but there is a certificate that begins on %s", date(now), date(newest))
	}
	return ""
}

// unsynchronised tells whether nobody vouches for the time. That no time
// service was heard for hours is no reason to doubt it; that somebody has set it
// since is one.
func (c Clock) unsynchronised() bool {
	return c.Unsynchronised && !(c.Vouched && c.Stepped == 0)
}

// holds says why nothing is issued yet, and for how long from now; "" where
// nothing speaks against issuing. usable tells that there is a pair to go on
// with.
func (c Clock) holds(now, newest time.Time, usable bool) (reason string, left time.Duration) {
	if !c.unsynchronised() {
		return "", 0
	}
	since := c.Uptime - c.Stepped
	wrong := c.wrong(now, newest)
	switch {
	case wrong != "" && since < wrongClockPatience:
		left = wrongClockPatience - since
		return fmt.Sprintf("%s: nothing is issued until it is synchronised, for %s at most", wrong, span(left)), left
	case wrong == "" && usable && since < clockPatience:
		left = clockPatience - since
		return fmt.Sprintf("the clock is not synchronised yet: nothing is issued until it is, for %s at most", span(left)), left
	}
	return "", 0
}

// warning says that what is issued now may be of no use, "" where it is, or
// where nothing is issued.
func (c Clock) warning(now, newest time.Time) string {
	wrong := c.wrong(now, newest)
	if !c.unsynchronised() || wrong == "" {
		return ""
	}
	if reason, _ := c.holds(now, newest, false); reason != "" {
		return ""
	}
	return wrong + ", and no time server has corrected it: certificates are issued all the same; set the clock (timedatectl), or start a time service"
}

// newest is the latest beginning of what was issued to this host.
func (s *State) newest() time.Time {
	var newest time.Time
	for _, c := range s.Certificates {
		if c.Found.NotBefore.After(newest) {
			newest = c.Found.NotBefore
		}
	}
	for _, a := range s.Authorities {
		if a.NotBefore.After(newest) {
			newest = a.NotBefore
		}
	}
	return newest
}
