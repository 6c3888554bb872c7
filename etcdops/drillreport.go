package etcdops

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// DrillReport is what a drill found.
type DrillReport struct {
	// Snapshot is the file, or PLACE:NAME of one that was fetched.
	Snapshot string    `json:"snapshot"`
	SHA256   string    `json:"sha256,omitempty"`
	Taken    time.Time `json:"taken,omitzero"`
	Size     int64     `json:"size,omitempty"`
	Revision int64     `json:"revision,omitempty"`
	Keys     int64     `json:"keys,omitempty"`
	// KVHash is the hash of the keys that the booted etcd and the snapshot's own
	// pages agreed on.
	KVHash *KVHash `json:"kvHash,omitempty"`
	// EtcdVersion is that of the etcd that was booted.
	EtcdVersion string        `json:"etcdVersion,omitempty"`
	Objects     ObjectSamples `json:"objects"`

	// Began and Ended are when, UTC, whole seconds; Ended is zero while it runs,
	// and of one that was killed.
	Began   time.Time    `json:"began"`
	Ended   time.Time    `json:"ended,omitzero"`
	Seconds DrillSeconds `json:"seconds"`

	// RPOSeconds is how old the snapshot was when the drill began: what a host
	// would have lost that was lost then. WorstRPOSeconds is the longest pause
	// between two moments of the schedule, 0 without one.
	RPOSeconds      float64 `json:"rpoSeconds"`
	WorstRPOSeconds float64 `json:"worstRPOSeconds,omitempty"`

	// Failed is the step that failed and Error why; both empty for a good drill.
	Failed string `json:"failed,omitempty"`
	Error  string `json:"error,omitempty"`
}

// DrillSeconds is how long each step took.
type DrillSeconds struct {
	Fetch   float64 `json:"fetch"`
	Verify  float64 `json:"verify"`
	Stage   float64 `json:"stage"`
	Boot    float64 `json:"boot"`
	Compare float64 `json:"compare"`
}

// RTO is how long it takes from the decision to restore until an etcd serves the
// data: all but the comparing.
func (s DrillSeconds) RTO() float64 { return s.Fetch + s.Verify + s.Stage + s.Boot }

// Good tells whether the drill was carried through and found nothing wrong.
func (r DrillReport) Good() bool { return r.Error == "" && !r.Ended.IsZero() }

// MarshalJSON adds what follows from the rest.
func (r DrillReport) MarshalJSON() ([]byte, error) {
	type plain DrillReport
	return json.Marshal(struct {
		plain
		Good       bool    `json:"good"`
		RTOSeconds float64 `json:"rtoSeconds"`
	}{plain(r), r.Good(), r.Seconds.RTO()})
}

// describe takes over what Verify found.
func (r *DrillReport) describe(found Report) {
	r.SHA256, r.Size, r.Revision, r.Keys = found.SHA256, found.Size, found.Revision, found.Keys
	if m := found.Manifest; m != nil {
		r.Taken = m.Taken
		r.RPOSeconds = r.Began.Sub(m.Taken).Seconds()
	}
}

// DrillRecord is what a host remembers of its drills.
type DrillRecord struct {
	// Last is the last one, Good the last that found nothing wrong.
	Last DrillReport  `json:"last"`
	Good *DrillReport `json:"good,omitempty"`
}

// ReadDrills reads the record; ok is false where no drill was ever begun.
func ReadDrills(root layout.Root) (record DrillRecord, ok bool, err error) {
	content, err := os.ReadFile(root.Drills())
	if errors.Is(err, os.ErrNotExist) {
		return DrillRecord{}, false, nil
	}
	if err == nil {
		err = json.Unmarshal(content, &record)
	}
	if err != nil {
		return DrillRecord{}, false, fmt.Errorf("read the record of drills: %w", err)
	}
	return record, true, nil
}

// RecordDrill notes a drill that begins, whose Ended is zero, or has ended. A
// record that cannot be read is begun anew.
func RecordDrill(root layout.Root, report DrillReport) error {
	record, _, _ := ReadDrills(root)
	record.Last = report
	if report.Good() {
		record.Good = &report
	}
	content, err := json.MarshalIndent(record, "", "  ")
	if err == nil {
		err = atomicfile.MkdirAll(root.State(), 0o700)
	}
	if err == nil {
		err = atomicfile.Write(root.Drills(), append(content, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("record the drill: %w", err)
	}
	return nil
}
