package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nodeagent/nodeagent/hosts"
)

// A fleet can say of each domain what is done about drift, and each domain finds
// what it says. Package hosts has the names for itself, as it imports no domain.
func TestEveryDomainHasADriftKey(t *testing.T) {
	dir := t.TempDir()
	cluster := "[cluster]\nname = \"t\"\n[drift]\n"
	for _, name := range DomainNames() {
		cluster += name + " = \"report\"\n"
	}
	for file, content := range map[string]string{"cluster.toml": cluster, "a.toml": "[host]\nroles = []\naddress = \"192.0.2.1\"\n"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fleet, err := hosts.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range DomainNames() {
		if got := fleet.Hosts[0].Drift[name]; got != hosts.DriftReport {
			t.Errorf("drift of domain %s is %q", name, got)
		}
	}
}
