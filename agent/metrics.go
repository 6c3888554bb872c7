package agent

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nodeagent/nodeagent/etcdops"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/pki"
)

// metrics tells Prometheus how a host is. What it tells is looked up when it is
// asked, so that nobody pays who does not ask.
type metrics struct {
	host    *Host
	version string
	*descs

	mu                        sync.Mutex // two who ask at once are answered one after the other
	certificates, authorities []pki.Status
	looked                    time.Time // at both
}

func newMetrics(h *Host, version string) *metrics {
	return &metrics{host: h, version: version, descs: newDescs()}
}

// certificatesLook is how long a look at the certificates is good for: it reads
// and parses all of them.
const certificatesLook = time.Minute

// Describe implements prometheus.Collector.
func (m *metrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range m.all() {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), statusPatience)
	defer cancel()
	s := sink{out}
	spec := m.host.Spec()
	domains, saved, invalid := m.host.figures.read()
	s.put(m.build, 1, m.version, runtime.Version())
	s.put(m.spec, 1, spec.Cluster, spec.Name, spec.Digest)
	s.yes(m.specValid, !invalid)
	for name, d := range domains {
		m.domain(s, name, d)
	}
	m.collectCertificates(ctx, s)
	if spec.Has(hosts.RoleEtcd) {
		m.collectSnapshots(ctx, s, saved)
		m.collectEtcd(ctx, s)
	}
}

// sink sends metrics.
type sink struct{ out chan<- prometheus.Metric }

// put sends a gauge.
func (s sink) put(d *prometheus.Desc, value float64, labels ...string) {
	s.out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

// yes sends 1 or 0.
func (s sink) yes(d *prometheus.Desc, is bool, labels ...string) {
	value := 0.0
	if is {
		value = 1
	}
	s.put(d, value, labels...)
}

// at sends a time; nothing for one that is not known.
func (s sink) at(d *prometheus.Desc, moment time.Time, labels ...string) {
	if !moment.IsZero() {
		s.put(d, float64(moment.UnixMilli())/1000, labels...)
	}
}

// count sends a counter.
func (s sink) count(d *prometheus.Desc, n int, labels ...string) {
	s.out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

func (m *metrics) domain(s sink, name string, d domainFigures) {
	s.yes(m.converged, d.Converged, name)
	s.at(m.convergedAt, d.At, name)
	s.count(m.converges, d.Good, name, "converged")
	s.count(m.converges, d.Bad, name, "failed")
	s.count(m.changes, d.Changes, name)
	if m.host.reports(name) {
		s.put(m.drift, float64(d.Drift), name)
	}
}

func (m *metrics) collectCertificates(ctx context.Context, s sink) {
	now := time.Now()
	if now.Sub(m.looked) >= certificatesLook || now.Before(m.looked) {
		have, _ := ObserveCertificates(ctx, m.host.root) // what cannot be read is not usable
		want := pki.Want(m.host.Spec())
		m.certificates, m.authorities, m.looked = pki.List(have, want, now), pki.Authorities(have, want, now), now
	}
	for _, c := range m.certificates {
		s.at(m.certificateEnds, c.NotAfter, c.Name, c.CA)
		s.at(m.certificateRenewed, c.RenewAt, c.Name, c.CA)
		s.yes(m.certificateGood, c.State == pki.StateOK || c.State == pki.StateDue || waits(c, now), c.Name, c.CA)
	}
	for ca, ends := range firstEnds(m.authorities) {
		s.at(m.authorityEnds, ends, ca)
	}
}

// firstEnds is when the first certificate of each CA ends: while one is changed for
// another, there are two.
func firstEnds(authorities []pki.Status) map[string]time.Time {
	ends := map[string]time.Time{}
	for _, a := range authorities {
		if is, ok := ends[a.CA]; !a.NotAfter.IsZero() && (!ok || a.NotAfter.Before(is)) {
			ends[a.CA] = a.NotAfter
		}
	}
	return ends
}

// collectEtcd asks this host's member.
func (m *metrics) collectEtcd(ctx context.Context, s sink) {
	health, _ := etcdops.AskHealth(ctx, EtcdTLS(m.host.root), []string{localEtcd(m.host.Spec())})
	answers := false
	voting, learning := 0, 0
	for _, member := range health.Members {
		if member.Learner {
			learning++
		} else {
			voting++
		}
		if member.Endpoint == "" || member.Version == "" {
			continue
		}
		answers = true
		s.put(m.etcdBytes, float64(member.DBSize))
		s.put(m.etcdUsed, float64(member.DBInUse))
		s.put(m.etcdRevision, float64(member.Revision))
		s.put(m.etcdLatency, member.Latency.Seconds())
	}
	s.yes(m.etcdAnswers, answers)
	s.yes(m.etcdHealthy, health.Healthy)
	s.yes(m.etcdLeader, health.Leader != "")
	if answers {
		s.put(m.etcdMembers, float64(voting), "voter")
		s.put(m.etcdMembers, float64(learning), "learner")
	}
	for _, alarm := range health.Alarms {
		s.put(m.etcdAlarm, 1, alarm)
	}
}
