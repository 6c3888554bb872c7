package pki

import (
	"slices"
	"time"
)

// KeyOverlap is how long tokens of a service account key that signs no more are
// still accepted where nothing else is asked for. A pod's token is good for an
// hour and renewed by its kubelet when four fifths of that have passed; one that
// was asked for with a longer life is renewed after a day at the latest
// (k8s.io/kubernetes/pkg/kubelet/token). A program that never reads its token
// again, tokens made by hand for longer, and those in Secrets of the type
// kubernetes.io/service-account-token need more, or have to be made anew.
const KeyOverlap = 25 * time.Hour

// KeyProgress is what cannot be seen of the change of a key and so is
// remembered.
type KeyProgress struct {
	// Signed tells that New has signed tokens, or may have.
	Signed bool `json:"signed,omitempty"`
	// Since is when every host was seen to sign with the key that stays; zero
	// before.
	Since time.Time `json:"since,omitzero"`
	// Overlap is how long after Since the other key still verifies.
	Overlap time.Duration `json:"overlap,omitempty"`
}

// Until is when the last token of the key that goes has ended.
func (p KeyProgress) Until() time.Time { return p.Since.Add(p.Overlap) }

// keyPrefix marks the change of a key among those of CAs.
const keyPrefix = "key-"

// keyChange is the name under which the change of a key is remembered.
func keyChange(name string) string { return keyPrefix + name }

// KeyDo is what comes next in the change of a key.
type KeyDo int

// The steps of a change of a key, in their order. Those from KeyMark to KeyWait
// are of the service account key, those from KeyCount to KeyRewrite of the
// encryption key.
const (
	KeyAdd     KeyDo = iota // a second key, which nothing uses yet
	KeyServe                // wait until every host accepts both
	KeySwitch               // let the other one sign, or encrypt
	KeyUse                  // wait until every host uses it
	KeyMark                 // note from when on no token is signed with the other one
	KeyWait                 // wait until the last token of the other one has ended
	KeyCount                // count the Secrets in etcd that are not encrypted with it
	KeyRewrite              // write those anew
	KeyDrop                 // the other one, which nothing needs any more
	KeyForget               // wait until no host accepts it any more
	KeyDone                 // it is done
)

// NextKey is the next step in the change of a key, and the hosts that it waits
// for. have are the ids of the secret's keys, the one in use first; hosts are
// all that have the secret, with all of its keys as those that they trust, and
// the one that they use as that which signs. left is how many Secrets in etcd are
// not encrypted with the key that stays, negative where they are not counted. It
// is pure, and decides by what is there: interrupted anywhere, it goes on.
func (c Change) NextKey(name string, have []string, hosts []Use, left int, now time.Time) (KeyDo, []Use) {
	goal, other := c.goal(), c.other()
	if !c.Back && c.New == "" {
		return KeyAdd, nil
	}
	if len(have) < 2 {
		step, late := waiting(hosts, DoForget, DoNothing, func(u Use) bool { return !contains(u.Trusts, other) })
		return map[Do]KeyDo{DoForget: KeyForget, DoNothing: KeyDone}[step], late
	}
	if have[0] != goal {
		step, late := waiting(hosts, DoTrust, DoSwitch, func(u Use) bool { return contains(u.Trusts, goal, other) })
		return map[Do]KeyDo{DoTrust: KeyServe, DoSwitch: KeySwitch}[step], late
	}
	if step, late := waiting(hosts, DoIssue, DoDrop, func(u Use) bool { return slices.Equal(u.SignedBy, []string{goal}) }); step == DoIssue {
		return KeyUse, late
	}
	if name == KeyEncryption {
		return nextStored(left), nil
	}
	return c.nextToken(now), nil
}

// nextStored decides by what lies in etcd.
func nextStored(left int) KeyDo {
	switch {
	case left < 0:
		return KeyCount
	case left > 0:
		return KeyRewrite
	}
	return KeyDrop
}

// nextToken decides by how long the other key has signed nothing.
func (c Change) nextToken(now time.Time) KeyDo {
	p := c.progress()
	switch {
	case c.Back && !p.Signed:
		return KeyDrop
	case p.Since.IsZero():
		return KeyMark
	case now.Before(p.Until()):
		return KeyWait
	}
	return KeyDrop
}

func (c Change) progress() KeyProgress {
	if c.Key == nil {
		return KeyProgress{}
	}
	return *c.Key
}
