package agent

import (
	"fmt"
	"time"
)

// ConfirmStatus is what awaits confirmation and what was rejected.
type ConfirmStatus struct {
	Pending string    `json:"pending,omitempty"` // the spec's digest
	Until   time.Time `json:"until,omitzero"`
	// Undoing says why the pending change is being undone.
	Undoing  string `json:"undoing,omitempty"`
	Rejected string `json:"rejected,omitempty"` // the spec's digest
	Reason   string `json:"reason,omitempty"`
	// Proved: a fresh look found the network to be exactly as it was before the
	// rejected spec; else Left says what is not.
	Proved bool   `json:"proved,omitempty"`
	Left   string `json:"left,omitempty"`
	// InForce: the rejected network is the present spec's, and so the last
	// confirmed one is kept.
	InForce bool   `json:"inForce,omitempty"`
	Error   string `json:"error,omitempty"`
}

func (h *Host) confirmStatus() *ConfirmStatus {
	records, now, err := h.recordsNow()
	s := &ConfirmStatus{}
	if err != nil {
		s.Error = err.Error()
	}
	if a := records.Attempt; a != nil {
		s.Pending, s.Until, s.Undoing = a.Spec, a.Until, a.Undoing
		if err == nil {
			s.Undoing, _ = records.Due(now)
		}
	}
	if r := records.Rejected; r != nil {
		s.Rejected, s.Reason, s.Proved, s.Left = r.Spec, r.Reason, r.Proved, r.Left
		want, err := h.wanted()
		if err != nil {
			s.Error = err.Error()
		}
		s.InForce = err == nil && r.Holds(want.digest)
	}
	if *s == (ConfirmStatus{}) {
		return nil
	}
	return s
}

func (s *ConfirmStatus) problems() []string {
	var list []string
	if s == nil {
		return nil
	}
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if s.Error != "" {
		add("%s", s.Error)
	}
	switch {
	case s.Undoing != "":
		add("the network of spec %s is being undone: %s", s.Pending, s.Undoing)
	case s.Pending != "":
		add("the network of spec %s is undone at %s unless it is confirmed: nodeagent confirm", s.Pending, s.Until.Format(time.DateTime))
	}
	if s.InForce {
		add("the network of spec %s was undone (%s) and is not tried again; the last confirmed one is kept (change the spec, or try it again: nodeagent apply)", s.Rejected, s.Reason)
	}
	if s.Left != "" {
		add("the network is not exactly as it was before spec %s: %s", s.Rejected, s.Left)
	}
	return list
}
