package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/nodeagent/nodeagent/test/vault"
)

// TestPKICommands leads an administrator from nothing to an enrolment token,
// on a real Vault of each version.
func TestPKICommands(t *testing.T) {
	for _, version := range vault.Versions() {
		t.Run(version, func(t *testing.T) { administer(t, vault.Start(t, version)) })
	}
}

func administer(t *testing.T, server *vault.Server) {
	fleet := t.TempDir()
	for name, content := range map[string]string{
		"cluster.toml": "[cluster]\nname = \"mercury\"\n[kubernetes]\nversion = \"1.36.3\"\npod_range = \"10.244.0.0/16\"\nservice_range = \"10.96.0.0/12\"\n" +
			"[pki]\nissuer = \"vault\"\n[pki.vault]\naddress = \"" + server.Address + "\"\nca_file = \"" + server.CAFile + "\"\n",
		"cp1.toml": "[host]\nroles = [\"control-plane\", \"etcd\"]\naddress = \"192.0.2.1\"\n",
		"w1.toml":  "[host]\nroles = [\"worker\"]\naddress = \"192.0.2.11\"\n",
	} {
		if err := os.WriteFile(filepath.Join(fleet, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("VAULT_TOKEN", server.RootToken)
	nodeagent := func(code int, args ...string) (stdout, stderr string) {
		t.Helper()
		var out, errs strings.Builder
		if got := run(t.Context(), append(args, "--fleet", fleet), &out, &errs); got != code {
			t.Fatalf("nodeagent %s: exit %d, want %d\n%s%s", strings.Join(args, " "), got, code, out.String(), errs.String())
		}
		for _, secret := range []string{server.RootToken, server.UnsealKey} {
			if strings.Contains(out.String()+errs.String(), secret) {
				t.Errorf("nodeagent %s prints a secret", strings.Join(args, " "))
			}
		}
		return out.String(), errs.String()
	}
	contains := func(text, part string) {
		t.Helper()
		if !strings.Contains(text, part) {
			t.Errorf("no %q in:\n%s", part, text)
		}
	}

	out, _ := nodeagent(2, "pki", "bootstrap", "--plan", "--exit-code")
	contains(out, "+ create role nodeagent/mercury/k8s-client/w1.kubelet-client")
	if mounts, err := server.Client().Sys().ListMounts(); err != nil || mounts["nodeagent/mercury/etcd-peer/"] != nil {
		t.Errorf("a plan has mounted something (%v)", err)
	}
	nodeagent(1, "pki", "check")
	_, errs := nodeagent(1, "pki", "token", "w1")
	contains(errs, "run nodeagent pki bootstrap")

	requests := t.TempDir()
	out, errs = nodeagent(0, "pki", "bootstrap", "--csr", requests)
	contains(out, "request "+filepath.Join(requests, "etcd-peer.csr"))
	contains(errs, "warning: authority nodeagent/mercury/etcd-peer waits for its certificate")
	if err := os.WriteFile(filepath.Join(requests, "etcd-peer.crt"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, errs = nodeagent(1, "pki", "bootstrap", "--import", requests)
	contains(errs, "etcd-peer.crt")

	// Another cluster's place, with roots in Vault.
	cluster := filepath.Join(fleet, "cluster.toml")
	content, err := os.ReadFile(cluster)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cluster, append(content, []byte("mount = \"pki/second\"\n")...), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ = nodeagent(0, "pki", "bootstrap")
	contains(out, "Vault is as the fleet says: ")
	out, _ = nodeagent(0, "pki", "bootstrap")
	contains(out, "Nothing to do: Vault is as the fleet says.")
	out, _ = nodeagent(0, "pki", "bootstrap", "--plan", "--exit-code")
	contains(out, "Nothing to do: Vault is as the fleet says.")
	out, _ = nodeagent(0, "pki", "check")
	contains(out, "Nothing found")

	out, errs = nodeagent(0, "pki", "token", "w1", "--ttl", "5m")
	contains(errs, "nodeagent enroll")
	if strings.Count(out, "\n") != 1 || strings.Contains(errs, strings.TrimSpace(out)) {
		t.Errorf("standard output has %d lines, want the token alone, and there alone", strings.Count(out, "\n"))
	}
	secret, err := server.Client().Logical().Unwrap(strings.TrimSpace(out))
	if err != nil || secret.Data["secret_id"] == nil {
		t.Errorf("the token unwraps to %v, %v", secret, err)
	}

	if _, err := server.Client().Logical().Write("pki/second/k8s-client/roles/w1.kube-proxy", map[string]any{"allow_any_name": true}); err != nil {
		t.Fatal(err)
	}
	out, _ = nodeagent(1, "pki", "check", "-o", "json")
	var checked struct {
		Findings []struct{ Severity, Where, What string }
	}
	if err := json.Unmarshal([]byte(out), &checked); err != nil || len(checked.Findings) == 0 {
		t.Errorf("check prints %s (%v)", out, err)
	}
	out, _ = nodeagent(0, "pki", "bootstrap", "-o", "json")
	contains(out, `"converged": true`)

	// A token that may do nothing is told what it lacks.
	child, err := server.Client().Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{"default"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("VAULT_TOKEN", child.Auth.ClientToken)
	_, errs = nodeagent(1, "pki", "bootstrap")
	contains(errs, "hint: 'nodeagent pki bootstrap --print-policy'")
}
