package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// onHost are the paths on the host.
const onHost = layout.Root("")

// repairLimit is how long run may take to find and mend one fault. Most are
// announced and mended in a second; kube-apiserver may need a minute to come
// up on a busy machine.
const repairLimit = 2 * time.Minute

// runRepairsComponents kills each component the hard way, then stops one
// politely, which systemd itself would leave at that.
func runRepairsComponents(t *testing.T, h *host) {
	h.must("systemctl", "enable", "--now", "nodeagent.service")
	for _, unit := range components {
		// The controller manager and the scheduler exit when the API server is
		// gone for longer than their leases, and are just being started again.
		h.until(repairLimit, unit+" to run before it is killed", func() error { return h.runsAnew(unit, "0") })
		start := time.Now()
		before := mainPIDs(h)[unit]
		h.must("systemctl", "kill", "--signal=SIGKILL", "--kill-whom=main", unit)
		h.until(repairLimit, unit+" to run again", func() error { return h.runsAnew(unit, before) })
		t.Logf("%s runs again %s after its kill -9", unit, time.Since(start).Round(time.Millisecond))
	}
	unit := layout.Unit(layout.Scheduler)
	before := mainPIDs(h)[unit]
	h.must("systemctl", "stop", unit)
	h.until(repairLimit, unit+" to run again after it was stopped", func() error { return h.runsAnew(unit, before) })

	h.settled()
	if answer, err := h.Hello(h.ctx); err != nil {
		t.Errorf("after every component was killed: %v", err)
	} else {
		t.Logf("the pod still says: %s", answer)
	}
}

// runsAnew tells whether the unit is active in another process than before.
func (h *host) runsAnew(unit, before string) error {
	out, err := h.Exec(h.ctx, "systemctl", "show", "--property=ActiveState,MainPID", "--value", unit)
	if err != nil {
		return err
	}
	pid, state := "", ""
	for _, field := range strings.Fields(out) {
		if strings.Trim(field, "0123456789") == "" {
			pid = field
		} else {
			state = field
		}
	}
	if state != "active" || pid == before || pid == "0" {
		return fmt.Errorf("%s is %s as process %s, it was process %s", unit, state, pid, before)
	}
	return nil
}

// settled waits until everything is as the spec says and the node is Ready.
func (h *host) settled() {
	h.t.Helper()
	h.until(repairLimit, "an empty plan", func() error {
		if changes := h.plan(); len(changes) > 0 {
			return fmt.Errorf("%d changes: %+v", len(changes), changes)
		}
		return nil
	})
	if err := h.NodeReady(h.ctx); err != nil {
		h.t.Fatal(err)
	}
}

func runRepairsAddress(t *testing.T, h *host) {
	addresses := h.addresses()
	if len(addresses) == 0 {
		t.Fatal("eth0 has no address to delete")
	}
	start := time.Now()
	h.must("ip", "address", "del", addresses[0], "dev", "eth0")
	h.until(repairLimit, "address "+addresses[0]+" on eth0", func() error {
		if now := h.addresses(); len(now) == 0 || now[0] != addresses[0] {
			return fmt.Errorf("eth0 has %q", now)
		}
		return nil
	})
	t.Logf("the address is back after %s", time.Since(start).Round(time.Millisecond))
	h.settled()
}

// addresses of eth0, IPv4 and with their prefix lengths.
func (h *host) addresses() []string {
	h.t.Helper()
	var addresses []string
	for line := range strings.Lines(h.must("ip", "-o", "-4", "address", "show", "dev", "eth0", "scope", "global")) {
		if fields := strings.Fields(line); len(fields) > 3 {
			addresses = append(addresses, fields[3])
		}
	}
	return addresses
}

func runRepairsSysctl(t *testing.T, h *host) {
	const name = "net.ipv4.ip_forward" // without it no pod reaches another host
	start := time.Now()
	h.must("sysctl", "-w", name+"=0")
	h.until(repairLimit, name+" to be 1 again", func() error {
		if value := strings.TrimSpace(h.must("sysctl", "-n", name)); value != "1" {
			return fmt.Errorf("it is %s", value)
		}
		return nil
	})
	t.Logf("the sysctl is back after %s", time.Since(start).Round(time.Millisecond))
	h.settled()
}

// runRepairsCertificate deletes a certificate with its key. A new pair must
// come, and the component that reads it only at its start must not go on with
// the old one in memory for ever; the scheduler's is picked up by itself.
func runRepairsCertificate(t *testing.T, h *host) {
	for _, name := range []string{layout.CertSchedulerClient, layout.CertAPIServer} {
		files := onHost.Certificate(name)
		before, err := h.GetFile(files.Cert)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		h.must("sh", "-c", "rm -f "+files.Dir+"/*")
		h.until(repairLimit, "a new certificate "+name, func() error {
			after, err := h.GetFile(files.Cert)
			switch {
			case errors.Is(err, os.ErrNotExist):
				return fmt.Errorf("no %s", files.Cert)
			case err != nil:
				return err
			case string(after) == string(before):
				return errors.New("the old one is back")
			}
			_, err = h.GetFile(files.Key)
			return err
		})
		t.Logf("certificate %s is new after %s", name, time.Since(start).Round(time.Millisecond))
		h.settled()
	}
}
