package etcdops

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// Signers are the keys with which a fleet's hosts sign their snapshots, by host.
// A host of the fleet that has named none has an empty list.
type Signers map[string][]string

// FleetSigners are those of all hosts of a fleet.
func FleetSigners(fleet *hosts.Fleet) Signers {
	s := Signers{}
	for _, spec := range fleet.Hosts {
		s[spec.Name] = spec.Snapshots.PublicKeys
	}
	return s
}

// names tells whether any host has named a key.
func (s Signers) names() bool {
	for _, keys := range s {
		if len(keys) > 0 {
			return true
		}
	}
	return false
}

// Trust says whose snapshots are believed.
type Trust struct {
	// Signers are the fleet's; nil where no fleet is at hand.
	Signers Signers
	// Unsigned accepts, on a person's word, a snapshot that no host of the fleet
	// has signed.
	Unsigned bool
}

// SignatureState is what a signature is worth.
type SignatureState string

// The states, best first.
const (
	// SignatureTrusted: a key that the fleet names for the host has signed it.
	SignatureTrusted SignatureState = "signed"
	// SignatureUnchecked: the signature is good, and no fleet says whose it is.
	SignatureUnchecked SignatureState = "unchecked"
	// SignatureNone: it has none, and the fleet demands none.
	SignatureNone SignatureState = "unsigned"
	// SignatureAccepted: it would be refused, and a person has accepted it.
	SignatureAccepted SignatureState = "accepted"
)

// Signature says who has signed a snapshot's manifest, as far as that is known.
type Signature struct {
	State SignatureState `json:"state"`
	// By is the fingerprint of the key that signed, empty where none did.
	By string `json:"by,omitempty"`
	// Text says it in words.
	Text string `json:"text"`
}

// Sure tells whether nothing is to be warned of.
func (s Signature) Sure() bool { return s.State == SignatureTrusted }

// ErrNotSigned is the error of a snapshot that no host of the fleet has signed.
var ErrNotSigned = errors.New("no host of the fleet has signed it")

// judge tells what the signature of a manifest is worth, whose own key was found
// to match it; m is nil for a snapshot without one. It is pure.
func (t Trust) judge(m *Manifest) (Signature, error) {
	signature, why := t.weigh(m)
	if why == "" {
		return signature, nil
	}
	if !t.Unsigned {
		return Signature{}, fmt.Errorf("%w: %s; whoever could write to the place it comes from could have made it: take another one, or accept it with --unsigned if you know where it comes from", ErrNotSigned, why)
	}
	signature.State = SignatureAccepted
	signature.Text = "NOT SIGNED BY THE FLEET and accepted on purpose: " + why
	return signature, nil
}

// origin reads the manifest beside a snapshot, if there is one, and judges it.
func (t Trust) origin(path string) (*Manifest, Signature, error) {
	m, err := readManifest(path)
	if errors.Is(err, ErrNoManifest) {
		signature, err := t.judge(nil)
		return nil, signature, err
	}
	if err != nil {
		return nil, Signature{}, fmt.Errorf("%w: %w", ErrManifestMismatch, err)
	}
	signature, err := t.judge(&m)
	return &m, signature, err
}

// weigh says why the snapshot is not to be believed, if it is not.
func (t Trust) weigh(m *Manifest) (s Signature, why string) {
	if m == nil {
		if t.Signers.names() {
			return s, "it has no manifest, as a snapshot that another program took, and the fleet's hosts sign theirs (snapshots.public_keys)"
		}
		return Signature{State: SignatureNone, Text: "without a manifest, and so not signed"}, ""
	}
	if m.SignedBy != "" {
		s.By = fingerprintOf(m.SignedBy)
	}
	keys, ours := t.Signers[m.Host]
	switch {
	case t.Signers == nil && s.By != "":
		return Signature{SignatureUnchecked, s.By, fmt.Sprintf("signed by %s, which was not checked against a fleet", s.By)}, ""
	case t.Signers == nil:
		return Signature{State: SignatureNone, Text: "not signed"}, ""
	case slices.Contains(keys, m.SignedBy) && s.By != "":
		return Signature{SignatureTrusted, s.By, fmt.Sprintf("signed by %s (%s)", m.Host, s.By)}, ""
	case len(keys) > 0 && s.By == "":
		return s, fmt.Sprintf("its manifest says that %s took it, and has no signature of that host", m.Host)
	case len(keys) > 0:
		return s, fmt.Sprintf("its manifest says that %s took it, and it is signed by %s, which is none of that host's keys (%s)", m.Host, s.By, t.fingerprints(m.Host))
	case !ours && t.Signers.names():
		return s, fmt.Sprintf("its manifest says that %s took it, which is no host of the fleet", m.Host)
	case s.By != "":
		return Signature{SignatureUnchecked, s.By, fmt.Sprintf("signed by %s; the fleet names no key of %s (snapshots.public_keys)", s.By, m.Host)}, ""
	}
	return Signature{State: SignatureNone, Text: fmt.Sprintf("not signed; the fleet names no key of %s (snapshots.public_keys)", m.Host)}, ""
}

func (t Trust) fingerprints(host string) string {
	var list string
	for i, key := range t.Signers[host] {
		if i > 0 {
			list += ", "
		}
		list += fingerprintOf(key)
	}
	return list
}

// fingerprintOf is a public key short enough for people.
func fingerprintOf(public string) string {
	der, err := base64.StdEncoding.DecodeString(public)
	if err != nil {
		der = []byte(public)
	}
	return plan.Fingerprint(der)
}
