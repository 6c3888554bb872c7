package etcdops

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/hosts"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// entry is a snapshot of the given age.
func entry(host string, age time.Duration, damage string) Entry {
	taken := noon.Add(-age)
	m := Manifest{Format: 1, Cluster: "c", Host: host, Taken: taken}
	return Entry{Path: m.Path("/s"), Taken: taken, Manifest: &m, Damage: damage}
}

func TestRetain(t *testing.T) {
	t.Parallel()
	foreign := Entry{Path: "/s/etcdctl.db", Taken: noon}
	one, two, three := entry("a", 1*time.Hour, ""), entry("a", 2*time.Hour, ""), entry("a", 3*time.Hour, "")
	other := entry("b", 9*time.Hour, "")
	future := entry("a", -48*time.Hour, "")
	newBroken, oldBroken := entry("a", time.Minute, "cut"), entry("a", 8*time.Hour, "cut")
	for name, tc := range map[string]struct {
		entries      []Entry
		keep         hosts.Retention
		kept, drop   []Entry
		reasonOfDrop string
	}{
		"none":                       {keep: hosts.Retention{Last: 3}},
		"fewer than kept":            {entries: []Entry{one}, keep: hosts.Retention{Last: 3}, kept: []Entry{one}},
		"oldest go":                  {entries: []Entry{three, one, two}, keep: hosts.Retention{Last: 2}, kept: []Entry{one, two}, drop: []Entry{three}, reasonOfDrop: "no rule keeps it; newer ones: 2"},
		"keep nothing keeps one":     {entries: []Entry{one, two}, keep: hosts.Retention{Last: 0}, kept: []Entry{one}, drop: []Entry{two}},
		"each host for itself":       {entries: []Entry{one, two, other}, keep: hosts.Retention{Last: 1}, kept: []Entry{one, other}, drop: []Entry{two}},
		"somebody else's stay":       {entries: []Entry{foreign, one, two}, keep: hosts.Retention{Last: 1}, kept: []Entry{foreign, one}, drop: []Entry{two}},
		"the future does not count":  {entries: []Entry{future, one, two}, keep: hosts.Retention{Last: 1}, kept: []Entry{future, one}, drop: []Entry{two}},
		"damaged do not count":       {entries: []Entry{newBroken, one, oldBroken, two}, keep: hosts.Retention{Last: 1}, kept: []Entry{newBroken, one}, drop: []Entry{two, oldBroken}},
		"only damaged ones all stay": {entries: []Entry{newBroken, oldBroken}, keep: hosts.Retention{Last: 1}, kept: []Entry{newBroken, oldBroken}},
	} {
		t.Run(name, func(t *testing.T) {
			kept, dropped := Retain(tc.entries, tc.keep, noon)
			entries := func(decisions []Decision) (out []Entry) {
				for _, d := range decisions {
					if d.Reason == "" {
						t.Errorf("no reason for %s", d.Entry.Path)
					}
					out = append(out, d.Entry)
				}
				return out
			}
			if diff := cmp.Diff(tc.kept, entries(kept)); diff != "" {
				t.Errorf("kept (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.drop, entries(dropped)); diff != "" {
				t.Errorf("dropped (-want +got):\n%s", diff)
			}
			if tc.reasonOfDrop != "" && dropped[0].Reason != tc.reasonOfDrop {
				t.Errorf("reason %q, want %q", dropped[0].Reason, tc.reasonOfDrop)
			}
		})
	}
}

// TestRetainLaws: everything is decided once, the newest good one stays, and what
// is kept is kept again.
func TestRetainLaws(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 0))
		var entries []Entry
		for range random.IntN(12) {
			e := entry(string(rune('a'+random.IntN(2))), time.Duration(random.IntN(100)-10)*time.Hour, "")
			if random.IntN(4) == 0 {
				e.Damage = "cut"
			}
			e.Manifest.ClusterID = string(rune('1' + random.IntN(3)))
			if random.IntN(5) == 0 {
				e.Manifest = nil
			}
			entries = append(entries, e)
		}
		keep := hosts.Retention{
			Last: random.IntN(5), Hourly: random.IntN(4), Daily: random.IntN(3), Weekly: random.IntN(2), Monthly: random.IntN(2),
			Within: time.Duration(random.IntN(3)*20) * time.Hour, Longest: time.Duration(random.IntN(3)*40) * time.Hour,
		}
		kept, dropped := Retain(entries, keep, noon)
		if len(kept)+len(dropped) != len(entries) {
			t.Fatalf("seed %d: %d and %d of %d", seed, len(kept), len(dropped), len(entries))
		}
		var again []Entry
		for _, d := range kept {
			again = append(again, d.Entry)
		}
		if _, more := Retain(again, keep, noon); len(more) > 0 {
			t.Fatalf("seed %d: a second time drops %v", seed, more)
		}
		newest, ok := Newest(entries)
		for _, d := range dropped {
			if d.Entry.Foreign() || d.Entry.Manifest == nil {
				t.Fatalf("seed %d: drops somebody else's %s", seed, d.Entry.Path)
			}
			if ok && d.Entry.Path == newest.Path && d.Entry.Good() && d.Entry.Taken.After(newest.Taken.Add(-1)) && !hasTwin(kept, d.Entry) {
				t.Fatalf("seed %d: drops the newest, %s", seed, d.Reason)
			}
		}
	}
}

