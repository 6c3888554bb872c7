package pki

import "time"

// Status is one certificate or authority as it is shown to people and scripts.
type Status struct {
	Name       string `json:"name"`
	CA         string `json:"ca"`
	CommonName string `json:"common_name"`
	// The times are the zero time where there is no certificate.
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	RenewAt   time.Time `json:"renew_at,omitzero"`
	// State is one of the State… constants; Reason says why it is not ok.
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
	// WaitsUntil is when another one is asked for at the latest, where that is
	// called for and waits; the zero time elsewhere.
	WaitsUntil time.Time `json:"waits_until,omitzero"`
}

// List returns the wanted certificates and how they are, sorted by name.
func List(have, want State, now time.Time) []Status {
	d := differ{have: have, want: want, now: now}
	list := make([]Status, 0, len(want.Certificates))
	for _, w := range want.Certificates {
		s := Status{Name: w.Name, CA: w.CA, CommonName: w.CommonName}
		found := have.certificate(w.Name)
		v := d.judge(found, w.Request)
		s.State, s.Reason, s.WaitsUntil = v.state, v.reason, v.until
		if found != nil && found.Found.Serial != "" {
			s.NotBefore, s.NotAfter, s.RenewAt = found.Found.NotBefore, found.Found.NotAfter, d.due(w.Request, found.Found)
		}
		list = append(list, s)
	}
	return list
}

// Authorities returns the local issuer's authorities and how they are.
func Authorities(have, want State, now time.Time) []Status {
	list := make([]Status, 0, len(want.Authorities))
	for _, w := range want.Authorities {
		s := Status{Name: w.Name, CA: w.Name, CommonName: w.Name, State: StateOK}
		a := have.authority(w.Name)
		d := differ{have: have, want: want, now: now}
		job, reason, held := d.authorityWork(a, w)
		s.Reason = reason
		switch job {
		case authorityMake:
			s.State = StateMissing
		case authorityComplete, authorityMend:
			s.State = StateDamaged
		case authorityRenew:
			s.State = StateDue
		}
		if held.why != "" {
			s.State, s.Reason, s.WaitsUntil = StateHeld, reason+"; "+held.why, held.until
		}
		if a != nil && !a.NotAfter.IsZero() {
			s.NotBefore, s.NotAfter, s.RenewAt = a.NotBefore, a.NotAfter, authorityRenewAt(a, w)
		}
		list = append(list, s)
	}
	return list
}
