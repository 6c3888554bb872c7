package e2e

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/test/lab"
)

// soak is how long TestRotation rotates and lives without Vault at least: a
// quarter of an hour each with "make soak", zero otherwise. Then it rotates
// until everything was renewed twice, and lives 20 s without Vault.
func soak(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("NODEAGENT_SOAK")
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("NODEAGENT_SOAK: %v", err)
	}
	return d
}

// Lifetimes of TestRotation: so short that everything is renewed all the time,
// and then so long that a Vault that is gone for a quarter of an hour does no
// harm.
const (
	hasty   = "lifetime = \"2m\"\nadmin_lifetime = \"2m\""
	patient = "lifetime = \"90m\"\nrenew_before = \"45m\"\nadmin_lifetime = \"90m\""
)

// TestRotation renews every certificate of three hosts over and over while
// requests go on, with a Vault that goes away now and then; and then has the
// hosts live without Vault. No request may fail, no certificate may run out, and
// no pair may ever be half of one and half of another.
func TestRotation(t *testing.T) {
	sideBySide(t)
	c := newTrio(t, newestVault, hasty, "control-plane", "etcd", "worker")
	c.mustAdmin("pki", "bootstrap")
	c.enrol()
	c.apply()
	c.startAgents()
	c.nodesReady(3 * time.Minute)
	if !t.Run("renewed under load", func(t *testing.T) { renewedUnderLoad(t, c.with(t), soak(t)) }) {
		t.FailNow()
	}
	t.Run("without Vault", func(t *testing.T) { withoutVault(t, c.with(t), soak(t)) })
}

// renewedUnderLoad lets each certificate be renewed twice at least, with Vault
// away for a while in between, for as long as least.
func renewedUnderLoad(t *testing.T, c *trio, least time.Duration) {
	load, seen := c.startLoad(), newSightings()
	start := time.Now()
	var away, back time.Time // of Vault
	c.until(5*time.Minute+2*least, "two renewals of every certificate", func() error {
		if err := seen.look(c); err != nil {
			t.Error(err)
		}
		switch {
		case away.IsZero() && seen.fewest() >= 1:
			c.stopVault()
			away = time.Now()
		case !away.IsZero() && back.IsZero() && time.Since(away) > 15*time.Second:
			c.runVault()
			back = time.Now()
		}
		switch fewest := seen.fewest(); {
		case back.IsZero():
			return errors.New("Vault was not away and back yet")
		case fewest < 2:
			return fmt.Errorf("a certificate was renewed %d times", fewest)
		case time.Since(start) < least:
			return fmt.Errorf("%s are not over", least)
		}
		return nil
	})
	load.report(t, fmt.Sprintf("%s: %d renewals, of each certificate at least %d", time.Since(start).Round(time.Second), seen.all(), seen.fewest()))
	c.nodesReady(time.Minute)
}

// withoutVault gives certificates the time that an outage takes, and then takes
// Vault away.
func withoutVault(t *testing.T, c *trio, least time.Duration) {
	// Vault first: who asks it for what it does not sign yet, waits for long.
	file, text := "/etc/nodeagent/fleet/cluster.toml", fmt.Sprintf(trioCluster, patient)
	c.put(c.vault, file, text)
	c.mustAdmin("pki", "bootstrap")
	for _, h := range c.hosts {
		c.put(h, file, text)
	}
	c.reloadAgents()
	seen := newSightings()
	c.until(3*time.Minute, "certificates that live for an hour", func() error {
		return errors.Join(seen.look(c), seen.outlast(time.Now().Add(time.Hour)))
	})
	c.converged(2 * time.Minute)

	load, before := c.startLoad(), seen.all()
	c.stopVault()
	c.each("ask for the status", func(h *lab.Mercury) error {
		return lab.Within(c.ctx, 3*time.Minute, "the host to say that Vault is gone", issuerIs(h, false))
	})
	start, least := time.Now(), max(least, 20*time.Second)
	c.until(time.Minute+2*least, "the end of Vault's absence", func() error {
		if err := seen.look(c); err != nil {
			t.Error(err)
		}
		if left := least - time.Since(start); left > 0 {
			return fmt.Errorf("%s are left", left)
		}
		return nil
	})
	load.report(t, fmt.Sprintf("without Vault: %d renewals", seen.all()-before))

	c.runVault()
	c.each("ask for the status", func(h *lab.Mercury) error {
		return lab.Within(c.ctx, 6*time.Minute, "the host to say that Vault is back", issuerIs(h, true))
	})
	c.each("renew a certificate", func(h *lab.Mercury) error {
		_, err := h.Nodeagent(c.ctx, "certs", "renew", layout.CertKubeletServer)
		return err
	})
}

