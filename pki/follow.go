package pki

import (
	"time"
)

// Follow is when a host looks whether its issuer trusts the same authorities as
// before: what it costs is a few requests without a token, and a change of a CA
// goes on when the slowest host has heard of it. While one is under way, or the
// host has not caught up, it looks more often.
type Follow struct {
	Host string
	// Of is how many hosts the fleet has.
	Of int
}

const (
	followEvery = 2 * time.Minute
	followSoon  = 5 * time.Second
	// followShare is how much of an issuer's time one host may take, so that a
	// large fleet is slower, and its issuer asked no more.
	followShare = 120 * time.Millisecond
)

// First is how long after its start a daemon looks first. The hosts of a fleet
// may start at the same moment, when the power comes back, so each has a moment
// of its own.
func (f Follow) First() time.Duration {
	return followSoon + share("follow", f.Host, f.crowd())
}

// Next is how long after one look the next one is.
func (f Follow) Next(changing bool) time.Duration {
	if changing {
		return max(followSoon, f.crowd())
	}
	return max(followEvery, f.crowd()) + share("follow again", f.Host, followEvery/4)
}

// crowd is how long it takes until every host has had its share.
func (f Follow) crowd() time.Duration { return time.Duration(f.Of) * followShare }
