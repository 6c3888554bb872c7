package vault

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
	vaultservers "github.com/nodeagent/nodeagent/test/vault"
)

// TestFleetIsFlat is a small part of BenchmarkFleet: the first renewals of nine
// hosts. In each third of the time a third of them has its turn; had all theirs
// at once, Vault would see three times the mean. That looks at the issuer are
// spread is tested in package pki.
func TestFleetIsFlat(t *testing.T) {
	t.Parallel()
	newFleet(t, newestVault(), 9).renewals(3).judge(t, "renewals")
}

// BenchmarkFleet lets a thousand hosts, all enrolled within five minutes, live
// through their first two renewals and through a quarter of an hour of the
// requests that their daemons make besides, against a real Vault. Hosts decide
// by a clock that jumps from one thing that is due to the next; what they ask
// for is really asked. It fails when Vault sees more than twice the mean.
func BenchmarkFleet(b *testing.B) {
	for b.Loop() {
		measureFleet(b)
	}
}

func measureFleet(b *testing.B) {
	const every = 10 * time.Second // requests of daemons are counted together
	f := newFleet(b, newestVault(), 1000)
	tell := func(name string, c counts, unit time.Duration) {
		mean, most := c.judge(b, name)
		b.ReportMetric(mean*float64(unit)/float64(c.every), name+"-mean/"+unit.String())
		b.ReportMetric(most/mean, name+"-peak-ratio")
	}
	tell("daemons", f.daemons(enrolledWithin, every), time.Second)
	// The power comes back everywhere. Few hosts would be no crowd.
	tell("daemons-started-at-once", f.daemons(0, every), time.Second)
	for _, round := range []string{"first", "second"} {
		tell(round+"-renewal", f.renewals(20), time.Hour)
	}
}

func newestVault() string {
	versions := vaultservers.Versions()
	return versions[len(versions)-1]
}

const (
	enrolledWithin = 5 * time.Minute
	lifetime       = 90 * 24 * time.Hour
	renewBefore    = 30 * 24 * time.Hour
	period         = renewBefore / 10 // in which the hosts have their turns
)

// fleet is many hosts and the clock that they share.
type fleet struct {
	t     testing.TB
	w     *world
	hosts []*resident
	audit *os.File // of the server
	now   time.Time
}

// resident is a host of a fleet.
type resident struct {
	*node
	at         time.Time // its clock
	have, want pki.State
	follow     pki.Follow
	told       time.Time // of its last report
	next       time.Time
	nextKeep   time.Time
}

func newFleet(t testing.TB, version string, n int) *fleet {
	files := trio("auth = \"approle\"\n")
	files["cluster.toml"] = strings.Replace(files["cluster.toml"], "lifetime = \"720h\"\nrenew_before = \"240h\"",
		fmt.Sprintf("lifetime = %q\nrenew_before = %q", lifetime, renewBefore), 1)
	for i := 4; i <= n; i++ {
		address := fmt.Sprintf("192.0.%d.%d", 2+i/250, 1+i%250)
		files[fmt.Sprintf("n%d.toml", i)] = fmt.Sprintf("[host]\nroles = [\"worker\"]\naddress = %q\n\n[network.link.eth0]\naddresses = [\"%s/16\"]\n", address, address)
	}
	began := time.Now()
	f := &fleet{t: t, w: newWorld(t, version, files), now: began}
	t.Logf("prepared Vault for %d hosts in %s", n, time.Since(began).Round(time.Second))
	var err error
	if f.audit, err = os.Open(f.w.server.AuditLog()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.audit.Close() })
	f.hosts = make([]*resident, n)
	var running sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i, spec := range f.w.fleet.Hosts {
		f.hosts[i] = &resident{node: f.w.node(spec.Name), want: pki.Want(spec), follow: pki.Follow{Host: spec.Name, Of: n}}
		f.hosts[i].at = began.Add(enrolledWithin * time.Duration(i) / time.Duration(n))
		f.hosts[i].now = func() time.Time { return f.hosts[i].at }
		slots <- struct{}{}
		running.Go(func() { defer func() { <-slots }(); f.hosts[i].enrol() })
	}
	running.Wait()
	if t.Failed() {
		t.FailNow()
	}
	f.now = began.Add(enrolledWithin)
	t.Logf("enrolled them, with %d certificates each and more, after %s", len(f.hosts[n-1].want.Certificates), time.Since(began).Round(time.Second))
	f.requests()
	return f
}

// enrol makes the host one of the fleet, with everything on disk.
func (m *resident) enrol() {
	ctx, offset := m.t.Context(), time.Until(m.at)
	e, err := MintEnrolment(ctx, m.w.client, m.spec, 10*time.Minute)
	if err == nil {
		_, err = m.Enroll(ctx, e.Token)
	}
	var have pki.State
	if err == nil {
		have, err = pki.Observe(ctx, m.root)
	}
	if err == nil {
		applier := m.applier()
		err = applier.Apply(ctx, pki.Diff(have, m.want, time.Now()), plan.Silent{})
	}
	if err == nil {
		m.have, err = pki.Observe(ctx, m.root)
	}
	if err != nil {
		m.t.Errorf("host %s: %v", m.name, err)
		return
	}
	for i := range m.have.Certificates {
		found := &m.have.Certificates[i].Found
		found.NotBefore, found.NotAfter = found.NotBefore.Add(offset), found.NotAfter.Add(offset)
	}
	m.silence()
}

func (m *resident) applier() *pki.Applier {
	return &pki.Applier{Root: m.root, Issuer: func(context.Context) (pki.Issuer, error) { return m.Issuer, nil }}
}

// silence closes the connections, as a host does that is silent for a minute.
func (m *resident) silence() {
	if m.session != nil {
		m.session.close()
	}
	if m.public != nil {
		m.public.close()
	}
}

// requests are how many requests Vault has audited since the last call. It does
// so before it answers.
func (f *fleet) requests() int {
	lines, err := io.ReadAll(f.audit)
	if err != nil {
		f.t.Fatal(err)
	}
	return bytes.Count(lines, []byte(`"type":"request"`))
}

// run lets hosts act in the order of time, from now until the end, and counts.
// act does what is due and says when the host is to act again; zero for never.
func (f *fleet) run(until time.Time, every time.Duration, act func(*resident) time.Time) counts {
	c := counts{every: every, list: make([]int, (until.Sub(f.now)+every-1)/every)}
	began := f.now
	for {
		m := slices.MinFunc(f.hosts, func(a, b *resident) int { return a.next.Compare(b.next) })
		if !m.next.Before(until) {
			break
		}
		m.at = m.next
		m.next = act(m)
		if m.next.IsZero() {
			m.next = until
		}
		m.silence()
		c.list[m.at.Sub(began)/every] += f.requests()
	}
	f.now = until
	for _, m := range f.hosts {
		m.at = until
	}
	return c
}

// counts are requests in equal parts of a time.
type counts struct {
	every time.Duration
	list  []int
}

// judge fails where a part has more than twice the mean.
func (c counts) judge(t testing.TB, name string) (mean, most float64) {
	t.Helper()
	sum := 0
	for _, count := range c.list {
		sum += count
		most = max(most, float64(count))
	}
	mean = float64(sum) / float64(len(c.list))
	t.Logf("%s: %d requests in %d parts of %s, %.1f in the mean, %.0f at most: %v", name, sum, len(c.list), c.every, mean, most, c.list)
	if sum == 0 || most > 2*mean {
		t.Errorf("%s: %.0f requests in one part of %s, the mean is %.1f", name, most, c.every, mean)
	}
	return mean, most
}
