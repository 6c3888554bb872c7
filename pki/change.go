package pki

import (
	"context"
	"crypto/x509"
	"slices"
)

// Rotator changes a CA of an issuer for another one, in three steps between
// which hosts follow. Each step is done at once or not at all, and doing it
// again changes nothing.
type Rotator interface {
	// Authorities are the authorities of a CA, the one that signs first. There
	// are one or two.
	Authorities(ctx context.Context, ca string) ([]*x509.Certificate, error)
	// Add makes a second authority that signs nothing yet. Where there are two
	// it changes nothing.
	Add(ctx context.Context, ca string) error
	// Switch makes the authority with the key id the one that signs.
	Switch(ctx context.Context, ca, keyID string) error
	// Drop removes the authority with the key id for ever, its key included. It
	// is an error where that one signs.
	Drop(ctx context.Context, ca, keyID string) error
}

// KeyID is the digest of a certificate's public key, by which authorities are
// told apart.
func KeyID(c *x509.Certificate) string { return keyID(c.PublicKey) }

// Change is one CA that is being changed for another one. What has been done of
// it shows in the issuer and on the hosts; only what it leads to is remembered.
type Change struct {
	CA string `json:"ca"`
	// Old and New are key ids; New is empty until there is one.
	Old string `json:"old"`
	New string `json:"new"`
	// Waiting is the name of the key of an authority whose certificate is signed
	// by somebody outside of the issuer; empty where none is, or was.
	Waiting string `json:"waiting,omitempty"`
	// Back tells that it leads to Old again.
	Back bool `json:"back,omitempty"`
	// Key is set where not a CA but a key is changed; CA is then a name that no
	// CA has.
	Key *KeyProgress `json:"key,omitempty"`
}

// goal and other are the authority that is to stay and the one that is to go.
func (c Change) goal() string {
	if c.Back {
		return c.Old
	}
	return c.New
}

func (c Change) other() string {
	if c.Back {
		return c.New
	}
	return c.Old
}

// Do is what comes next in a change.
type Do int

// The steps of a change, in their order.
const (
	DoAdd     Do = iota // a second authority
	DoTrust             // wait until every host trusts both
	DoSwitch            // let the other one sign
	DoIssue             // wait until every host's certificates are signed by it
	DoDrop              // the one that no host needs any more
	DoForget            // wait until no host trusts it any more
	DoNothing           // it is done
)

// Use is how far a host has come with a CA: what its components really use, as
// it says itself.
type Use struct {
	Host string
	// Known tells that the host has said anything.
	Known bool
	// Proven tells that the host has nothing to do: its components run with the
	// bundles on disk, and its ports show the certificates on disk.
	Proven bool
	// Trusts are the key ids in its bundle of the CA, SignedBy those to which its
	// certificates of the CA lead, each once.
	Trusts, SignedBy []string
	// Problem is why it is not proven.
	Problem string
}

// Next is the next step of a change, and the hosts that it waits for. have are
// the key ids of the CA's authorities, the one that signs first; hosts are all
// that trust the CA. It is pure, and it decides by what is, not by what was
// done: interrupted anywhere, it goes on from there.
func (c Change) Next(have []string, hosts []Use) (Do, []Use) {
	goal, other := c.goal(), c.other()
	switch {
	case !c.Back && c.New == "":
		return DoAdd, nil
	case len(have) == 2 && have[0] != goal:
		return waiting(hosts, DoTrust, DoSwitch, func(u Use) bool { return contains(u.Trusts, goal, other) })
	case len(have) == 2:
		return waiting(hosts, DoIssue, DoDrop, func(u Use) bool { return !contains(u.SignedBy, other) })
	}
	return waiting(hosts, DoForget, DoNothing, func(u Use) bool { return !contains(u.Trusts, other) })
}

// waiting is wait while a host is not there, and go where all are.
func waiting(hosts []Use, wait, after Do, there func(Use) bool) (Do, []Use) {
	var late []Use
	for _, u := range hosts {
		if !u.Known || !u.Proven || !there(u) {
			late = append(late, u)
		}
	}
	if len(late) > 0 {
		return wait, late
	}
	return after, nil
}

// overlap tells whether the lists have a value in common.
func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(v string) bool { return slices.Contains(b, v) })
}

// contains tells whether all of the values are in the list.
func contains(list []string, values ...string) bool {
	return !slices.ContainsFunc(values, func(v string) bool { return !slices.Contains(list, v) })
}
