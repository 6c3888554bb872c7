package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"golang.org/x/sync/errgroup"

	"github.com/nodeagent/nodeagent/test/lab"
)

// TestVaultCertificates holds what a cluster's certificates are, and what is
// done with them, against a cluster that lives: the certificates that its ports
// show, programs of others that use them, a renewal, a refusal, keys changed, a
// host that was off for too long. All the while everything that passes between
// the hosts and inside them is written down, and searched for keys in the end.
//
// n1 and n2 are control planes, n3 is a worker with etcd. Each has keys of
// another type.
func TestVaultCertificates(t *testing.T) {
	sideBySide(t)
	c := newTrio(t, newestVault, "", "control-plane", "etcd", "worker")
	c.putHost(2, "[pki]\nkey_type = \"ecdsa-p384\"\n", "control-plane", "etcd", "worker")
	c.putHost(3, "[pki]\nkey_type = \"ed25519\"\n", "etcd", "worker")
	thief := c.eavesdrop()
	c.mustAdmin("pki", "bootstrap")
	c.enrol()
	start := time.Now()
	c.apply()
	c.startAgents()
	c.nodesReady(2 * time.Minute)
	t.Logf("three nodes Ready after %s", time.Since(start).Round(100*time.Millisecond))
	thief.gather()

	// What happens to n3 takes minutes of waiting, in which the others have
	// their keys changed.
	third, ctx := errgroup.WithContext(c.ctx)
	step := func(name string, run func(*testing.T, *trio)) {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			with := c.with(t)
			run(t, with)
			c.personEnds = with.personEnds
			t.Logf("%s", time.Since(start).Round(100*time.Millisecond))
		})
	}
	step("the ports show what the table says", portsShowTable)
	step("components use what the table says", clientsAreTable)
	step("OpenSSL and Go verify the files", filesVerify)
	step("kubectl, etcdctl and Go connect", programsConnect)
	step("a certificate of another authority is refused", othersAreRefused)
	third.Go(func() error {
		err := (&thirdHost{trio: c, host: c.hosts[2], thief: thief}).run(ctx)
		if err != nil {
			t.Errorf("n3: %v", err)
		}
		return err
	})
	step("a renewal is served without a restart", renewalIsServed)
	thief.gather() // the key that will be shown to Vault
	step("a revoked certificate is in Vault's list", revokedIsListed)
	step("certs tells of it", certsTells)
	step("a person's kubeconfig is for that person", personIsLetIn)
	step("keys are changed without an outage", keysChange)
	step("a person's kubeconfig ends", personIsLetOut)
	_ = third.Wait() // it has failed the test itself
	step("the ports show it in the end", portsShowTable)
	step("nobody who listened has a key", func(t *testing.T, _ *trio) { thief.search(t) })
}

// putHost replaces a host's file in every copy of the fleet.
func (c *trio) putHost(n int, more string, roles ...string) {
	c.t.Helper()
	if err := c.writeHost(append([]*lab.Mercury{c.vault}, c.hosts...), n, more, roles...); err != nil {
		c.t.Fatal(err)
	}
}

func (c *trio) writeHost(on []*lab.Mercury, n int, more string, roles ...string) error {
	text := fmt.Sprintf(trioHost, `"`+strings.Join(roles, `", "`)+`"`, 10+n, n, 10+n) + more
	text, err := lab.WithDifferences(text)
	if err != nil {
		return err
	}
	for _, h := range on {
		err = errors.Join(err, h.PutFile(fmt.Sprintf("/etc/nodeagent/fleet/n%d.toml", n), []byte(text), 0o644))
	}
	return err
}

// place is what the paths of everything of the cluster in Vault begin with.
const place = "nodeagent/trio"

// vaultClient speaks to Vault from the wire, with a token.
func (c *trio) vaultClient(token string) *api.Client {
	c.t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(c.on(c.vault, "cat", "/etc/nodeagent/vault-ca.crt")))
	client, err := api.NewClient(&api.Config{
		Address: "https://192.0.2.5:8200", Timeout: 20 * time.Second,
		HttpClient: &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return c.lab.DialWire(ctx, network, address)
			},
			TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true,
		}},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	client.SetToken(token)
	return client
}
