package pki

import (
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// TestAuthorityAlarm: a CA is spoken of weeks before it can no longer sign for
// a whole lifetime.
func TestAuthorityAlarm(t *testing.T) {
	req := Request{Name: "c", CA: layout.CAK8sClient, Client: true, KeyType: "ecdsa-p256", Lifetime: 90 * day, RenewBefore: 30 * day}
	const lasts = 400 * day // from start to the end of the authority
	for _, tc := range []struct {
		name   string
		at     time.Duration // since start; the pair is always a day old
		chain  time.Duration // the end of one between, 0 for none
		says   string        // "" for no alarm
		urgent bool
	}{
		{"fresh", 0, 0, "", false},
		{"the next renewal is well before", lasts - 160*day, 0, "", false},
		{"the next renewal will fail", lasts - 140*day, 0, "in 50 days it can no longer sign", false},
		{"weeks before", lasts - 100*day, 0, "in 10 days it can no longer sign", false},
		{"too late", lasts - 80*day, 0, "too soon to sign for the 90 days of c", true},
		{"one between ends sooner", 0, 140 * day, "in 50 days", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			now := start.Add(tc.at)
			f := Found{Condition: Sound, Serial: "1", NotBefore: now.Add(-day), NotAfter: now.Add(89 * day), SignedBy: "k", Bundle: "d"}
			if tc.chain > 0 {
				f.ChainEnd = start.Add(tc.chain)
			}
			have := State{
				Trust:        []Bundle{{CA: req.CA, Condition: Sound, Digest: "d", KeyIDs: []string{"k", "old"}, NotAfter: start.Add(999 * day), SignerEnd: start.Add(lasts)}},
				Certificates: []Certificate{{Request: req, Found: f}},
			}
			want := State{Trust: []Bundle{{CA: req.CA}}, Certificates: []Certificate{{Request: req}}}
			list := Alarms(have, want, now)
			if tc.says == "" {
				if len(list) > 0 {
					t.Errorf("alarms %v", list)
				}
				return
			}
			if len(list) != 1 || !strings.Contains(list[0].Text, tc.says) || list[0].Now != tc.urgent || !strings.Contains(list[0].Text, "certs rotate-ca k8s-client") {
				t.Errorf("alarms %+v, want %q", list, tc.says)
			}
		})
	}
}

// The local issuer renews its authorities by itself, so there is no alarm in all
// of their lives, unless the spec gives them too short ones.
func TestLocalAuthorityAlarm(t *testing.T) {
	h := newHost(t, spec("n1", "192.0.2.1", hosts.RoleEtcd))
	h.spec.PKI.CALifetime = 400 * day
	for range 50 {
		h.converge()
		if list := Alarms(h.observe(), Want(h.spec), h.now); len(list) > 0 {
			t.Fatalf("on day %d: %v", h.now.Sub(start)/day, list)
		}
		h.now = h.now.Add(20 * day)
	}
	short := newHost(t, spec("n1", "192.0.2.1", hosts.RoleEtcd))
	short.spec.PKI.CALifetime = 100 * day
	short.converge()
	if list := Alarms(short.observe(), Want(short.spec), short.now); len(list) != 2 || !strings.Contains(list[0].Text, "pki.ca_lifetime") {
		t.Errorf("alarms %v, want one for each CA", list)
	}
}

// An issuer that gives less than was asked for is named, once for each
// certificate, and not asked in a loop.
func TestShortLifeIsTold(t *testing.T) {
	h := newHost(t, spec("n1", "192.0.2.1", hosts.RoleWorker))
	issuer := counting{&Local{Root: h.root, Now: func() time.Time { return h.now }}, &tally{}, func(r *Request) error {
		if r.Name == layout.CertKubeProxy {
			r.Lifetime = 2 * day
		}
		return nil
	}}
	h.issuer = issuer
	for range 4 {
		if err := h.apply(h.diff()); err != nil {
			t.Fatal(err)
		}
	}
	list := Alarms(h.observe(), Want(h.spec), h.now)
	if len(list) != 1 || !strings.Contains(list[0].Text, "the issuer gave kube-proxy a life of 2 days, the spec asks for 90 days") {
		t.Errorf("alarms %v", list)
	}
	if issuer.asked.of(layout.CertKubeProxy) != 1 {
		t.Errorf("asked %v", issuer.asked.counts)
	}
	next := NextDue(h.observe(), Want(h.spec), h.now)
	if left := start.Add(2 * day).Sub(next); left < 12*time.Hour || left > 30*time.Hour {
		t.Errorf("it is renewed %s before its end", left)
	}
}

func TestSurvival(t *testing.T) {
	h := newHost(t, mercury())
	want := Want(h.spec)
	if until, first := Survival(h.observe(), want, h.now); !until.IsZero() || first == "" {
		t.Errorf("a host without certificates lives until %s", until)
	}
	h.converge()
	if until, _ := Survival(h.observe(), want, h.now); !until.Equal(start.Add(90 * day)) {
		t.Errorf("it lives until %s", until)
	}
	h.now = start.Add(91 * day)
	if until, first := Survival(h.observe(), want, h.now); !until.IsZero() || first == layout.CertAdmin {
		t.Errorf("with certificates that have ended it lives until %s (%s)", until, first)
	}
}
