package pki

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// good is a state in which one certificate is just right, and its want.
func good() (have, want State) {
	req := Request{
		Name: "kubelet-server", CA: layout.CAK8sServer, CommonName: "system:node:n1", Organization: "system:nodes",
		DNSNames: []string{"n1"}, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		Server: true, KeyType: "ecdsa-p256", Lifetime: 90 * day, RenewBefore: 30 * day,
	}
	want = State{
		Host:         "n1",
		Authorities:  []Authority{{Name: req.CA, Cluster: "c", Lifetime: 3650 * day, RenewBefore: 90 * day}},
		Trust:        []Bundle{{CA: req.CA}},
		Keys:         []Key{{Name: KeyEncryption}, {Name: KeyServiceAccount}},
		Certificates: []Certificate{{Request: req}},
	}
	found := req
	found.CA, found.RenewBefore, found.Lifetime = "", 0, req.Lifetime+Backdate
	have = State{
		Authorities: []Authority{{Name: req.CA, Condition: Sound, KeyID: "k", Bundle: "d", NotBefore: start.Add(-day), NotAfter: start.Add(3649 * day)}},
		Trust:       []Bundle{{CA: req.CA, Condition: Sound, Digest: "d", KeyIDs: []string{"k"}, NotAfter: start.Add(3649 * day)}},
		Keys:        []Key{{Name: KeyEncryption, Condition: Sound}, {Name: KeyServiceAccount, Condition: Sound}},
		Certificates: []Certificate{{Request: found, Found: Found{
			Condition: Sound, Serial: "abc", NotBefore: start.Add(-day - Backdate), NotAfter: start.Add(89 * day), SignedBy: "k", Bundle: "d",
		}}},
	}
	return have, want
}

