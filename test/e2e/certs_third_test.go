package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/test/lab"
)

// thirdHost is n3 on a road of its own, beside what is done with the others:
// its etcd refuses a new pair, then the host is off for so long that it can do
// nothing with any of its certificates.
type thirdHost struct {
	*trio
	host  *lab.Mercury
	thief *thief
	ctx   context.Context
}

func (h *thirdHost) run(ctx context.Context) error {
	h.ctx = ctx
	for _, step := range []struct {
		name string
		run  func() error
	}{
		{"a pair that etcd cannot use is put back", h.refuse},
		{"the host is off until its certificates have ended", h.sleep},
		{"it comes back", h.wake},
	} {
		start := time.Now()
		if err := step.run(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		h.t.Logf("n3: %s: %s", step.name, time.Since(start).Round(100*time.Millisecond))
	}
	return nil
}

func (h *thirdHost) must(args ...string) (string, error) { return h.host.Exec(h.ctx, args...) }

// all runs commands on the host, until one fails.
func (h *thirdHost) all(commands ...[]string) error {
	for _, args := range commands {
		if _, err := h.must(args...); err != nil {
			return err
		}
	}
	return nil
}

const (
	etcdServerDir = "/var/lib/nodeagent/pki/certs/etcd-server"
	etcdUnit      = "nodeagent-etcd.service"
)

// refuse has etcd not read a new pair, as when a security module denies it the
// file: the process that runs sees no pair at all, and one that is started with
// another pair than the one before ends at once.
func (h *thirdHost) refuse() error {
	before, err := leafOn(h.host, "etcd-server")
	if err != nil {
		return err
	}
	old := before.SerialNumber.Text(16)
	const dropIn = "[Service]\nExecStartPre=/usr/bin/cmp -s /etc/known.crt " + etcdServerDir + "/current/tls.crt\n"
	if err := h.host.PutFile("/etc/systemd/system/"+etcdUnit+".d/denied.conf", []byte(dropIn), 0o644); err != nil {
		return err
	}
	pid, err := h.must("systemctl", "show", "-P", "MainPID", etcdUnit)
	if err != nil {
		return err
	}
	err = h.all(
		[]string{"cp", etcdServerDir + "/current/tls.crt", "/etc/known.crt"},
		[]string{"systemctl", "daemon-reload"},
		// In the process's own view of the file system alone.
		[]string{"nsenter", "-t", strings.TrimSpace(pid), "-m", "mount", "-t", "tmpfs", "-o", "ro", "denied", etcdServerDir},
	)
	if err != nil {
		return err
	}
	out, err := h.must("nodeagent", "certs", "renew", "etcd-server")
	if err == nil || !strings.Contains(err.Error(), "etcd refuses its new certificate, the one before is in use again") {
		return fmt.Errorf("renew of a pair that etcd cannot use: %w\n%s", err, out)
	}
	if strings.Contains(out, "proven") {
		return fmt.Errorf("renew says:\n%s", out)
	}
	if err := h.putBack(old); err != nil {
		return err
	}
	issued, restarts, err := h.counts()
	if err != nil {
		return err
	}
	// Nothing of it is tried again before its time, whoever looks.
	for range 2 {
		if err := h.all([]string{"systemctl", "reload", "nodeagent.service"}, []string{"nodeagent", "apply", "--only", "pki,proof,units"}); err != nil {
			return err
		}
	}
	if err := h.putBack(old); err != nil {
		return err
	}
	if i, r, err := h.counts(); err != nil || i != issued || r != restarts {
		return fmt.Errorf("after two more looks %d certificates were issued and %q restarts made; before %d, %q (%w)", i, r, issued, restarts, err)
	}
	// When what denied it is gone, the next one is taken.
	err = errors.Join(h.host.Remove("/etc/systemd/system/"+etcdUnit+".d"), h.all([]string{"systemctl", "daemon-reload"}))
	if err != nil {
		return err
	}
	if out, err := h.must("nodeagent", "certs", "renew", "etcd-server"); err != nil || !strings.Contains(out, "renewed and proven") {
		return fmt.Errorf("renew when nothing denies it any more: %w\n%s", err, out)
	}
	status, err := h.status()
	if err != nil || strings.Contains(status, "not taken") {
		return fmt.Errorf("when it was taken (%w), status says:\n%s", err, status)
	}
	return nil
}

// putBack checks that the pair of a serial number is on disk, in use, and that
// status and the list tell of the one that was refused.
func (h *thirdHost) putBack(serial string) error {
	leaf, err := leafOn(h.host, "etcd-server")
	if err != nil {
		return err
	}
	chain, err := h.shownAt(h.host, address(h.host)+":2379")
	if err != nil {
		return err
	}
	if onDisk, shown := leaf.SerialNumber.Text(16), chain[0].SerialNumber.Text(16); onDisk != serial || shown != serial {
		return fmt.Errorf("serial %s is on disk, %s is shown, want %s", onDisk, shown, serial)
	}
	if out, err := h.must("nodeagent", "certs", "show", "etcd-server"); err != nil || !strings.Contains(out, "refused") {
		return fmt.Errorf("certs show (%w):\n%s", err, out)
	}
	if status, err := h.status(); err != nil || !strings.Contains(status, "etcd-server") || !strings.Contains(status, "not taken") {
		return fmt.Errorf("status tells nothing of it (%w):\n%s", err, status)
	}
	return nil
}

// status is what status tells; its exit code says whether the host is healthy.
func (h *thirdHost) status() (string, error) {
	out, err := h.must("nodeagent", "status")
	if code := exitCode(err); code == 0 || code == 1 || code == 2 {
		err = nil
	}
	return out, err
}

// counts are the certificates that Vault has signed for etcd-server of this
// host, and the restarts of etcd.
func (h *thirdHost) counts() (signed int, restarts string, err error) {
	log, err := h.vault.GetFile(auditLog)
	if err != nil {
		return 0, "", err
	}
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, `"type":"response"`) && strings.Contains(line, place+"/etcd-server/sign/n3.etcd-server") {
			signed++
		}
	}
	restarts, err = h.must("systemctl", "show", "-p", "NRestarts,MainPID", etcdUnit)
	return signed, restarts, err
}

