package e2e

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/test/lab"
)

// started is when each component's process of a host began, with its id.
func (c *trio) started(h *lab.Mercury, components ...string) map[string]string {
	c.t.Helper()
	seen := map[string]string{}
	for _, name := range components {
		seen[name] = strings.Join(strings.Fields(c.on(h, "systemctl", "show", "-p", "MainPID,NRestarts,ExecMainStartTimestampMonotonic", "nodeagent-"+name)), " ")
	}
	return seen
}

// renewalIsServed renews what a control plane's ports show, and what it speaks
// with. All of its components read new pairs by themselves.
func renewalIsServed(t *testing.T, c *trio) {
	h := c.hosts[1]
	components := []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet"}
	before := c.started(h, components...)
	rows := serverRows(h.Name(), address(h), true)
	old, names := map[string]string{}, []string{"certs", "renew", "-o", "json"}
	for _, r := range append(rows, clientRows(h.Name(), true)...) {
		old[r.name] = serialOn(t, h, r.name)
		names = append(names, r.name)
	}
	out := c.on(h, append([]string{"nodeagent"}, names...)...)
	var said struct {
		Done         bool
		Certificates []struct {
			Name, Before, Serial string
			Proven               bool
		}
	}
	if err := json.Unmarshal([]byte(out), &said); err != nil || !said.Done || len(said.Certificates) != len(old) {
		t.Fatalf("certs renew (%v): %s", err, out)
	}
	for _, r := range said.Certificates {
		if !r.Proven || r.Before != old[r.Name] || r.Serial == r.Before || r.Serial != serialOn(t, h, r.Name) {
			t.Errorf("%s was %s: %+v", r.Name, old[r.Name], r)
		}
	}
	for _, r := range rows {
		chain, err := c.shownAt(h, r.at)
		if err != nil {
			t.Errorf("%s: %v", r.at, err)
			continue
		}
		if got := chain[0].SerialNumber.Text(16); got == old[r.name] || got != serialOn(t, h, r.name) {
			t.Errorf("%s shows serial %s, which is not the new one; the old one is %s", r.at, got, old[r.name])
		}
	}
	for name, now := range c.started(h, components...) {
		if now != before[name] {
			t.Errorf("%s was restarted: %s, before %s", name, now, before[name])
		}
	}
}

// serialOn is the serial number of a certificate on a host's disk.
func serialOn(t *testing.T, h *lab.Mercury, name string) string {
	t.Helper()
	leaf, err := leafOn(h, name)
	if err != nil {
		t.Fatal(err)
	}
	return leaf.SerialNumber.Text(16)
}

func leafOn(h *lab.Mercury, name string) (*x509.Certificate, error) {
	content, err := os.ReadFile(filepath.Join(h.Root(), "var/lib/nodeagent/pki/certs", name, "current/tls.crt"))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(content)
	if block == nil {
		return nil, fmt.Errorf("%s on %s is no PEM", name, h.Name())
	}
	return x509.ParseCertificate(block.Bytes)
}

