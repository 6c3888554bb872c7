package pki

import (
	"errors"
	"fmt"
)

// Refusal says why an issuer gave nothing. Whoever asks decides by its cause
// whether asking again can help; people read its remedy.
type Refusal struct {
	// Cause is one of the Cause… constants.
	Cause Cause
	// What was asked for: `sign "etcd-peer"`.
	What string
	// Err is what the issuer said.
	Err error
	// Remedy is what a person can do about it, a sentence without its full
	// stop; empty where waiting is all.
	Remedy string
}

// Cause is why an issuer gave nothing.
type Cause int

// The causes.
const (
	// CauseUnknown: something else.
	CauseUnknown Cause = iota
	// CauseUnreachable: the issuer is down, sealed, slow, or asks for patience.
	// It is asked again, later and later.
	CauseUnreachable
	// CauseLogin: the issuer does not know this host, or no longer.
	CauseLogin
	// CauseDenied: it knows the host and does not let it.
	CauseDenied
	// CauseUnfit: what it signs is not what the spec asks for, or it says that
	// it will not sign that. Asking again is of no use before one of the two
	// has changed.
	CauseUnfit
	// CauseMissing: there is no such engine, role or authority.
	CauseMissing
	// CauseUntrusted: who answered is not the issuer.
	CauseUntrusted
	// CauseLocked: the issuer's own keys are encrypted, and it has not what opens
	// them.
	CauseLocked
)

var causes = map[Cause]string{
	CauseUnknown: "failed", CauseUnreachable: "cannot be reached", CauseLogin: "knows this host not",
	CauseDenied: "denied it", CauseUnfit: "signs something else", CauseMissing: "lacks it", CauseUntrusted: "cannot be trusted",
	CauseLocked: "cannot open them",
}

// String says the cause in words that complete "the issuer …".
func (c Cause) String() string { return causes[c] }

// Error is one line.
func (r *Refusal) Error() string {
	text := fmt.Sprintf("%s: the issuer %s: %v", r.What, r.Cause, r.Err)
	if r.Remedy != "" {
		text += ": " + r.Remedy
	}
	return text
}

func (r *Refusal) Unwrap() error { return r.Err }

// CauseOf is the cause of an error that a Refusal is part of; CauseUnknown
// where none is.
func CauseOf(err error) Cause {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Cause
	}
	return CauseUnknown
}