func TestDiff(t *testing.T) {
	const cert, trust, authority = "certificate kubelet-server", "trust k8s-server", "authority k8s-server"
	for _, tc := range []struct {
		name   string
		edit   func(have, want *State)
		now    time.Time
		key    string
		action plan.Action
		effect plan.Effect
		reason string
	}{
		{name: "nothing", edit: func(_, _ *State) {}},
		{"missing", func(h, _ *State) { h.Certificates = nil }, start, cert, plan.ActionIssue, plan.Quiet, "the certificate is missing"},
		{"damaged", func(h, _ *State) {
			h.Certificates[0].Found.Condition, h.Certificates[0].Found.Problem = Damaged, "tls.key is missing"
		}, start, cert, plan.ActionIssue, plan.Quiet, "tls.key is missing"},
		{"another authority", func(h, _ *State) { h.Certificates[0].Found.SignedBy = "other" }, start, cert, plan.ActionIssue, plan.Quiet, "it is not signed by the authority k8s-server that this host trusts"},
		{"another user", func(_, w *State) { w.Certificates[0].CommonName = "x" }, start, cert, plan.ActionIssue, plan.Quiet, `its common name is "system:node:n1", want "x"`},
		{"another group", func(_, w *State) { w.Certificates[0].Organization = "" }, start, cert, plan.ActionIssue, plan.Quiet, `its organisation is "system:nodes", want ""`},
		{"another usage", func(_, w *State) { w.Certificates[0].Client = true }, start, cert, plan.ActionIssue, plan.Quiet, "its usage is server, want server+client"},
		{"another key type", func(_, w *State) { w.Certificates[0].KeyType = "rsa-2048" }, start, cert, plan.ActionIssue, plan.Quiet, "its key is ecdsa-p256, want rsa-2048"},
		{"names", func(_, w *State) { w.Certificates[0].DNSNames = []string{"n2"} }, start, cert, plan.ActionIssue, plan.Quiet, "it lacks the names n2; it has the names that it should not have n1"},
		{"shorter life", func(_, w *State) { w.Certificates[0].Lifetime = 60 * day }, start, cert, plan.ActionIssue, plan.Quiet, "it lives for 90 days, want 60 days"},
		{name: "longer life", edit: func(_, w *State) { w.Certificates[0].Lifetime = 160 * day }},
		{"due", func(_, _ *State) {}, start.Add(77 * day), cert, plan.ActionRenew, plan.Quiet, "expires in 12 days, renewed 30 days before its end"},
		{"expired", func(_, _ *State) {}, start.Add(99 * day), cert, plan.ActionRenew, plan.Quiet, "expired 10 days ago"},
		{"of the future", func(h, _ *State) { h.Certificates[0].Found.NotBefore = start.Add(time.Hour) }, start, cert, plan.ActionIssue, plan.Quiet, "begins on 2027-03-01 13:00 UTC, which is in the future"},
		{"stale bundle", func(h, _ *State) { h.Certificates[0].Found.Bundle = "" }, start, cert, plan.ActionUpdate, plan.Quiet, "its ca.crt is not the trust bundle k8s-server; key and certificate stay"},
		{"unwanted", func(_, w *State) { w.Certificates = nil }, start, cert, plan.ActionDelete, plan.Quiet, "no role of this host asks for it"},
		{"unwanted trust", func(_, w *State) { w.Trust, w.Authorities, w.Certificates = nil, nil, nil }, start, trust, plan.ActionDelete, plan.Quiet, "no role of this host asks for it"},
		{"no trust", func(h, _ *State) { h.Trust = nil }, start, trust, plan.ActionCreate, plan.Quiet, "the trust bundle is missing"},
		{"another trust", func(h, _ *State) { h.Trust[0].Digest = "x" }, start, trust, plan.ActionUpdate, plan.Reload, "the trust bundle is not the authority's certificate; units that read it only when they start are restarted with the units"},
		{"no authority", func(h, _ *State) { h.Authorities = nil }, start, cert, plan.ActionIssue, plan.Quiet, "the authority k8s-server is made anew"},
		{"half an authority", func(h, _ *State) {
			h.Authorities[0].Condition, h.Authorities[0].Problem = Incomplete, "ca.crt is missing"
		}, start, authority, plan.ActionIssue, plan.Quiet, "ca.crt is missing; its key is there"},
		{"a broken authority", func(h, _ *State) {
			h.Authorities[0].Condition, h.Authorities[0].Problem = Damaged, "ca.key is missing"
		}, start, authority, plan.ActionIssue, plan.Quiet, "ca.key is missing; a person must mend it"},
		{"an old authority", func(_, _ *State) {}, start.Add(3600 * day), authority, plan.ActionRenew, plan.Quiet, "expires in 49 days, renewed 90 days before its end; the key stays, so that what it signed stays valid"},
		{"no encryption key", func(h, _ *State) { h.Keys = h.Keys[1:] }, start, "key encryption", plan.ActionIssue, plan.Quiet, "the key is missing"},
		{"a lost encryption key", func(h, _ *State) { h.Keys, h.EtcdData = h.Keys[1:], true }, start, "key encryption", plan.ActionIssue, plan.Quiet, "the key is missing, but etcd holds data that may be encrypted with it; none is made, a person must put it back"},
		{"mode", func(h, _ *State) {
			h.Modes = []Mode{{Path: "/p/tls.key", Have: 0o644, Want: 0o600}}
		}, start, "mode /p/tls.key", plan.ActionUpdate, plan.Quiet, "its mode is 0644, want 0600"},
		{"leftovers", func(h, _ *State) { h.Certificates[0].Found.Leftovers = []string{"generation-1"} }, start, "leftovers of certificate kubelet-server", plan.ActionDelete, plan.Quiet, "an interrupted run left it"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			have, want := good()
			tc.edit(&have, &want)
			if tc.now.IsZero() {
				tc.now = start
			}
			changes := Diff(have, want, tc.now)
			if tc.key == "" {
				if len(changes) > 0 {
					t.Errorf("want no change, got:\n%s", printed(changes))
				}
				return
			}
			got := only(t, changes, tc.key)
			reason := strings.Replace(got.Reason, "renewed 31 days", "renewed 30 days", 1) // with this host's jitter
			if got.Action != tc.action || got.Effect != tc.effect || reason != tc.reason || got.Domain != Domain {
				t.Errorf("got %s (%s): %s", got.Action, got.Effect, got.Reason)
			}
			if again := Diff(have, want, tc.now); printed(again) != printed(changes) {
				t.Error("a second Diff of the same values differs")
			}
		})
	}
}

// The order of a first plan: authorities, trust, keys, certificates.
func TestDiffOrder(t *testing.T) {
	var kinds []string
	for _, c := range Diff(State{}, Want(mercury()), start) {
		kind, _, _ := strings.Cut(c.Key, " ")
		kinds = append(kinds, kind)
	}
	if got := slices.Compact(kinds); !slices.Equal(got, []string{"authority", "trust", "key", "certificate"}) {
		t.Errorf("order %v", got)
	}
}