func hasTwin(kept []Decision, e Entry) bool {
	for _, d := range kept {
		if d.Entry.Good() && d.Entry.Taken.Equal(e.Taken) {
			return true
		}
	}
	return false
}

func TestPrune(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	now := time.Now()
	for i := range 4 {
		m := Manifest{Format: 1, Cluster: "c", Host: "h", Taken: now.Add(-time.Duration(i) * time.Hour).UTC().Truncate(time.Second), Size: 3}
		if err := os.WriteFile(m.Path(dir), []byte("abc"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := writeManifest(m.Path(dir), m); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "mine.db"), []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	release, err := Lock(filepath.Join(dir, lockName))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Prune(t.Context(), dir, hosts.Retention{Last: 2}, now); !errors.Is(err, ErrBusy) {
		t.Errorf("while a save runs: %v, want %v", err, ErrBusy)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	kept, deleted, err := Prune(t.Context(), dir, hosts.Retention{Last: 2}, now)
	if err != nil || len(kept) != 3 || len(deleted) != 2 {
		t.Fatalf("kept %v, deleted %v, %v", kept, deleted, err)
	}
	if files := leftovers(t, dir); len(files) != 5 {
		t.Errorf("left %v; want two snapshots with manifests and mine.db", files)
	}
	if _, deleted, err := Prune(t.Context(), filepath.Join(dir, "none"), hosts.Retention{Last: 2}, now); err != nil || deleted != nil {
		t.Errorf("no folder: %v, %v", deleted, err)
	}
}

func TestListSeesDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(age time.Duration, size int64, manifest string) {
		m := Manifest{Format: 1, Cluster: "c", Host: "h", Taken: noon.Add(-age), Size: size}
		if err := os.WriteFile(m.Path(dir), []byte("abc"), 0o600); err != nil {
			t.Fatal(err)
		}
		err := writeManifest(m.Path(dir), m)
		if manifest != "" {
			err = os.WriteFile(manifestPath(m.Path(dir)), []byte(manifest), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(time.Hour, 3, "")
	write(2*time.Hour, 4, "")
	write(3*time.Hour, 3, "{")
	if err := os.WriteFile(filepath.Join(dir, "x.db"), []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(dir, "x.db"), noon, noon.Add(-9*time.Hour)); err != nil {
		t.Fatal(err)
	}
	entries, err := List(dir)
	if err != nil || len(entries) != 4 {
		t.Fatalf("%+v, %v", entries, err)
	}
	byDamage := map[string]int{}
	for _, e := range entries {
		switch {
		case e.Good():
			byDamage["good"]++
		case e.Foreign():
			byDamage["foreign"]++
		case strings.Contains(e.Damage, "has 3 bytes, its manifest says 4"):
			byDamage["size"]++
		case strings.Contains(e.Damage, "read manifest"):
			byDamage["manifest"]++
		}
	}
	if diff := cmp.Diff(map[string]int{"good": 1, "foreign": 1, "size": 1, "manifest": 1}, byDamage); diff != "" {
		t.Error(diff)
	}
	if newest, ok := Newest(entries); !ok || !newest.Taken.Equal(noon.Add(-time.Hour)) {
		t.Errorf("newest %+v", newest)
	}
	if entries, err := List(filepath.Join(dir, "none")); err != nil || entries != nil {
		t.Errorf("no folder: %v, %v", entries, err)
	}
}

func TestMembers(t *testing.T) {
	t.Parallel()
	spec := &hosts.Spec{
		Name: "b", Address: netip.MustParseAddr("192.0.2.2"), Roles: []hosts.Role{hosts.RoleEtcd},
		Etcd: hosts.Etcd{ClientPort: 2379, PeerPort: 2380},
		Peers: []hosts.Peer{
			{Name: "a", Address: netip.MustParseAddr("2001:db8::1"), Roles: []hosts.Role{hosts.RoleEtcd}},
			{Name: "c", Address: netip.MustParseAddr("192.0.2.3"), Roles: []hosts.Role{hosts.RoleWorker}},
		},
	}
	want := []Member{
		{Name: "a", PeerURL: "https://[2001:db8::1]:2380", ClientURL: "https://[2001:db8::1]:2379"},
		{Name: "b", PeerURL: "https://192.0.2.2:2380", ClientURL: "https://192.0.2.2:2379"},
	}
	if diff := cmp.Diff(want, Members(spec)); diff != "" {
		t.Error(diff)
	}
	if got, want := initialCluster(Members(spec)), "a=https://[2001:db8::1]:2380,b=https://192.0.2.2:2380"; got != want {
		t.Errorf("initial cluster %q, want %q", got, want)
	}
}

func TestVersionFits(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		storage, reader string
		fits            bool
	}{{"", "3.5.0", true}, {"3.6.0", "3.7.3", true}, {"3.7.0", "3.7.0", true}, {"3.7.0", "3.6.9", false}, {"4.0.0", "3.9.0", false}, {"rubbish", "3.7.0", false}} {
		if err := versionFits(tc.storage, tc.reader, "it reads"); (err == nil) != tc.fits {
			t.Errorf("%+v: %v", tc, err)
		}
	}
}

func TestBytesText(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1 << 30: "1.0 GiB", 3 << 39: "1.5 TiB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
