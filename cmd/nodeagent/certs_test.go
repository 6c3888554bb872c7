package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/agent"
	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
)

// issuedAt is when the certificates of these tests were issued.
var issuedAt = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

// issued is the certificates of the fleet's only host, as they are some time
// after they were issued.
func issued(t *testing.T, after time.Duration, spoil func(root layout.Root)) (certificatesSeen, layout.Root) {
	t.Helper()
	fleet, err := hosts.Load(filepath.Join("..", "..", "hosts", "fleets", "mercury"))
	if err != nil {
		t.Fatal(err)
	}
	spec, root := fleet.Hosts[0], layout.Root(t.TempDir())
	clock := func() time.Time { return issuedAt }
	applier := pki.Applier{Root: root, Now: clock, Issuer: func(context.Context) (pki.Issuer, error) {
		return &pki.Local{Root: root, Now: clock}, nil
	}}
	if err := applier.Apply(t.Context(), pki.Diff(pki.State{}, pki.Want(spec), issuedAt), plan.Silent{}); err != nil {
		t.Fatal(err)
	}
	spoil(root)
	have, err := pki.Observe(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	return see(root, spec, have, issuedAt.Add(after)), root
}

// serials are random, and so is the root folder; digests are of random keys.
var serials = regexp.MustCompile(`\b[0-9a-f]{28,32}\b|sha256:[0-9a-f]+`)

// steady takes out of a text what differs from run to run.
func steady(text string, root layout.Root) string {
	return serials.ReplaceAllString(strings.ReplaceAll(text, string(root), ""), "SERIAL")
}

func TestCertificatesGolden(t *testing.T) {
	const day = 24 * time.Hour
	seen, root := issued(t, 5*day, func(root layout.Root) {
		if err := os.RemoveAll(filepath.Dir(root.Certificate(layout.CertKubeProxy).Dir)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root.Certificate(layout.CertSchedulerClient).Key, []byte("nonsense"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	printed := func(out screen, print func(screen)) string {
		var b strings.Builder
		out.w = &b
		print(out)
		return steady(b.String(), root)
	}
	list := func(out screen) {
		if err := printCertificates(out, &seen); err != nil {
			t.Error(err)
		}
	}
	shown := certificateShown{seen.details[3], []agent.Proof{
		{Component: layout.Etcd, Address: "192.0.2.10:2380", State: agent.Proven},
		{Component: layout.Etcd, Address: "192.0.2.10:2380", Client: true, State: agent.ProofNot, Problem: "refused in the handshake: bad certificate"},
		{Component: layout.Etcd, Address: "127.0.0.1:2379", State: agent.ProofDown},
	}}
	shown.Refused = &pki.Refused{Serial: "ab", At: issuedAt.Add(4 * day), Attempts: 2, Reason: "etcd: it did not start"}
	shown.RetryAt, shown.PreviousEnds, shown.Revoke = issuedAt.Add(6*day), issuedAt.Add(20*day), "cd"
	show := func(out screen) {
		if err := printCertificate(out, shown, seen.now); err != nil {
			t.Error(err)
		}
	}
	powers := pki.Powers(root, seen.spec, seen.have, seen.now.Add(3*day))
	sortPowers(powers)
	report := func(out screen) {
		if err := printPowers(out, powers); err != nil {
			t.Error(err)
		}
	}
	for name, print := range map[string]func(screen){"list": list, "show": show, "report": report} {
		golden.Check(t, "testdata/certs/"+name+".terminal.txt", printed(screen{table: true}, print))
		golden.Check(t, "testdata/certs/"+name+".txt", printed(screen{}, print))
		if text := printed(screen{table: true, color: true}, print); !strings.Contains(text, "\x1b[31m") {
			t.Errorf("%s has no red:\n%s", name, text)
		}
	}
	json, err := json.MarshalIndent(shown, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "testdata/certs/show.json", steady(string(json), root)+"\n")
}

// TestListOfWhatIsHeld: a list says that issuing waits for the clock, why, and
// until when at most.
func TestListOfWhatIsHeld(t *testing.T) {
	seen, root := issued(t, 0, func(layout.Root) {})
	have := seen.have
	have.Clock = pki.Clock{Unsynchronised: true, Uptime: 30 * time.Second}
	seen = see(root, seen.spec, have, issuedAt.Add(-24*time.Hour))
	var b strings.Builder
	for _, out := range []screen{{w: &b, table: true}, {w: &b}} {
		if err := printCertificates(out, &seen); err != nil {
			t.Error(err)
		}
	}
	json, err := json.MarshalIndent(seen.held, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "testdata/certs/list.held.txt", steady(b.String()+string(json), root)+"\n")
}

// TestLifeBar: the bar is as long at any time, shrinks, and has its mark.
func TestLifeBar(t *testing.T) {
	begins := issuedAt
	s := pki.Status{NotBefore: begins, NotAfter: begins.Add(90 * time.Hour), RenewAt: begins.Add(60 * time.Hour), State: pki.StateOK}
	last := barWidth + 1
	for hour := -5; hour < 100; hour++ {
		bar := lifeBar(screen{}, s, begins.Add(time.Duration(hour)*time.Hour))
		left := strings.Count(bar, "█")
		if len([]rune(bar)) != barWidth || strings.Count(bar, "╎") != 1 || left > last {
			t.Fatalf("hour %d: %q", hour, bar)
		}
		last = left
	}
	if last != 0 {
		t.Errorf("%d cells are left after the end", last)
	}
	if bar := lifeBar(screen{}, pki.Status{}, begins); bar != strings.Repeat("·", barWidth) {
		t.Errorf("without a certificate: %q", bar)
	}
}

// TestPrintRenewed says what a revocation is worth.
func TestPrintRenewed(t *testing.T) {
	var b strings.Builder
	printRenewed(screen{w: &b}, []pki.Renewed{
		{Name: "admin", CA: "k8s-client", Before: "1", Serial: "2", NotAfter: issuedAt, Proven: true, Revoked: []string{"1"}, RevokedEnds: issuedAt},
		{Name: "etcd-peer", CA: "etcd-peer", Before: "3", Serial: "4", NotAfter: issuedAt},
		{Name: "kube-proxy", CA: "k8s-client", Before: "5", Serial: "5", NotAfter: issuedAt},
	})
	golden.Check(t, "testdata/certs/renew.txt", b.String())
}
