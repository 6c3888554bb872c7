package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/calendar"
	"github.com/nodeagent/nodeagent/internal/cluster"
	"github.com/nodeagent/nodeagent/internal/golden"
	"github.com/nodeagent/nodeagent/internal/kernel"
	"github.com/nodeagent/nodeagent/internal/kube"
	"github.com/nodeagent/nodeagent/internal/names"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/internal/units"
	"github.com/nodeagent/nodeagent/netcfg"
	"github.com/nodeagent/nodeagent/pki"
)

// bareNetwork is a host of which nothing is set up: the cards are there, down
// and without addresses.
func bareNetwork(spec *hosts.Spec) netcfg.State {
	var have netcfg.State
	for _, l := range spec.Network.Links {
		if l.Kind == hosts.LinkPhysical {
			have.Links = append(have.Links, netcfg.Link{Name: l.Name, Kind: l.Kind, MTU: 1500})
		}
	}
	return have
}

// barePlan is the plan for a host that has nothing but its cards: what every
// domain's Diff makes of an empty observation.
func barePlan(t *testing.T, spec *hosts.Spec) plan.Plan {
	t.Helper()
	modules, err := kernel.Want(spec, kernel.Originals{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var p plan.Plan
	for _, changes := range [][]plan.Change{
		kernel.Diff(kernel.State{}, modules),
		names.Diff(names.State{}, names.Want(spec)),
		netcfg.Diff(bareNetwork(spec), netcfg.Want(spec)),
		pki.Diff(pki.State{}, pki.Want(spec), now),
		units.Diff(units.State{}, kube.Render(spec, "", kube.Facts{})),
		cluster.Diff(cluster.Unreachable(), cluster.Want(spec)),
	} {
		p.Changes = append(p.Changes, changes...)
	}
	return p
}

// TestShippedFleets loads, validates and plans every host of every fleet that
// is shipped.
func TestShippedFleets(t *testing.T) {
	dirs, err := filepath.Glob("../hosts/fleets/*")
	if err != nil || len(dirs) < 2 {
		t.Fatalf("shipped fleets %v, %v", dirs, err)
	}
	for _, dir := range dirs {
		fleet, err := hosts.Load(dir)
		if err != nil {
			t.Errorf("%s: %v", dir, err)
			continue
		}
		if len(fleet.Warnings) > 0 {
			t.Errorf("%s: warnings %v", dir, fleet.Warnings)
		}
		for _, spec := range fleet.Hosts {
			t.Run(filepath.Base(dir)+"/"+spec.Name, func(t *testing.T) {
				p := barePlan(t, spec)
				for _, name := range DomainNames() {
					if name == DomainHostNames && len(names.Diff(names.State{}, names.Want(spec))) == 0 {
						continue // the host keeps its own
					}
					if name == DomainProof {
						continue // nothing runs that could use a certificate
					}
					// A host without roles has its kernel, names and network only.
					idle := len(spec.Roles) == 0 && name != DomainKernel && name != DomainNetwork
					if len(p.Domain(name)) == 0 && !idle {
						t.Errorf("domain %s plans nothing on a bare host", name)
					}
				}
				var text strings.Builder
				if err := (plan.Style{MaxLines: 4}).Write(&text, p); err != nil {
					t.Fatal(err)
				}
				golden.Check(t, filepath.Join("testdata", filepath.Base(dir)+"-"+spec.Name+".txt"), text.String())
			})
		}
	}
}

func TestNextSnapshotMakesUpForMissedMoments(t *testing.T) {
	schedule := mustParse(t, "*-*-* 00/6:00:00")
	at := func(hour, minute int) time.Time { return time.Date(2026, 5, 1, hour, minute, 0, 0, time.UTC) }
	for _, tc := range []struct {
		name              string
		newest, now, want time.Time
	}{
		{"none yet", time.Time{}, at(9, 0), at(9, 0)},
		{"not due", at(6, 0), at(9, 0), at(12, 0)},
		{"missed while down", at(6, 0), at(20, 0), at(20, 0)},
		{"the clock went back since", at(6, 0), at(5, 40), at(12, 0)},
	} {
		if got := nextSnapshot(schedule, tc.newest, tc.now); !got.Equal(tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestWithDependents(t *testing.T) {
	for _, tc := range []struct{ names, want []string }{
		{nil, DomainNames()},
		{[]string{DomainNetwork}, []string{DomainNetwork}},
		{[]string{DomainPKI}, []string{DomainPKI, DomainUnits, DomainProof, DomainCluster}},
		{[]string{DomainUnits, DomainKernel}, []string{DomainUnits, DomainKernel, DomainCluster}},
	} {
		if diff := cmp.Diff(tc.want, withDependents(tc.names)); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tc.names, diff)
		}
	}
}

func mustParse(t *testing.T, expr string) calendar.Schedule {
	t.Helper()
	schedule, err := calendar.Parse(expr)
	if err != nil {
		t.Fatal(err)
	}
	return schedule
}

// TestReadmeShowsTheShippedFleet keeps the fleet in the README the real one.
func TestReadmeShowsTheShippedFleet(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../hosts/fleets/mercury/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("files %v, %v", files, err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(readme), strings.TrimSpace(string(content))) {
			t.Errorf("the README does not show %s as it is", file)
		}
	}
}
