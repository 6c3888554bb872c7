package agent

import (
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/internal/units"
)

func TestWireGuardUnit(t *testing.T) {
	content := wireGuardUnit("/usr/local/bin/nodeagent", "wg7")
	for _, line := range []string{
		"ExecStart=/usr/local/bin/nodeagent wireguard userspace wg7", "Restart=always", "Type=notify",
		"CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE",
	} {
		if !strings.Contains(content, line+"\n") {
			t.Errorf("no line %q", line)
		}
	}
	if strings.Contains(content, "%!") {
		t.Errorf("not rendered:\n%s", content)
	}
	if got := serviceDevice(units.ServiceHeader + "\n" + content); got != "wg7" {
		t.Errorf("device %q", got)
	}
	if got := serviceDevice(content); got != "" {
		t.Errorf("somebody else's unit file serves %q", got)
	}
}