// revokedIsListed renews the administrator's certificate as after a leak.
func revokedIsListed(t *testing.T, c *trio) {
	h := c.hosts[1]
	old, err := leafOn(h, "admin")
	if err != nil {
		t.Fatal(err)
	}
	list := func() []x509.RevocationListEntry {
		crl, err := x509.ParseRevocationList(c.readVault(place + "/k8s-client/crl"))
		if err != nil {
			t.Fatal(err)
		}
		return crl.RevokedCertificateEntries
	}
	listed := func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(old.SerialNumber) == 0 }
	if slices.ContainsFunc(list(), listed) {
		t.Fatal("the certificate is revoked already")
	}
	out := c.on(h, "nodeagent", "certs", "renew", "--revoke", "admin")
	if !strings.Contains(out, "revoked: "+old.SerialNumber.Text(16)) || !strings.Contains(out, "rotate-ca k8s-client") {
		t.Errorf("renew --revoke says:\n%s", out)
	}
	if !slices.ContainsFunc(list(), listed) || len(list()) != 1 {
		t.Errorf("Vault's list has %v, want serial %s alone", list(), old.SerialNumber.Text(16))
	}
	if _, err := h.Kubectl(c.ctx, "get", "nodes"); err != nil {
		t.Errorf("with the new one: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(h.Root(), "var/lib/nodeagent/operations/revoke/*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// certsTells holds what the commands say against what lies on disk and what the
// ports show.
func certsTells(t *testing.T, c *trio) {
	h := c.hosts[0]
	rows := append(serverRows(h.Name(), address(h), true), clientRows(h.Name(), true)...)
	var list struct {
		Host         string
		Certificates []struct {
			Name, CA, State, Serial string
			NotAfter                time.Time `json:"not_after"`
			RenewAt                 time.Time `json:"renew_at"`
		}
	}
	read(t, c.on(h, "nodeagent", "certs", "list", "-o", "json"), &list)
	if list.Host != h.Name() || len(list.Certificates) != len(rows) {
		t.Errorf("certs list has %d certificates of %s, want %d", len(list.Certificates), list.Host, len(rows))
	}
	for _, s := range list.Certificates {
		i := slices.IndexFunc(rows, func(r row) bool { return r.name == s.Name })
		leaf, err := leafOn(h, s.Name)
		if i < 0 || err != nil {
			t.Errorf("certs list has %s: %v", s.Name, err)
			continue
		}
		if s.State != "ok" || s.CA != rows[i].ca || s.Serial != leaf.SerialNumber.Text(16) || !s.NotAfter.Equal(leaf.NotAfter) ||
			!s.RenewAt.Before(s.NotAfter) || !s.RenewAt.After(time.Now()) {
			t.Errorf("certs list says %+v", s)
		}
	}
	var shown struct {
		Trusted bool
		Usage   string
		Names   []string
		Proofs  []struct{ Component, Address, State string }
	}
	read(t, c.on(h, "nodeagent", "certs", "show", "kube-apiserver", "-o", "json"), &shown)
	if !shown.Trusted || shown.Usage != "server" || !slices.Contains(shown.Names, "10.96.0.1") || len(shown.Proofs) != 1 ||
		shown.Proofs[0].State != "proven" || shown.Proofs[0].Address != "127.0.0.1:6443" {
		t.Errorf("certs show says %+v", shown)
	}
	var report struct {
		Keys []struct {
			Key, File, Reach string
			AcceptedBy       string `json:"accepted_by"`
		}
	}
	read(t, c.on(h, "nodeagent", "certs", "report", "-o", "json"), &report)
	reach := map[string]string{}
	for _, k := range report.Keys {
		if _, err := os.Stat(filepath.Join(h.Root(), k.File)); err != nil || k.AcceptedBy == "" {
			t.Errorf("certs report: %+v: %v", k, err)
		}
		reach[strings.TrimPrefix(strings.TrimPrefix(k.Key, "certificate "), "key ")] = k.Reach
	}
	for key, want := range map[string]string{
		"admin": "cluster", "etcd-server": "cluster", "apiserver-etcd-client": "cluster", "service-account": "cluster", "encryption": "cluster",
		"nodeagent": "cluster", "kubelet-client": "host", "kube-scheduler": "host",
	} {
		if reach[key] != want {
			t.Errorf("certs report: the reach of %s is %q, want %q", key, reach[key], want)
		}
	}
}

func read(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
}

// personIsLetIn makes a person's kubeconfig with a token that may do nothing
// else, and uses it until it has ended.
func personIsLetIn(t *testing.T, c *trio) {
	const life = 2 * time.Minute
	secret, err := c.vaultClient(c.token).Auth().Token().CreateWithContext(c.ctx, &api.TokenCreateRequest{
		Policies: []string{strings.ReplaceAll(place, "/", ":") + ":role:admin-kubeconfig"}, NoDefaultPolicy: true, TTL: "10m",
	})
	if err != nil {
		t.Fatal(err)
	}
	personally := func(args ...string) (string, error) {
		return c.vault.Exec(c.ctx, append([]string{"env", "VAULT_TOKEN=" + secret.Auth.ClientToken, "nodeagent", "kubeconfig", "-o", "json"}, args...)...)
	}
	out, err := personally("--group", "nodeagent:admins", "--user", "alice", "--ttl", life.String(), "--out", "/root/alice.kubeconfig")
	if err != nil {
		t.Fatal(err)
	}
	var made struct {
		User, Group string
		NotAfter    time.Time `json:"not_after"`
	}
	read(t, out, &made)
	if left := time.Until(made.NotAfter); made.User != "nodeagent:admin:alice" || made.Group != "nodeagent:admins" || left > life || left < life-30*time.Second {
		t.Errorf("kubeconfig says %s", out)
	}
	if out, err := personally("--group", "system:masters", "--ttl", "1h", "--out", "/root/mallory.kubeconfig"); err == nil || !strings.Contains(err.Error(), "denied") {
		t.Errorf("a token for the group nodeagent:admins made one for system:masters: %v\n%s", err, out)
	}
	if out, err := c.admin("kubeconfig", "--group", "system:masters", "--ttl", "10m", "--out", "/root/break-glass.kubeconfig"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	with := func(name string, args ...string) (string, error) {
		return c.hosts[0].Exec(c.ctx, append([]string{"/opt/kubernetes/bin/kubectl", "--kubeconfig=/root/" + name + ".kubeconfig"}, args...)...)
	}
	for name, want := range map[string]string{
		"alice":       `nodeagent:admin:alice ["nodeagent:admins","system:authenticated"]`,
		"break-glass": `kubernetes-super-admin ["system:masters","system:authenticated"]`,
	} {
		content, err := c.vault.GetFile("/root/" + name + ".kubeconfig")
		if err == nil {
			err = c.hosts[0].PutFile("/root/"+name+".kubeconfig", content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got, err := with(name, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username} {.status.userInfo.groups}"); err != nil || got != want {
			t.Errorf("with it %s is %q (%v), want %q", name, got, err, want)
		}
	}
	// Her rights are the group's: those that somebody else has who is in it.
	hers, err := with("alice", "auth", "can-i", "--list")
	if err != nil {
		t.Fatal(err)
	}
	groups, err := with("break-glass", "auth", "can-i", "--list", "--as=somebody", "--as-group=nodeagent:admins", "--as-group=system:authenticated")
	if err != nil || groups != hers {
		t.Errorf("her rights are\n%s\nthe group's (%v) are\n%s", hers, err, groups)
	}
	nobodys, err := with("break-glass", "auth", "can-i", "--list", "--as=somebody", "--as-group=system:authenticated")
	if err != nil || nobodys == hers {
		t.Errorf("somebody in no group has (%v)\n%s", err, nobodys)
	}
	if _, err := with("alice", "get", "--raw", "/api"); err != nil && time.Now().Before(made.NotAfter) {
		t.Errorf("she is not let in %s before the end: %v", time.Until(made.NotAfter), err)
	}
	c.personEnds = made.NotAfter
}

// personIsLetOut tries the kubeconfig when its time is over.
func personIsLetOut(t *testing.T, c *trio) {
	with := func(name string) error {
		_, err := c.hosts[0].Exec(c.ctx, "/opt/kubernetes/bin/kubectl", "--kubeconfig=/root/"+name+".kubeconfig", "get", "--raw", "/api")
		return err
	}
	c.until(2*time.Minute, "her certificate to end", func() error {
		if time.Now().Before(c.personEnds) {
			return fmt.Errorf("it ends in %s", time.Until(c.personEnds))
		}
		return nil
	})
	if err := with("alice"); err == nil || !strings.Contains(err.Error(), "provide credentials") && !strings.Contains(err.Error(), "nauthorized") {
		t.Errorf("after its end: %v", err)
	}
	if err := with("break-glass"); err != nil {
		t.Errorf("with one that has not ended: %v", err)
	}
}

// within waits as until does, and returns the error: for what runs beside the
// test.
func within(ctx context.Context, limit time.Duration, what string, check func() error) error {
	return lab.Within(ctx, limit, what, func(context.Context) error { return check() })
}
