package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki"
	"github.com/nodeagent/nodeagent/test/vault"
)

// TestAdoptCommands has a real Vault of each version go on as the local issuer
// of a copied host, and begins and gives up a change of a CA that is to be
// signed elsewhere.
func TestAdoptCommands(t *testing.T) {
	for _, version := range vault.Versions() {
		t.Run(version, func(t *testing.T) { adoptCopy(t, vault.Start(t, version)) })
	}
}

const localCluster = `[cluster]
name = "mercury"
[kubernetes]
version = "1.36.3"
pod_range = "10.244.0.0/16"
service_range = "10.96.0.0/12"
[pki]
issuer = "local"
`

// copiedHost is a copy of the files of a host whose local issuer has issued
// everything, and its fleet.
func copiedHost(t *testing.T) (root, fleet string) {
	t.Helper()
	root, fleet = t.TempDir(), t.TempDir()
	for name, content := range map[string]string{
		"cluster.toml": localCluster,
		"cp1.toml":     "[host]\nroles = [\"control-plane\", \"etcd\", \"worker\"]\naddress = \"192.0.2.1\"\n",
	} {
		if err := os.WriteFile(filepath.Join(fleet, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	loaded, err := hosts.Load(fleet)
	if err != nil {
		t.Fatal(err)
	}
	applier := pki.Applier{Root: layout.Root(root), Issuer: func(context.Context) (pki.Issuer, error) {
		return &pki.Local{Root: layout.Root(root)}, nil
	}}
	changes := pki.Diff(pki.State{}, pki.Want(loaded.Hosts[0]), time.Now())
	if err := applier.Apply(t.Context(), changes, plan.Silent{}); err != nil {
		t.Fatal(err)
	}
	return root, fleet
}

func adoptCopy(t *testing.T, server *vault.Server) {
	root, fleet := copiedHost(t)
	t.Setenv("VAULT_TOKEN", server.RootToken)
	nodeagent := func(code int, args ...string) string {
		t.Helper()
		var out, errs strings.Builder
		if got := run(t.Context(), append(args, "--fleet", fleet), &out, &errs); got != code {
			t.Fatalf("nodeagent %s: exit %d, want %d\n%s%s", strings.Join(args, " "), got, code, out.String(), errs.String())
		}
		if all := out.String() + errs.String(); strings.Contains(all, "PRIVATE KEY") || strings.Contains(all, "secret:") {
			t.Errorf("nodeagent %s prints a key", strings.Join(args, " "))
		}
		return out.String() + errs.String()
	}
	contains := func(text string, parts ...string) {
		t.Helper()
		for _, part := range parts {
			if !strings.Contains(text, part) {
				t.Errorf("no %q in:\n%s", part, text)
			}
		}
	}
	contains(nodeagent(1, "pki", "bootstrap", "--adopt", root), `is "local", not "vault"`)
	contains(nodeagent(64, "certs", "rotate-ca", "nodeagent"), `the local issuer has no CA "nodeagent"`)
	contains(nodeagent(64, "certs", "rotate-ca", "etcd-peer", "--csr", "x"), "for CAs in Vault")

	content := strings.Replace(localCluster, `"local"`, `"vault"`, 1) + "[pki.vault]\naddress = \"" + server.Address + "\"\nca_file = \"" + server.CAFile + "\"\n"
	if err := os.WriteFile(filepath.Join(fleet, "cluster.toml"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	contains(nodeagent(1, "pki", "bootstrap", "--adopt", t.TempDir()), "read what the local issuer holds: there is none")
	contains(nodeagent(2, "pki", "bootstrap", "--adopt", root, "--plan", "--exit-code"),
		"+ create authority nodeagent/mercury/etcd-peer", "imported from a host", "+ create secret nodeagent/mercury/secrets/encryption")
	contains(nodeagent(0, "pki", "bootstrap", "--adopt", root), "Vault is as the fleet says: ")
	contains(nodeagent(0, "pki", "bootstrap", "--adopt", root), "Nothing to do")
	contains(nodeagent(0, "pki", "bootstrap"), "Nothing to do")

	dir := t.TempDir()
	request := filepath.Join(dir, "etcd-peer.csr")
	contains(nodeagent(1, "certs", "rotate-ca", "etcd-peer", "--csr", request), "request "+request, "is not changed yet", "rotate-ca etcd-peer --signed FILE")
	if content, err := os.ReadFile(request); err != nil || !strings.Contains(string(content), "BEGIN CERTIFICATE REQUEST") {
		t.Errorf("the request is %q, %v", content, err)
	}
	contains(nodeagent(1, "certs", "rotate-ca", "etcd-peer", "--signed", request), "import the signed certificate")
	contains(nodeagent(0, "certs", "rotate-ca", "etcd-peer", "--back"), "is given up")

	// The CAs of another host of the same name: they are others.
	other, _ := copiedHost(t)
	contains(nodeagent(1, "pki", "bootstrap", "--adopt", other), "has another one", "another one is at")
}
