package agent

import "fmt"

// A floating address is held by one host at a time. Who, is a claim in etcd
// that lapses unless its holder renews it. The holder keeps the address on its
// link with a lifetime in the kernel that is renewed along with the claim and
// never outlives it: a holder that hangs or is killed loses the address without
// doing anything, before another host may claim it.
//
// While etcd has no quorum nobody can claim anything, so the holder keeps the
// address: a cluster whose etcd is down still serves. But a host that is alone
// cut off from the quorum sees the same. It therefore asks on the link whether
// another host answers for the address, and gives way to one that does.

// holding is what a host knows of one floating address at one look.
type holding struct {
	// known tells that etcd answered through its quorum who the holder is;
	// holder is empty where nobody is.
	known  bool
	holder string
	self   string
	// here tells that the address is on this host's link, put there by nodeagent.
	here bool
	// up tells that the link exists and has a carrier.
	up bool
	// blind tells that the link could not be read, or bears the address by
	// somebody else's hand.
	blind bool
	// rival is the hardware address of another host that answers for the
	// address, asked for only while etcd gives no answer.
	rival string
}

// step is what is to be done about a floating address.
type step string

const (
	stepWait  step = "wait"  // it is another host's
	stepClaim step = "claim" // claim it, then put it on the link
	stepRenew step = "renew" // renew the claim, then the address' lifetime
	stepKeep  step = "keep"  // renew the address' lifetime, the claim cannot be
	stepGive  step = "give"  // take it off the link, then release the claim
)

// next decides what to do, and says why.
func (h holding) next() (step, string) {
	mine := h.known && h.holder == h.self
	switch {
	case h.blind:
		// Nothing is renewed: the address, should it be there, lapses by the
		// kernel's hand, and then the claim. To release the claim now could let
		// another host have what is still here.
		return stepWait, "what the link bears is not known, or is somebody else's"
	case !h.up && (h.here || mine):
		return stepGive, "the link is down"
	case mine:
		return stepRenew, "this host holds the claim"
	case h.known && h.holder == "" && h.up:
		return stepClaim, "no host holds it"
	case h.known && h.here:
		return stepGive, fmt.Sprintf("host %q holds the claim", h.holder)
	case !h.known && h.here && h.rival != "":
		return stepGive, fmt.Sprintf("etcd does not answer, and another host, %s, answers for the address", h.rival)
	case !h.known && h.here:
		return stepKeep, "etcd does not answer, so no other host can claim it"
	case h.known:
		return stepWait, fmt.Sprintf("host %q holds it", h.holder)
	default:
		return stepWait, "etcd does not answer"
	}
}