// sleep gives the host certificates of a minute and takes its power away.
func (h *thirdHost) sleep() error {
	if err := h.rewrite("lifetime = \"1m\"\nrenew_before = \"15s\"\n"); err != nil {
		return err
	}
	if _, err := h.must("systemctl", "reload", "nodeagent.service"); err != nil {
		return err
	}
	if err := within(h.ctx, 2*time.Minute, "certificates of a minute", func() error { _, err := h.longest(time.Minute + backdated); return err }); err != nil {
		return err
	}
	h.thief.gatherFrom(h.host)
	h.thief.leave(h.host)
	if err := h.host.Kill(h.ctx); err != nil {
		return err
	}
	last, err := h.longest(0)
	if err != nil {
		return err
	}
	if err := h.rewrite(""); err != nil {
		return err
	}
	return within(h.ctx, 2*time.Minute, "the last certificate to end", func() error {
		if left := time.Until(last); left > 0 {
			return fmt.Errorf("%s are left", left)
		}
		return nil
	})
}

// rewrite gives the host's settings of certificates to Vault, and then to all
// hosts: who asks Vault for what it does not sign yet, waits for long.
func (h *thirdHost) rewrite(more string) error {
	text := "[pki]\nkey_type = \"ed25519\"\n" + more
	if err := h.writeHost([]*lab.Mercury{h.vault}, 3, text, "etcd", "worker"); err != nil {
		return err
	}
	if out, err := h.admin("pki", "bootstrap"); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return h.writeHost(h.hosts, 3, text, "etcd", "worker")
}

// longest is the end of the host's last certificate; it is an error if one of
// them has a longer life than the limit, unless that is zero.
func (h *thirdHost) longest(limit time.Duration) (end time.Time, err error) {
	dirs, err := os.ReadDir(filepath.Join(h.host.Root(), "var/lib/nodeagent/pki/certs"))
	if err != nil || len(dirs) < 6 {
		return end, fmt.Errorf("%d certificates (%w)", len(dirs), err)
	}
	for _, dir := range dirs {
		leaf, err := leafOn(h.host, dir.Name())
		if err != nil {
			return end, err
		}
		if life := leaf.NotAfter.Sub(leaf.NotBefore); limit > 0 && life > limit {
			return end, fmt.Errorf("%s lives for %s", dir.Name(), life)
		}
		if leaf.NotAfter.After(end) {
			end = leaf.NotAfter
		}
	}
	return end, nil
}

// wake switches the host on. It says what it needs, and goes on by itself when
// it has that.
func (h *thirdHost) wake() error {
	if err := h.host.SwitchOn(h.ctx); err != nil {
		return err
	}
	if err := h.thief.follow(h.host); err != nil {
		return err
	}
	// Its own network needs nobody else.
	err := within(h.ctx, time.Minute, "the host to have its address", func() error {
		_, err := h.must("ip", "route", "get", "192.0.2.5")
		return err
	})
	if err != nil {
		return err
	}
	var status string
	err = within(h.ctx, time.Minute, "status to tell the way back", func() (err error) {
		if status, err = h.status(); err == nil && !strings.Contains(status, "cannot log in to Vault") {
			err = fmt.Errorf("status says:\n%s", status)
		}
		return err
	})
	if err != nil {
		return err
	}
	if !strings.Contains(status, "nodeagent enroll") {
		return fmt.Errorf("status does not name the way back:\n%s", status)
	}
	token, err := h.admin("pki", "token", "n3")
	if err != nil {
		return err
	}
	if _, err := h.host.ExecInput(h.ctx, strings.NewReader(token), "nodeagent", "enroll", "-"); err != nil {
		return err
	}
	start := time.Now()
	err = within(h.ctx, 3*time.Minute, "the host to have come back by itself", func() error {
		out, err := h.must("nodeagent", "plan", "--exit-code")
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
	if err != nil {
		return err
	}
	h.t.Logf("n3: back %s after it was let in", time.Since(start).Round(100*time.Millisecond))
	return within(h.ctx, time.Minute, "its node to be Ready", func() error {
		out, err := h.hosts[0].Kubectl(h.ctx, "get", "node", "n3", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		if err == nil && out != "True" {
			err = fmt.Errorf("it is %q", out)
		}
		return err
	})
}
