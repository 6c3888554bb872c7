package confirm

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Finding is what one probe found.
type Finding struct {
	// Name tells probes apart and says what was asked: "gateway 192.0.2.1",
	// "wireguard peer n2", "vault 192.0.2.5:8200".
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Detail says why not, or how it answered.
	Detail string `json:"detail,omitempty"`
	// Took is how long it was until the answer.
	Took time.Duration `json:"took,omitempty"`
	// Optional tells that it is not judged: the question went away with the
	// change, such as a gateway that is none any more.
	Optional bool `json:"optional,omitempty"`
}

// Verdict is what one probe found before and after.
type Verdict struct {
	Name string
	// Before and After tell whether it succeeded; Lost that it did before and
	// does no more, which speaks against the change.
	Before, After, Lost bool
	Detail              string
	Took                time.Duration
}

// Judge compares what probes found before and after a change, in the order of
// before. Only what worked before must work after; a probe that was not asked
// again has not answered.
func Judge(before, after []Finding) []Verdict {
	var verdicts []Verdict
	for _, b := range before {
		v := Verdict{Name: b.Name, Before: b.OK, Detail: b.Detail}
		at := slices.IndexFunc(after, func(a Finding) bool { return a.Name == b.Name })
		if at < 0 {
			v.Lost = b.OK
		} else {
			a := after[at]
			v.After, v.Detail, v.Took = a.OK, a.Detail, a.Took
			v.Lost = b.OK && !a.OK && !a.Optional
		}
		verdicts = append(verdicts, v)
	}
	for _, a := range after {
		if !slices.ContainsFunc(before, func(b Finding) bool { return b.Name == a.Name }) {
			verdicts = append(verdicts, Verdict{Name: a.Name, After: a.OK, Detail: a.Detail, Took: a.Took})
		}
	}
	return verdicts
}

// Lost names what worked before and does no more; "" where there is nothing.
func Lost(before, after []Finding) string {
	var lost []string
	for _, v := range Judge(before, after) {
		if v.Lost {
			lost = append(lost, fmt.Sprintf("%s (%s)", v.Name, v.Detail))
		}
	}
	return strings.Join(lost, ", ")
}

// String says the verdict in a line.
func (v Verdict) String() string {
	switch {
	case v.Lost:
		return fmt.Sprintf("%s: answered before and does no more: %s", v.Name, v.Detail)
	case v.Before && v.After:
		return fmt.Sprintf("%s: still answers, after %s", v.Name, v.Took.Round(time.Millisecond))
	case v.Before:
		return fmt.Sprintf("%s: not judged: %s", v.Name, v.Detail)
	case v.After:
		return fmt.Sprintf("%s: answers now, did not before", v.Name)
	}
	return fmt.Sprintf("%s: not judged, did not answer before either: %s", v.Name, v.Detail)
}
