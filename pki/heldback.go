package pki

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Hold is that nothing is issued because of the clock.
type Hold struct {
	Reason string    `json:"reason"` // and for how long
	Until  time.Time `json:"until"`  // at most
	// Certificates and Authorities are the names of those that wait; none where
	// the clock is wrong and all are as they should be.
	Certificates []string `json:"certificates"`
	Authorities  []string `json:"authorities"`
}

// String says it in a line.
func (h *Hold) String() string {
	if len(h.Certificates)+len(h.Authorities) > 0 {
		return fmt.Sprintf("%s; until then wait %s", h.Reason, strings.Join(slices.Concat(h.Certificates, h.Authorities), ", "))
	}
	return h.Reason
}

// HeldBack says that nothing is issued because of the clock, nil where it is.
// While nothing waits, it is said only of a clock that is certainly wrong: for
// minutes after every boot none is synchronised.
func HeldBack(have, want State, now time.Time) *Hold {
	reason, left := have.Clock.holds(now, have.newest(), true)
	if reason == "" {
		return nil
	}
	h := &Hold{Reason: reason, Until: now.Add(left), Certificates: namesOfHeld(List(have, want, now)), Authorities: namesOfHeld(Authorities(have, want, now))}
	if len(h.Certificates)+len(h.Authorities) == 0 && have.Clock.wrong(now, have.newest()) == "" {
		return nil
	}
	return h
}

// namesOfHeld are the names of those that wait for the clock.
func namesOfHeld(list []Status) []string {
	names := []string{}
	for _, s := range list {
		if s.State == StateHeld {
			names = append(names, s.Name)
		}
	}
	return names
}

// HeldError is why a change is not made now, though it is called for. It is
// made as soon as it no longer waits.
type HeldError struct {
	// Reason says what for, Why only what it waits for: that many have in common.
	Reason, Why string
}

func (e *HeldError) Error() string { return e.Reason }

// joinHeld joins errors; those of changes that wait for the same become one.
func joinHeld(keys []string, errs []error) error {
	var joined []error
	var whys []string
	waits := map[string][]string{}
	for i, err := range errs {
		held := (*HeldError)(nil)
		if !errors.As(err, &held) {
			joined = append(joined, err)
			continue
		}
		if !slices.Contains(whys, held.Why) {
			whys = append(whys, held.Why)
		}
		waits[held.Why] = append(waits[held.Why], keys[i])
	}
	for _, why := range whys {
		err := fmt.Errorf("%s: %s", strings.Join(waits[why], ", "), why)
		joined = append(joined, err)
	}
	return errors.Join(joined...)
}
