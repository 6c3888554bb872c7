package agent

import (
	"slices"
	"testing"
)

// TestLanesDoNotShareALock: a lane that took the other's lock would wait for it.
func TestLanesDoNotShareALock(t *testing.T) {
	for name, domains := range map[string][]string{
		"host.lock":         {DomainKernel, DomainHostNames, DomainNetwork},
		"cluster.lock":      {DomainUnits, DomainCluster},
		"certificates.lock": {DomainPKI},
		"proof.lock":        {DomainProof},
	} {
		if got := lockNames(domains); !slices.Equal(got, []string{name}) {
			t.Errorf("%v take %v", domains, got)
		}
	}
	all := lockNames(DomainNames())
	if len(all) != 4 || !slices.Equal(all, lockNames(slices.Sorted(slices.Values(DomainNames())))) {
		t.Errorf("all domains take %v, and not in one order", all)
	}
}
