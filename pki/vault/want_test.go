package vault

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

// twoHosts is one control plane and one worker, for golden files.
func twoHosts(t testing.TB) *hosts.Fleet { return fleetOf(t, "", "cp2", "w2") }

func TestWantGolden(t *testing.T) {
	want := wantOf(t, twoHosts(t))
	var b strings.Builder
	for _, o := range want.Objects {
		fmt.Fprintf(&b, "%s\n", o.Key())
		if o.Kind == KindPolicy {
			continue // has a golden file of its own
		}
		for line := range strings.SplitSeq(describe(o), "\n") {
			fmt.Fprintf(&b, "  %s\n", line)
		}
	}
	for _, a := range want.Authorities {
		fmt.Fprintf(&b, "authority %s: O=%s, lives %s, leaves %s\n", a.Engine, a.Cluster, a.Lifetime, a.Leaf)
	}
	golden.Check(t, "testdata/want.txt", b.String())
}

func TestPolicyGolden(t *testing.T) {
	fleet := twoHosts(t)
	files := map[string]string{"admin.hcl": AdminPolicy(fleet)}
	for _, spec := range fleet.Hosts {
		files[spec.Name+".hcl"] = HostPolicy(spec)
	}
	for name, policy := range PersonalPolicies(fleet) {
		files[name[strings.LastIndex(name, ":")+1:]+".hcl"] = policy
	}
	golden.CheckTree(t, "testdata/policies", files)
}

func TestTerraformGolden(t *testing.T) {
	content, err := Terraform(wantOf(t, twoHosts(t)))
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "testdata/terraform.tf.json", string(content)+"\n")
	var parsed struct {
		Resource map[string]map[string]map[string]any
	}
	if err := json.Unmarshal(content, &parsed); err != nil {
		t.Fatal(err)
	}
	// As many resources as objects and authorities: no two share a name.
	total := 0
	for _, named := range parsed.Resource {
		total += len(named)
	}
	if want := wantOf(t, twoHosts(t)); total != len(want.Objects)+len(want.Authorities) {
		t.Errorf("%d resources for %d objects and %d authorities", total, len(want.Objects), len(want.Authorities))
	}
}

// TestNamesDoNotCollide: clusters and hosts with dashes in their names share no
// policy, and no role of one can be taken for another's.
func TestNamesDoNotCollide(t *testing.T) {
	seen := map[string]string{}
	for _, mount := range []Place{"nodeagent/a", "nodeagent/a-b", "nodeagent-a/b", "a/b/c", "a/b-c"} {
		for _, host := range []string{"n1", "b-n1", "c"} {
			name := mount.Policy(host)
			if other := seen[name]; other != "" {
				t.Errorf("%s is the policy of %s and of %s on %s", name, other, host, mount)
			}
			seen[name] = host + " on " + string(mount)
		}
	}
}

// TestEveryCertificateIsKnown: a role of a certificate that is not listed would
// stay behind when its host leaves.
func TestEveryCertificateIsKnown(t *testing.T) {
	for _, spec := range fleetOf(t, "").Hosts {
		for _, r := range pki.Requests(spec) {
			if !slices.Contains(certificates, r.Name) {
				t.Errorf("certificate %q is not in certificates", r.Name)
			}
		}
	}
}

// TestWantRefuses fleets that need no Vault.
func TestWantRefuses(t *testing.T) {
	local, err := hosts.LoadFS(fstest.MapFS{
		"cluster.toml": {Data: []byte("[cluster]\nname = \"t\"\n")},
		"a.toml":       {Data: []byte("[host]\nroles = [\"etcd\"]\naddress = \"192.0.2.1\"\n")},
	}, ".")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Want(local); err == nil || !strings.Contains(err.Error(), `issuer is "local"`) {
		t.Errorf("a fleet with the local issuer: %v", err)
	}
}

// sound is what Vault has when all is as wanted, without asking one.
func sound(want State, now time.Time) State {
	have := State{Place: want.Place, Objects: slices.Clone(want.Objects), Audit: []string{"file"}}
	for _, a := range want.Authorities {
		a.Condition, a.Default = Signing, "1"
		a.Issuers = []IssuerCertificate{{ID: "1", Key: "1", Ends: "err", Certificate: &x509.Certificate{
			Raw: []byte(a.Name), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(a.Lifetime),
		}}}
		have.Authorities = append(have.Authorities, a)
	}
	login := fingerprint(have.authority(loginAuthority).bundle())
	for i, o := range have.Objects {
		if o.Fields["certificate"] == loginAuthority {
			have.Objects[i].Fields = with(o.Fields, "certificate", login)
		}
	}
	return have
}

