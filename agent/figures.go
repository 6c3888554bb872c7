package agent

import (
	"sync"
	"time"
)

// figures is what the daemon counts for its metrics. It is small and kept whether
// anybody asks for them or not.
type figures struct {
	mu        sync.Mutex
	domains   map[string]domainFigures
	snapshots snapshotFigures
	invalid   bool // the fleet's files
}

// domainFigures are of one domain.
type domainFigures struct {
	Converged bool      // as of the last converge
	At        time.Time // of the last that converged
	Good, Bad int       // converges
	Changes   int       // carried out
	Drift     int       // changes that are only reported
}

// snapshotFigures are of the scheduled snapshots.
type snapshotFigures struct {
	Good, Bad int
	Seconds   float64 // the last good one took
}

// converged counts one converge.
func (f *figures) converged(result Result, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range result {
		d := f.domains[o.Domain]
		d.Changes += o.Applied
		if d.Converged = o.Converged(); d.Converged {
			d.At = now
			d.Good++
		} else {
			d.Bad++
		}
		f.set(o.Domain, d)
	}
}

func (f *figures) set(domain string, d domainFigures) {
	if f.domains == nil {
		f.domains = map[string]domainFigures{}
	}
	f.domains[domain] = d
}

// drifted notes how many changes of a domain are only reported.
func (f *figures) drifted(domain string, changes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.domains[domain]
	d.Drift = changes
	f.set(domain, d)
}

// saved counts one scheduled snapshot.
func (f *figures) saved(took time.Duration, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.snapshots.Bad++
		return
	}
	f.snapshots.Good++
	f.snapshots.Seconds = took.Seconds()
}

// fleet notes whether the fleet's files are in use.
func (f *figures) fleet(invalid bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.invalid = invalid
}

// read is a copy of what was counted.
func (f *figures) read() (domains map[string]domainFigures, snapshots snapshotFigures, invalid bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	domains = make(map[string]domainFigures, len(f.domains))
	for name, d := range f.domains {
		domains[name] = d
	}
	return domains, f.snapshots, f.invalid
}
