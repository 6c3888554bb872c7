package vault

import (
	"crypto/x509"
	"encoding/pem"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

// daemons is what the daemons of the fleet ask for while nothing is renewed:
// trust bundles, reports, the shared secrets on control planes, and tokens for
// it. All start within a time, and are counted from when each has looked once.
func (f *fleet) daemons(within, every time.Duration) counts {
	end := f.now.Add(within)
	for i, m := range f.hosts {
		started := f.now.Add(within * time.Duration(i) / time.Duration(len(f.hosts)))
		m.told, m.nextKeep = time.Time{}, started
		m.next = started.Add(m.follow.First())
		if m.next.After(end) {
			end = m.next
		}
	}
	act := func(m *resident) time.Time {
		if !m.at.Before(m.nextKeep) {
			m.nextKeep = m.at.Add(m.look(f.t.Context()))
		}
		f.follow(m)
		return m.at.Add(m.follow.Next(false))
	}
	f.run(end, every, act)
	return f.run(f.now.Add(15*time.Minute), every, act)
}

// follow is a look of the daemon's.
func (f *fleet) follow(m *resident) {
	applier := m.applier()
	if changed, err := applier.Refresh(f.t.Context(), m.want); err != nil || len(changed) > 0 {
		f.t.Fatalf("host %s: refresh bundles: %v, %v", m.name, changed, err)
	}
	if changed, err := applier.RefreshKeys(f.t.Context(), m.want); err != nil || len(changed) > 0 {
		f.t.Fatalf("host %s: refresh keys: %v, %v", m.name, changed, err)
	}
	if m.at.Sub(m.told) >= pki.ReportAtMost {
		if err := m.Report(f.t.Context(), pki.NewReport(m.have, m.want, m.at)); err != nil {
			f.t.Fatalf("host %s: report: %v", m.name, err)
		}
		m.told = m.at
	}
}

// renewals lets the fleet live through the next renewal of every certificate
// but the short-lived one of the administrator, and counts the requests while
// it lasts, in so many parts: logins, signings and what becomes of the tokens.
func (f *fleet) renewals(parts int) counts {
	var first, last time.Time
	for _, m := range f.hosts {
		m.at = f.now
		m.next = f.renewAt(m)
		if first.IsZero() || m.next.Before(first) {
			first = m.next
		}
		if m.next.After(last) {
			last = m.next
		}
	}
	if last.Sub(first) > period {
		f.t.Errorf("the first of these renewals is due %s before the last one, want %s at most", last.Sub(first), period)
	}
	// Until then, and meanwhile, hosts that log in by AppRole replace their
	// secret ids. That goes by their age and is not what is counted here.
	act := func(m *resident) time.Time {
		if m.secretIDDue(m.at) {
			m.look(f.t.Context())
			f.requests()
		} else {
			f.renew(m)
		}
		return f.wakes(m)
	}
	for _, m := range f.hosts {
		m.next = f.wakes(m)
	}
	f.run(first, period, act)
	return f.run(first.Add(period), period/time.Duration(parts), act)
}

// wakes is when the host has anything to do.
func (f *fleet) wakes(m *resident) time.Time {
	at := f.renewAt(m)
	c, err := m.credential()
	if err != nil {
		f.t.Fatal(err)
	}
	if due := c.due(); due.Before(at) {
		at = due
	}
	if at.Before(m.at) {
		at = m.at
	}
	return at
}

// renewAt is when the next certificate of the host is due.
func (f *fleet) renewAt(m *resident) time.Time {
	return pki.NextDue(f.lasting(m.have), f.lasting(m.want), m.at)
}

func (f *fleet) lasting(s pki.State) pki.State {
	var list []pki.Certificate
	for _, c := range s.Certificates {
		if c.Name != layout.CertAdmin {
			list = append(list, c)
		}
	}
	s.Certificates = list
	return s
}

// renew has signed what is due, with a real key. Vault counts by its own clock,
// so what it signs is moved to the host's.
func (f *fleet) renew(m *resident) {
	done := 0
	for _, c := range pki.Diff(f.lasting(m.have), f.lasting(m.want), m.at) {
		name, found := strings.CutPrefix(c.Key, "certificate ")
		if !found {
			f.t.Fatalf("host %s is to %s because %s; only certificates were to become due", m.name, c, c.Reason)
		}
		chain, err := m.trySign(m.request(name))
		if err != nil {
			f.t.Fatalf("host %s: %v", m.name, err)
		}
		block, _ := pem.Decode(chain)
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			f.t.Fatal(err)
		}
		offset := time.Until(m.at)
		for i := range m.have.Certificates {
			if have := &m.have.Certificates[i]; have.Name == name {
				have.Found.NotBefore, have.Found.NotAfter = leaf.NotBefore.Add(offset), leaf.NotAfter.Add(offset)
				done++
			}
		}
	}
	if done == 0 {
		f.t.Fatalf("host %s: nothing is due at %s", m.name, m.at)
	}
}