// No change prints a key, in whatever state the host is.
func TestNoSecretIsPrinted(t *testing.T) {
	h := newHost(t, mercury())
	h.converge()
	secrets := []string{
		readString(t, h.root.ServiceAccountKey()), readString(t, h.root.Certificate(layout.CertAdmin).Key),
		readString(t, filepath.Join(h.root.LocalCA(layout.CAK8sClient), authorityKey)), readString(t, h.root.EncryptionConfig()),
	}
	for _, path := range []string{h.root.ServiceAccountKey(), h.root.Certificate(layout.CertAdmin).Key, h.root.EncryptionConfig()} {
		write(t, path, readString(t, path)+"trailing", 0o644)
	}
	have, want := h.observe(), Want(h.spec)
	printed, err := json.Marshal(struct {
		Plan   plan.Plan
		Have   State
		Status []Status
		Inputs map[string]string
	}{plan.Plan{Changes: Diff(have, want, h.now)}, have, List(have, want, h.now), Inputs(h.root)})
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range secrets {
		for _, line := range strings.Split(secret, "\n") {
			line = strings.TrimPrefix(strings.TrimSpace(line), "secret: ")
			if len(line) > 30 && !strings.HasPrefix(line, "-----") && !strings.HasPrefix(line, "apiVersion") && strings.Contains(string(printed), line) {
				t.Fatalf("a line of a secret is printed: %s", printed)
			}
		}
	}
}

func TestRolesComeAndGo(t *testing.T) {
	h := newHost(t, mercury())
	h.converge()
	authorities, encryption := h.observe().Authorities, readString(t, h.root.EncryptionConfig())
	h.spec.Roles = []hosts.Role{hosts.RoleWorker}
	h.converge()
	for _, gone := range []string{h.root.Certificate(layout.CertAPIServer).Dir, filepath.Dir(h.root.Certificate(layout.CertEtcdPeer).Dir), h.root.Trust(layout.CAEtcdPeer)} {
		if _, err := os.Lstat(gone); !os.IsNotExist(err) {
			t.Errorf("%q is still there: %v", gone, err)
		}
	}
	// What may be needed again stays.
	if diff := cmp.Diff(authorities, h.observe().Authorities); diff != "" {
		t.Errorf("authorities changed:\n%s", diff)
	}
	if readString(t, h.root.EncryptionConfig()) != encryption {
		t.Error("the encryption key changed")
	}
	h.spec.Roles = mercury().Roles
	h.converge()
}

func TestListAndInputs(t *testing.T) {
	h := newHost(t, mercury())
	if got := Inputs(h.root); len(got) > 0 {
		t.Errorf("inputs of a fresh host: %v", got)
	}
	h.converge()
	inputs := Inputs(h.root)
	if len(inputs) != 7 {
		t.Errorf("%d inputs, want 5 bundles and the key pair: %v", len(inputs), inputs)
	}
	h.now = h.now.Add(4 * day) // the admin certificate is due after 4 2/3 days at most
	states := func() map[string]string {
		have, got := h.observe(), map[string]string{}
		for _, s := range List(have, Want(h.spec), h.now) {
			got[s.Name] = s.State
		}
		for _, s := range Authorities(have, Want(h.spec), h.now) {
			got["authority "+s.Name] = s.State
		}
		return got
	}
	for name, state := range states() {
		if state != StateOK {
			t.Errorf("%s is %s", name, state)
		}
	}
	h.now = h.now.Add(day)
	if got := states()["admin"]; got != StateDue {
		t.Errorf("admin is %s, want it due", got)
	}
	h.now = h.now.Add(3 * day)
	if got := states()["admin"]; got != StateExpired {
		t.Errorf("admin is %s, want it expired", got)
	}
	h.converge()
	if diff := cmp.Diff(inputs, Inputs(h.root)); diff != "" {
		t.Errorf("renewing a leaf changes the inputs of units:\n%s", diff)
	}
	write(t, h.root.Certificate(layout.CertAdmin).Cert, "x", 0o644)
	write(t, h.root.Certificate(layout.CertKubeProxy).Key, "x", 0o600)
	if err := os.RemoveAll(filepath.Dir(h.root.Certificate(layout.CertEtcdPeer).Dir)); err != nil {
		t.Fatal(err)
	}
	got := states()
	for name, want := range map[string]string{layout.CertAdmin: StateDamaged, layout.CertKubeProxy: StateDamaged, layout.CertEtcdPeer: StateMissing} {
		if got[name] != want {
			t.Errorf("%s is %s, want %s", name, got[name], want)
		}
	}
}