// issuerIs checks that the host's daemon has found Vault to answer, or not to.
// It looks at once when it is told to reload.
func issuerIs(h *lab.Mercury, answers bool) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		if _, err := h.Exec(ctx, "systemctl", "reload", "nodeagent.service"); err != nil {
			return err
		}
		out, err := h.Nodeagent(ctx, "status", "-o", "json")
		if out == "" {
			return err
		}
		var status struct {
			Issuer struct {
				Problem string `json:"problem"`
			} `json:"issuer"`
		}
		if err := json.Unmarshal([]byte(out), &status); err != nil {
			return fmt.Errorf("status of %s: %w in %s", h.Name(), err, out)
		}
		if (status.Issuer.Problem == "") != answers {
			return fmt.Errorf("status of %s says of the issuer: %q", h.Name(), status.Issuer.Problem)
		}
		return nil
	}
}

// sightings are the certificates that were seen on the hosts' disks, by host and
// certificate.
type sightings struct {
	serials map[string][]string
	ends    map[string]time.Time // of the last one
}

func newSightings() *sightings {
	return &sightings{serials: map[string][]string{}, ends: map[string]time.Time{}}
}

// look reads every certificate of every host, and fails for one that is not
// valid now.
func (s *sightings) look(c *trio) error {
	var failed []error
	for _, h := range c.hosts {
		certs := filepath.Join(h.Root(), layout.Root("").PKI(), "certs")
		names, err := os.ReadDir(certs)
		if err != nil {
			return err
		}
		for _, name := range names {
			content, err := readSwitched(filepath.Join(certs, name.Name(), "current", "tls.crt"))
			if err != nil {
				failed = append(failed, err)
				continue
			}
			block, _ := pem.Decode(content)
			if block == nil {
				failed = append(failed, fmt.Errorf("certificate %s of %s is no PEM: %q", name.Name(), h.Name(), content))
				continue
			}
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				failed = append(failed, fmt.Errorf("certificate %s of %s: %w", name.Name(), h.Name(), err))
				continue
			}
			key, serial := h.Name()+" "+name.Name(), cert.SerialNumber.Text(16)
			if !slices.Contains(s.serials[key], serial) {
				s.serials[key] = append(s.serials[key], serial)
			}
			s.ends[key] = cert.NotAfter
			if now := time.Now(); now.After(cert.NotAfter) {
				failed = append(failed, fmt.Errorf("certificate %s has ended %s ago", key, now.Sub(cert.NotAfter).Round(time.Second)))
			}
		}
	}
	return errors.Join(failed...)
}

// readSwitched reads a file below a link that may be switched at the same time:
// the generation that the link led to a moment ago is gone then.
func readSwitched(path string) (content []byte, err error) {
	for range 20 {
		if content, err = os.ReadFile(path); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return content, err
}

// fewest is how often the certificate was renewed that was renewed least.
func (s *sightings) fewest() int {
	if len(s.serials) == 0 {
		return 0
	}
	n := int(^uint(0) >> 1)
	for _, serials := range s.serials {
		n = min(n, len(serials)-1)
	}
	return n
}

// all is the number of renewals seen.
func (s *sightings) all() (n int) {
	for _, serials := range s.serials {
		n += len(serials) - 1
	}
	return n
}

// outlast fails unless every certificate ends after the moment.
func (s *sightings) outlast(moment time.Time) error {
	for key, end := range s.ends {
		if end.Before(moment) {
			return fmt.Errorf("certificate %s ends at %s", key, end)
		}
	}
	return nil
}
