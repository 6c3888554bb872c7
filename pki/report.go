package pki

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
)

// Report is what a host says of its certificates to those who lead changes that
// concern the whole cluster. It holds no secret.
type Report struct {
	Host string    `json:"host"`
	At   time.Time `json:"at"`
	// Proven tells that the host's components run with what lies on its disk;
	// Problem is why not.
	Proven  bool   `json:"proven"`
	Problem string `json:"problem,omitempty"`
	// Trust are the key ids in the bundles, by CA.
	Trust map[string][]string `json:"trust"`
	// Certificates are those in use, sorted by name.
	Certificates []ReportedCertificate `json:"certificates"`
	// Keys are the ids of the secrets' parts: for the service account the public
	// keys, that of the signing key first; for encryption the keys, the one that
	// new writes use first.
	Keys map[string][]string `json:"keys,omitempty"`
}

// ReportedCertificate is one certificate in a Report.
type ReportedCertificate struct {
	Name     string    `json:"name"`
	CA       string    `json:"ca"`
	Serial   string    `json:"serial"`
	SignedBy string    `json:"signed_by"`
	NotAfter time.Time `json:"not_after"`
}

// NewReport says what was seen of what the host wants.
func NewReport(have, want State, now time.Time) Report {
	r := Report{Host: want.Host, At: now, Trust: map[string][]string{}}
	for _, w := range want.Trust {
		if b := have.bundle(w.CA); b != nil {
			r.Trust[w.CA] = b.KeyIDs
		}
	}
	for _, w := range want.Certificates {
		if f := have.Pair(w.Name); f.Condition == Sound {
			r.Certificates = append(r.Certificates, ReportedCertificate{
				Name: w.Name, CA: w.CA, Serial: f.Serial, SignedBy: f.SignedBy, NotAfter: f.NotAfter,
			})
		}
	}
	for _, w := range want.Keys {
		if k := have.key(w.Name); k != nil && k.Condition == Sound {
			if r.Keys == nil {
				r.Keys = map[string][]string{}
			}
			r.Keys[w.Name] = k.IDs
		}
	}
	return r
}

// Same tells whether two reports say the same, but for their moment.
func (r Report) Same(other Report) bool {
	return r.Proven == other.Proven && r.Problem == other.Problem && r.Host == other.Host &&
		slices.Equal(r.Certificates, other.Certificates) && maps.EqualFunc(r.Trust, other.Trust, slices.Equal) && maps.EqualFunc(r.Keys, other.Keys, slices.Equal)
}

// Use is what the report says of a CA.
func (r Report) Use(ca string) Use {
	u := Use{Host: r.Host, Known: true, Proven: r.Proven, Problem: r.Problem, Trusts: r.Trust[ca]}
	for _, c := range r.Certificates {
		if c.CA == ca && !slices.Contains(u.SignedBy, c.SignedBy) {
			u.SignedBy = append(u.SignedBy, c.SignedBy)
		}
	}
	return u
}

// ReportAtMost is the longest time between two reports of a host that runs.
const ReportAtMost = time.Hour

// Uses are those of all hosts of a fleet that trust a CA, by what they have
// reported; a host that has not, or not for so long that it must be off, is in
// it as one of which nothing is known.
func Uses(specs []*hosts.Spec, reports map[string]Report, ca string, now time.Time) []Use {
	return uses(specs, reports, now, func(want State) bool { return want.bundle(ca) != nil }, func(r Report) Use { return r.Use(ca) })
}

// KeyUses are those of all hosts of a fleet that have a secret, as Uses has
// them.
func KeyUses(specs []*hosts.Spec, reports map[string]Report, name string, now time.Time) []Use {
	return uses(specs, reports, now, func(want State) bool { return want.key(name) != nil }, func(r Report) Use { return r.KeyUse(name) })
}

// KeyUse is what the report says of a secret: all of its keys as those that the
// host trusts, the one in use as that which signs.
func (r Report) KeyUse(name string) Use {
	u := Use{Host: r.Host, Known: true, Proven: r.Proven, Problem: r.Problem, Trusts: r.Keys[name]}
	if len(u.Trusts) > 0 {
		u.SignedBy = u.Trusts[:1:1]
	}
	return u
}

func uses(specs []*hosts.Spec, reports map[string]Report, now time.Time, concerns func(State) bool, use func(Report) Use) []Use {
	var list []Use
	for _, spec := range specs {
		if !concerns(Want(spec)) {
			continue
		}
		r, known := reports[spec.Name]
		if !known {
			list = append(list, Use{Host: spec.Name, Problem: "it has not reported yet"})
			continue
		}
		u := use(r)
		if age := now.Sub(r.At); age > 2*ReportAtMost {
			u.Known, u.Problem = false, fmt.Sprintf("it last reported %s ago; is it off?", span(age))
		}
		list = append(list, u)
	}
	return list
}
