package agent

import (
	"time"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/internal/calendar"
)

// DrillStatus is what a host knows of whether its snapshots restore.
type DrillStatus struct {
	// Running tells that one is being made now.
	Running bool `json:"running"`
	// Last is the last drill, Good the last that found nothing wrong; nil where
	// there was none.
	Last *etcdops.DrillReport `json:"last,omitempty"`
	Good *etcdops.DrillReport `json:"good,omitempty"`
	// Next is when the schedule calls for the next one; zero without a schedule.
	Next time.Time `json:"next,omitzero"`
	// Problem says that drills fail, or that none are made.
	Problem string `json:"problem,omitempty"`
}

// drillStatus reads the record of drills.
func (h *Host) drillStatus(now time.Time) *DrillStatus {
	spec := h.Spec()
	s := &DrillStatus{}
	record, ok, err := etcdops.ReadDrills(h.root)
	if ok {
		s.Last, s.Good = &record.Last, record.Good
	}
	if err == nil {
		s.Running, err = etcdops.Drilling(h.root.Scratch())
	}
	schedule, parseErr := calendar.Parse(spec.Snapshots.Drill)
	plan := drillPlan{last: record.Last}
	if parseErr == nil {
		plan = drillPlanOf(h.root, spec, schedule)
		s.Next = plan.next(now)
	}
	s.Problem = plan.problem(record.Good, s.Running, now)
	if err != nil {
		s.Problem = "drills: " + err.Error()
	}
	return s
}
