package agent

import (
	"context"

	"github.com/nodeagent/nodeagent/etcdops"
)

// collectSnapshots tells of snapshots, where they are and whether they restore.
func (m *metrics) collectSnapshots(ctx context.Context, s sink, taken snapshotFigures) {
	status := m.host.snapshotStatus(ctx)
	s.put(m.snapshots, float64(status.Count))
	if newest := status.Newest; newest != nil {
		s.at(m.snapshotAt, newest.Taken, "host")
		s.put(m.snapshotBytes, float64(newest.Manifest.Stored.Size))
		s.put(m.snapshotPlain, float64(newest.Manifest.Size))
		s.put(m.snapshotRevision, float64(newest.Manifest.Revision))
	}
	if status.Shared != nil {
		s.at(m.snapshotAt, status.Shared.At, "cluster")
	}
	s.at(m.snapshotNext, status.Next)
	s.yes(m.snapshotOverdue, status.Overdue)
	s.count(m.snapshotTaken, taken.Good, "good")
	s.count(m.snapshotTaken, taken.Bad, "failed")
	if taken.Good > 0 {
		s.put(m.snapshotSeconds, taken.Seconds)
	}
	for _, place := range status.Copies {
		s.at(m.copyReached, place.Reached, place.Name)
		s.yes(m.copyGood, place.Error == "" && !place.Reached.IsZero(), place.Name)
		s.put(m.copyMissing, float64(len(place.Missing)), place.Name)
		s.put(m.copySnapshots, float64(len(place.Snapshots)), place.Name)
	}
	m.collectDrills(s, status.Drill)
}

func (m *metrics) collectDrills(s sink, status *DrillStatus) {
	s.at(m.drillNext, status.Next)
	if last := status.Last; last != nil && !status.Running {
		s.at(m.drillAt, last.Began)
		s.yes(m.drillGood, last.Good())
	}
	good := status.Good
	if good == nil {
		return
	}
	s.at(m.drillGoodAt, good.Began)
	if !good.Taken.IsZero() {
		s.put(m.drillRPO, good.RPOSeconds)
	}
	s.put(m.drillWorstRPO, good.WorstRPOSeconds)
	s.put(m.drillRTO, good.Seconds.RTO())
	for step, seconds := range map[string]float64{
		etcdops.DrillFetch: good.Seconds.Fetch, etcdops.DrillVerify: good.Seconds.Verify, etcdops.DrillStage: good.Seconds.Stage,
		etcdops.DrillBoot: good.Seconds.Boot, etcdops.DrillCompare: good.Seconds.Compare,
	} {
		s.put(m.drillSeconds, seconds, step)
	}
}
