package agent

import "github.com/prometheus/client_golang/prometheus"

// desc describes one metric; its name begins with the program's.
func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("nodeagent_"+name, help, labels, nil)
}

// descs are all metrics. They are made when metrics are first asked for.
type descs struct {
	build, spec, specValid *prometheus.Desc

	converged, convergedAt, converges, changes, drift *prometheus.Desc

	certificateEnds, certificateRenewed, certificateGood, authorityEnds *prometheus.Desc

	snapshots, snapshotAt, snapshotBytes, snapshotPlain, snapshotRevision *prometheus.Desc
	snapshotNext, snapshotOverdue, snapshotTaken, snapshotSeconds         *prometheus.Desc

	copyReached, copyGood, copyMissing, copySnapshots *prometheus.Desc

	drillAt, drillGood, drillGoodAt, drillRPO, drillWorstRPO, drillRTO, drillSeconds, drillNext *prometheus.Desc

	etcdHealthy, etcdAnswers, etcdLeader, etcdMembers, etcdBytes, etcdUsed, etcdRevision, etcdLatency, etcdAlarm *prometheus.Desc
}

func newDescs() *descs {
	return &descs{
		build:     desc("build_info", "The nodeagent that runs; the value is always 1.", "version", "go"),
		spec:      desc("spec_info", "The spec that is in force on this host; the value is always 1.", "cluster", "host", "digest"),
		specValid: desc("spec_valid", "1 if the fleet's files are valid and in use, 0 if the last valid ones are."),

		converged:   desc("domain_converged", "1 if the domain was as the spec says after the last converge, 0 if not.", "domain"),
		convergedAt: desc("domain_converged_timestamp_seconds", "When the domain was last as the spec says after a converge.", "domain"),
		converges:   desc("converges_total", "Converges of the domain since the agent's start, by whether it was as the spec says afterwards.", "domain", "result"),
		changes:     desc("changes_total", "Changes that were carried out in the domain since the agent's start.", "domain"),
		drift:       desc("domain_drift_changes", "Differences from the spec that are only reported (drift = \"report\"), as of the last converge.", "domain"),

		certificateEnds:    desc("certificate_not_after_timestamp_seconds", "When the certificate on disk ends.", "certificate", "ca"),
		certificateRenewed: desc("certificate_renewal_timestamp_seconds", "When the certificate is due to be renewed.", "certificate", "ca"),
		certificateGood:    desc("certificate_usable", "1 if the certificate can be used as it is, 0 if not: missing, damaged, ended or other than the spec's.", "certificate", "ca"),
		authorityEnds:      desc("certificate_authority_not_after_timestamp_seconds", "When the certificate of the local issuer's CA ends.", "ca"),

		snapshots:        desc("etcd_snapshots", "Snapshots of etcd in the spec's folder on this host."),
		snapshotAt:       desc("etcd_snapshot_timestamp_seconds", "When this host's newest good snapshot of etcd was taken; with by=\"cluster\" the last that a host took for all.", "by"),
		snapshotBytes:    desc("etcd_snapshot_stored_bytes", "Size of the file of this host's newest good snapshot."),
		snapshotPlain:    desc("etcd_snapshot_database_bytes", "Size of what etcd sent for this host's newest good snapshot."),
		snapshotRevision: desc("etcd_snapshot_revision", "Revision of etcd at which this host's newest good snapshot ends."),
		snapshotNext:     desc("etcd_snapshot_next_timestamp_seconds", "When the schedule calls for the next snapshot; now if one is due."),
		snapshotOverdue:  desc("etcd_snapshot_overdue", "1 if the schedule has called for several snapshots that nobody took."),
		snapshotTaken:    desc("etcd_snapshots_taken_total", "Scheduled snapshots of this host since the agent's start.", "result"),
		snapshotSeconds:  desc("etcd_snapshot_duration_seconds", "How long the last good scheduled snapshot of this host took, its check included."),

		copyReached:   desc("etcd_snapshot_copy_reached_timestamp_seconds", "When all snapshots of the place were last listed.", "place"),
		copyGood:      desc("etcd_snapshot_copy_success", "1 if the last pass brought everything to the place that belongs there, 0 if not.", "place"),
		copyMissing:   desc("etcd_snapshot_copy_missing", "Snapshots that belong to the place and were not brought there yet.", "place"),
		copySnapshots: desc("etcd_snapshot_copy_snapshots", "Good snapshots of this host that were there when the place was last listed.", "place"),

		drillAt:       desc("etcd_drill_timestamp_seconds", "When it was last tried whether a snapshot restores."),
		drillGood:     desc("etcd_drill_success", "1 if that found nothing wrong, 0 if it failed or was ended."),
		drillGoodAt:   desc("etcd_drill_success_timestamp_seconds", "When the last drill began that found nothing wrong."),
		drillRPO:      desc("etcd_drill_rpo_seconds", "Age of the snapshot at the last good drill: what would have been lost."),
		drillWorstRPO: desc("etcd_drill_worst_rpo_seconds", "Longest time between two snapshots, by the schedule, as of the last good drill."),
		drillRTO:      desc("etcd_drill_rto_seconds", "Time from the fetching of the snapshot until an etcd served it, at the last good drill."),
		drillSeconds:  desc("etcd_drill_step_seconds", "Time that each step of the last good drill took.", "step"),
		drillNext:     desc("etcd_drill_next_timestamp_seconds", "When the schedule calls for the next drill; now if one is due."),

		etcdHealthy:  desc("etcd_healthy", "1 if this host's member has answered a read that needs the quorum, 0 if not."),
		etcdAnswers:  desc("etcd_answers", "1 if this host's member answers at all, 0 if not."),
		etcdLeader:   desc("etcd_has_leader", "1 if this host's member knows a leader, 0 if not."),
		etcdMembers:  desc("etcd_members", "Members of the cluster, as this host's member tells, by whether they vote.", "role"),
		etcdBytes:    desc("etcd_database_bytes", "Size of the database of this host's member."),
		etcdUsed:     desc("etcd_database_used_bytes", "Part of the database that a defragmentation would leave."),
		etcdRevision: desc("etcd_revision", "Revision of this host's member."),
		etcdLatency:  desc("etcd_answer_seconds", "How long this host's member took to answer, the connection included."),
		etcdAlarm:    desc("etcd_alarm", "1 for each alarm that is raised in the cluster.", "alarm"),
	}
}

// all lists the descriptions, for the registry.
func (d *descs) all() []*prometheus.Desc {
	return []*prometheus.Desc{
		d.build, d.spec, d.specValid,
		d.converged, d.convergedAt, d.converges, d.changes, d.drift,
		d.certificateEnds, d.certificateRenewed, d.certificateGood, d.authorityEnds,
		d.snapshots, d.snapshotAt, d.snapshotBytes, d.snapshotPlain, d.snapshotRevision,
		d.snapshotNext, d.snapshotOverdue, d.snapshotTaken, d.snapshotSeconds,
		d.copyReached, d.copyGood, d.copyMissing, d.copySnapshots,
		d.drillAt, d.drillGood, d.drillGoodAt, d.drillRPO, d.drillWorstRPO, d.drillRTO, d.drillSeconds, d.drillNext,
		d.etcdHealthy, d.etcdAnswers, d.etcdLeader, d.etcdMembers, d.etcdBytes, d.etcdUsed, d.etcdRevision, d.etcdLatency, d.etcdAlarm,
	}
}
