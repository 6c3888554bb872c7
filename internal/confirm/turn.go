package confirm

// Turn is what the daemon does about the network at one look.
type Turn int

// The turns.
const (
	// TurnWait touches nothing: a change awaits confirmation.
	TurnWait Turn = iota
	// TurnBack keeps to the last confirmed network: the wanted one was rejected.
	TurnBack
	// TurnMake makes the wanted network, with nothing to go back to: it is the
	// confirmed one, or no probes judge it.
	TurnMake
	// TurnReturn makes the last confirmed network first: the host was rebooted
	// since, and what a new one takes the place of is to be there before.
	TurnReturn
	// TurnTry makes the wanted network and lets probes judge it.
	TurnTry
)

// Turn decides for a wanted network with the given digest.
func (r Records) Turn(network, boot string, probes bool) Turn {
	c := r.Confirmed
	switch {
	case r.Attempt != nil:
		return TurnWait
	case r.Rejected.Holds(network):
		return TurnBack
	case !probes, c != nil && c.Network == network:
		return TurnMake
	case c != nil && c.Want.Boot != boot:
		return TurnReturn
	}
	return TurnTry
}

// Fresh tells whether the network with the digest is on record as made in this
// boot: then nothing needs to be written.
func (r Records) Fresh(network, boot string) bool {
	c := r.Confirmed
	return r.Rejected == nil && c != nil && c.Network == network && c.Want.Boot == boot
}
