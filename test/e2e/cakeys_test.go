package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/test/lab"
)

// The host keeps certificates and runs nothing: it has no server programs.
const (
	keysCluster = "[cluster]\nname = \"keys\"\n[pki.local]\nca_keys = \"credential\"\n"
	keysHost    = "[host]\nroles = [\"etcd\"]\naddress = \"203.0.113.10\"\n"

	credentialFile = "/etc/credstore.encrypted/nodeagent-ca"
	credentialUnit = "/etc/systemd/system/nodeagent.service.d/credential.conf"
)

// TestCAKeysBySystemd: nodeagent.service takes what opens the keys of the local
// issuer's CAs from systemd, encrypted in the credential store or by a file that
// LoadCredential= names; without it, it runs and says what it cannot do.
func TestCAKeysBySystemd(t *testing.T) {
	sideBySide(t)
	l := lab.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	if err := l.AddSwitch(ctx, "lan", netip.MustParsePrefix("203.0.113.1/24")); err != nil {
		t.Fatal(err)
	}
	made, err := l.AddHost(ctx, lab.HostOptions{Name: "keys", Links: []lab.Link{{Name: "eth0", Switch: "lan"}}})
	if err != nil {
		t.Fatal(err)
	}
	m := &lab.Mercury{Host: made}
	if err := errors.Join(m.PutAgent(ctx), m.PutFile("/etc/nodeagent/fleet/cluster.toml", []byte(keysCluster), 0o644),
		m.PutFile("/etc/nodeagent/fleet/keys.toml", []byte(keysHost), 0o644), m.Boot(ctx)); err != nil {
		t.Fatal(err)
	}
	h := keysUnderTest{(&host{Mercury: m}).with(t)}
	h.withoutACredential()
	h.encryptedInTheStore()
	h.byLoadCredential()
	h.credentialVanished()
}

type keysUnderTest struct{ *host }

// issues takes a certificate away and waits until the service has issued it.
func (h keysUnderTest) issues(what string) {
	h.t.Helper()
	pair := layout.Root("").Certificate(layout.CertEtcdPeer)
	h.must("rm", "-rf", pair.Dir)
	h.until(2*time.Minute, "a certificate by the service with "+what, func() error {
		if _, err := h.Exec(h.ctx, "test", "-s", pair.Cert); err != nil {
			return fmt.Errorf("%w\n%s", err, h.journal())
		}
		return nil
	})
	if out := h.must("sh", "-c", "grep -rl 'PRIVATE KEY' /var/lib/nodeagent/ca || true"); out != "" {
		h.t.Errorf("keys of CAs in clear: %s", out)
	}
}

// journal is what the service said since its last start.
func (h keysUnderTest) journal() string {
	out, err := h.Exec(h.ctx, "sh", "-c", `journalctl -o cat -u nodeagent _SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID nodeagent)`)
	if err != nil {
		return err.Error()
	}
	return out
}

// problem is why the issuer cannot issue, as status has it.
func (h keysUnderTest) problem() string {
	out, _ := h.Nodeagent(h.ctx, "status", "-o", "json") // it exits with the host's health
	var status struct {
		Issuer struct {
			Problem string `json:"problem"`
		} `json:"issuer"`
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		h.t.Fatalf("%v in:\n%s", err, out)
	}
	return status.Issuer.Problem
}

// withoutACredential: the unit that is shipped starts, and no key is made.
func (h keysUnderTest) withoutACredential() {
	h.must("systemctl", "enable", "--now", "nodeagent")
	const remedy = "systemd-creds encrypt --name=nodeagent-ca - " + credentialFile
	h.until(time.Minute, "the service to say what it lacks", func() error {
		if out := h.journal(); !strings.Contains(out, remedy) {
			return fmt.Errorf("no %q in:\n%s", remedy, out)
		}
		return nil
	})
	if out := h.must("sh", "-c", "find /var/lib/nodeagent/ca -type f || true"); out != "" {
		h.t.Errorf("made without a credential: %s", out)
	}
}

func (h keysUnderTest) encryptedInTheStore() {
	h.must("sh", "-c", "mkdir -p -m 700 "+credentialFile[:strings.LastIndex(credentialFile, "/")]+
		" && head -c 32 /dev/urandom | base64 | systemd-creds encrypt --name=nodeagent-ca - "+credentialFile)
	h.must("systemctl", "restart", "nodeagent")
	h.issues("LoadCredentialEncrypted=")
	h.agent("plan", "--only", "pki", "--exit-code")
	if p := h.problem(); p != "" {
		h.t.Errorf("the issuer's problem: %s", p)
	}
}

// byLoadCredential changes the credential for one that systemd reads from a file.
// What it was comes from the service that runs.
func (h keysUnderTest) byLoadCredential() {
	h.must("sh", "-c", "umask 077; head -c 32 /dev/urandom | base64 >/run/next")
	h.agent("certs", "passphrase", "--new-file", "/run/next")
	if err := h.PutFile(credentialUnit, []byte("[Service]\nLoadCredential=nodeagent-ca:/run/next\n"), 0o644); err != nil {
		h.t.Fatal(err)
	}
	h.must("systemctl", "daemon-reload")
	h.must("systemctl", "restart", "nodeagent")
	h.issues("LoadCredential=")
}

// credentialVanished: the service runs on, what it cannot do is one line, and
// certificates stay.
func (h keysUnderTest) credentialVanished() {
	h.must("rm", credentialUnit, credentialFile, "/run/next")
	h.must("systemctl", "daemon-reload")
	h.must("systemctl", "restart", "nodeagent")
	h.until(time.Minute, "status to tell of the credential", func() error {
		if p := h.problem(); !strings.Contains(p, `as the credential "nodeagent-ca"`) {
			return fmt.Errorf("the issuer's problem is %q", p)
		}
		return nil
	})
	h.must("systemctl", "is-active", "nodeagent")
	h.must("test", "-s", layout.Root("").Certificate(layout.CertEtcdPeer).Cert)
	h.agent("plan", "--only", "pki", "--exit-code")
	var said []string
	for line := range strings.Lines(h.journal()) {
		if strings.Contains(line, "nodeagent-ca") {
			said = append(said, line)
		}
	}
	if len(said) != 1 || !strings.Contains(said[0], "no certificate can be issued") {
		h.t.Errorf("the service says %q", said)
	}
}
