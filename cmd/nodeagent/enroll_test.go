package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/plan"
	"github.com/nodeagent/nodeagent/pki/vault"
	servers "github.com/nodeagent/nodeagent/test/vault"
)

// TestVaultScripts runs scripts with a Vault that is ready for the fleet in
// their folder "fleet", and with enrolment tokens of n1 in token1 and token2.
func TestVaultScripts(t *testing.T) {
	for _, version := range servers.Versions() {
		t.Run(version, func(t *testing.T) {
			server := servers.Start(t, version)
			testscript.Run(t, testscript.Params{
				Dir:                 "testdata/vault",
				Condition:           conditions,
				RequireExplicitExec: true,
				Setup: func(env *testscript.Env) error {
					return prepareVault(t.Context(), server, env.WorkDir)
				},
			})
		})
	}
}

// prepareVault writes a fleet of two hosts, makes what it needs, and mints.
func prepareVault(ctx context.Context, server *servers.Server, dir string) error {
	const role = "[host]\nroles = [%q]\naddress = \"192.0.2.%d\"\n"
	files := map[string]string{
		"fleet/cluster.toml": fmt.Sprintf(`[cluster]
name = "scripts"
[kubernetes]
version = "1.36.3"
pod_range = "10.244.0.0/16"
service_range = "10.96.0.0/12"
endpoint = "192.0.2.1:6443"
cni = "none"
[pki]
issuer = "vault"
[pki.vault]
address = %q
ca_file = %q
`, server.Address, server.CAFile),
		"fleet/n1.toml": fmt.Sprintf(role, "worker", 1),
		"fleet/n2.toml": fmt.Sprintf(role, "control-plane", 2),
		"fleet/n3.toml": fmt.Sprintf(role, "etcd", 3),
	}
	if err := os.Mkdir(filepath.Join(dir, "fleet"), 0o700); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	fleet, err := hosts.Load(filepath.Join(dir, "fleet"))
	if err != nil {
		return err
	}
	want, err := vault.Want(fleet)
	if err != nil {
		return err
	}
	client := server.Client()
	have, err := vault.Observe(ctx, client, want.Place)
	if err == nil {
		err = vault.Apply(ctx, client, want.Place, vault.Diff(have, want), plan.Silent{})
	}
	if err != nil {
		return err
	}
	for _, name := range []string{"token1", "token2"} {
		e, err := vault.MintEnrolment(ctx, client, fleet.Hosts[0], 10*time.Minute)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(e.Token+"\n"), 0o600); err != nil {
			return err
		}
	}
	return nil
}