func TestLint(t *testing.T) {
	now := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	const leaf = 24 * time.Hour
	engine := "nodeagent/mercury/etcd-peer"
	role := Object{Kind: KindRole, Mount: engine, Name: "cp1.etcd-peer"}
	set := func(name string, value any) func(*State) {
		return func(s *State) { o := s.object(role); o.Fields = with(o.Fields, name, normal(value)) }
	}
	ends := func(in time.Duration, lived time.Duration) func(*State) {
		return func(s *State) {
			c := s.authority(layout.CAEtcdPeer).Issuers[0].Certificate
			c.NotAfter, c.NotBefore = now.Add(in), now.Add(in-lived)
		}
	}
	const years = 10 * 365 * 24 * time.Hour
	for _, tc := range []struct {
		name     string
		spoil    func(*State)
		severity string
		says     string // empty: nothing is found
	}{
		{"sound", func(*State) {}, "", ""},
		{"any name", set("allow_any_name", true), SeverityError, "any name is signed"},
		{"no validation", set("cn_validations", []string{"disabled"}), SeverityError, "switches allowed_domains off"},
		{"names from the request", set("use_csr_sans", true), SeverityError, "no policy can pin"},
		{"no default life", set("ttl", 0), SeverityError, "as long as the engine lets it"},
		{"kept", set("no_store", false), SeverityError, "storage grows"},
		{"any key", set("key_type", "any"), SeverityError, "any type"},
		{"a field without a trap", set("server_flag", false), SeverityError, "server_flag is false, the fleet needs true"},
		{"a field that this version does not know", func(s *State) {
			o := s.object(role)
			o.Fields = with(o.Fields, "x", 1)
			delete(o.Fields, "serial_number_source")
		}, "", ""},
		{"CA ends before the next leaf", ends(leaf, years), SeverityError, "refuses every renewal"},
		{"CA ends in five weeks", ends(leaf+5*7*24*time.Hour, years), SeverityWarning, "ends on"},
		{"CA ends in seven weeks", ends(leaf+7*7*24*time.Hour, years), "", ""},
		{"CA of a short life in its last fifth", ends(leaf+time.Hour, 10*time.Hour), SeverityWarning, "ends on"},
		{"CA of a short life before", ends(leaf+3*time.Hour, 10*time.Hour), "", ""},
		{"leaves are cut short", func(s *State) { s.authority(layout.CAEtcdPeer).Issuers[0].Ends = "truncate" }, SeverityWarning, "silently end"},
		{"no CA", func(s *State) { *s.authority(layout.CAEtcdPeer) = Authority{Name: layout.CAEtcdPeer, Engine: engine} }, SeverityError, "there is none"},
		{"CA without a key", func(s *State) { s.authority(layout.CAEtcdPeer).Condition = Keyless }, SeverityError, "no key of its default issuer"},
		{"CA that waits", func(s *State) { s.authority(layout.CAEtcdPeer).Condition = Waiting }, SeverityError, "waits for a certificate"},
		{"no audit", func(s *State) { s.Audit = nil }, SeverityWarning, "no audit device"},
		{"audit hidden", func(s *State) { s.AuditHidden = true }, SeverityAdvice, "may not see"},
		{"mount above", func(s *State) { s.Above = []string{"engine nodeagent"} }, SeverityError, "lies above the place"},
		{"engine of another type", func(s *State) {
			o := s.object(Object{Kind: KindEngine, Mount: engine})
			o.Fields = with(o.Fields, "type", "kv")
		}, SeverityError, "move it away"},
		{"a role of others", func(s *State) {
			s.Others = append(s.Others, Object{Kind: KindRole, Mount: engine, Name: "team", Fields: Fields{"no_store": true, "ttl": int64(1), "max_ttl": int64(1)}})
		}, SeverityWarning, "not nodeagent's"},
		{"a host that left", func(s *State) {
			s.Objects = append(s.Objects, Object{Kind: KindPolicy, Name: "nodeagent:mercury:old", Fields: Fields{}})
			slices.SortFunc(s.Objects, compareObjects)
		}, SeverityWarning, "no host of the fleet needs it"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := wantOf(t, twoHosts(t))
			have := sound(want, now)
			tc.spoil(&have)
			findings := Lint(have, want, now)
			if tc.says == "" {
				if len(findings) > 0 {
					t.Errorf("found %+v, want nothing", findings)
				}
				return
			}
			if !slices.ContainsFunc(findings, func(f Finding) bool { return f.Severity == tc.severity && strings.Contains(f.What, tc.says) }) {
				t.Errorf("found %+v, want %s %q", findings, tc.severity, tc.says)
			}
		})
	}
}

// TestDiffIsPure: the same values give the same changes, in an order in which
// they can be made.
func TestDiffIsPure(t *testing.T) {
	want := wantOf(t, twoHosts(t))
	empty := State{Place: want.Place}
	first := Diff(empty, want)
	for range 3 {
		if again := Diff(empty, want); !slices.Equal(keys(first), keys(again)) || printed(first) != printed(again) {
			t.Fatal("two diffs of the same values differ")
		}
	}
	at := func(key string) int { return slices.Index(keys(first), key) }
	for _, order := range [][2]string{
		{"create engine nodeagent/mercury/etcd-peer", "create authority nodeagent/mercury/etcd-peer"},
		{"create authority nodeagent/mercury/nodeagent", "create login nodeagent/mercury/cert/w1"},
		{"create method nodeagent/mercury/cert", "create login nodeagent/mercury/cert/w1"},
		{"create engine nodeagent/mercury/secrets", "create settings nodeagent/mercury/secrets"},
		{"create policy nodeagent:mercury:w1", "create login nodeagent/mercury/approle/w1"},
	} {
		if a, b := at(order[0]), at(order[1]); a < 0 || b < 0 || a > b {
			t.Errorf("%q is change %d, %q change %d", order[0], a, order[1], b)
		}
	}
	if left := Diff(sound(want, time.Now()), want); len(left) > 0 {
		t.Errorf("what is as wanted differs:\n%s", printed(left))
	}
}

// BenchmarkPlan is a plan for a thousand hosts, without what Vault takes.
func BenchmarkPlan(b *testing.B) {
	fleet := twoHosts(b)
	worker := specOf(b, fleet, "w1")
	for i := range 1000 {
		spec := *worker
		spec.Name = fmt.Sprintf("node-%d", i)
		fleet.Hosts = append(fleet.Hosts, &spec)
	}
	have := sound(wantOf(b, fleet), time.Now())
	for b.Loop() {
		if left := Diff(have, wantOf(b, fleet)); len(left) > 0 {
			b.Fatalf("%d changes are left", len(left))
		}
	}
}
