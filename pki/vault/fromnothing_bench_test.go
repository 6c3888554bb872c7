package vault

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
	"github.com/nodeagent/nodeagent/test/measure"
	"github.com/nodeagent/nodeagent/test/servers"
)

// rounds is how often each way is measured; they take turns.
const rounds = 9

// BenchmarkFromNothing has every certificate of a control-plane host with etcd
// issued into an empty root folder: by `nodeagent apply --only pki`, and by
// `vault agent` with a pkiCert template for each of them. Both log in by AppRole
// to the same server, use the same roles and fetch the same two secrets. It
// reports medians, and nodeagent's part of what the agent takes.
func BenchmarkFromNothing(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("runs nodeagent in a root folder of its own: needs root")
	}
	builder, err := servers.New(b.Output())
	if err != nil {
		b.Fatal(err)
	}
	peer, err := builder.ReleasedVaultAgent(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	program, err := builder.Agent(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	files := trio("auth = \"approle\"\n")
	files["n1.toml"] = strings.Replace(files["n1.toml"], `["control-plane"]`, `["etcd", "control-plane"]`, 1)
	w := newWorld(b, newestVault(), files)
	ways := []contender{newNodeagent(w, program, files), newVaultAgent(w, peer)}
	launcher, err := measure.Build(b.Context(), b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		all := make([][]effort, len(ways))
		for round := range rounds + 1 {
			for i, way := range ways {
				if e := way.run(b, launcher); round > 0 { // the first one fills caches
					all[i] = append(all[i], e)
				}
			}
		}
		reportEfforts(b, all[0], all[1])
	}
}

// contender gets one host its certificates from nothing.
type contender interface {
	run(b *testing.B, l measure.Launcher) effort
}

// keeps are the certificates that the host keeps.
func keeps(spec *hosts.Spec) []pki.Request {
	return slices.DeleteFunc(pki.Requests(spec), func(r pki.Request) bool { return r.Name == pki.Ephemeral(spec.Name).Name })
}

// mustPair fails where the files are not a certificate with its key.
func mustPair(b *testing.B, r pki.Request, cert, key string) {
	b.Helper()
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		b.Fatalf("certificate %s: %v", r.Name, err)
	}
	if cn := pair.Leaf.Subject.CommonName; cn != r.CommonName {
		b.Fatalf("certificate %s is of %q", r.Name, cn)
	}
}

// ourAgent is nodeagent, in a root folder that has nothing but the fleet, the
// CA of Vault and the host's AppRole login.
type ourAgent struct {
	w       *world
	spec    *hosts.Spec
	program string            // on the file system of the root folders
	files   map[string][]byte // what lies in the folder before, by path
}

func newNodeagent(w *world, program string, fleet map[string]string) *ourAgent {
	a := &ourAgent{w: w, spec: w.node("n1").spec, program: filepath.Join(w.t.TempDir(), "nodeagent"), files: map[string][]byte{}}
	// Once, and synced: what is being written to the disk while a run is
	// measured is the run's alone.
	content, err := os.ReadFile(program)
	w.must(err)
	w.must(atomicfile.Write(a.program, content, 0o755))
	enrolled := w.enrolled("n1")
	for _, name := range []string{w.server.CAFile, enrolled.credentialFile()} {
		content, err := os.ReadFile(name)
		if err != nil {
			w.t.Fatal(err)
		}
		a.files[name] = content
	}
	a.files[layout.Root("").Enrolment()+"/approle.json"] = a.files[enrolled.credentialFile()]
	delete(a.files, enrolled.credentialFile())
	for name, content := range fleet {
		a.files[filepath.Join(layout.Root("").Fleet(), name)] = []byte(w.fill(content))
	}
	return a
}

func (a *ourAgent) run(b *testing.B, l measure.Launcher) effort {
	dir := b.TempDir()
	if err := os.Link(a.program, filepath.Join(dir, "nodeagent")); err != nil {
		b.Fatal(err)
	}
	for name, content := range a.files {
		writeBelow(b, dir, name, content)
	}
	root := layout.Root(dir)
	e := launch(b, l, dir, root.PKI(), "/nodeagent", "apply", "--only", "pki", "--host", a.spec.Name)
	for _, r := range keeps(a.spec) {
		at := root.Certificate(r.Name)
		mustPair(b, r, at.Cert, at.Key)
	}
	return e
}

func writeBelow(b *testing.B, dir, name string, content []byte) {
	b.Helper()
	name = filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(name, content, 0o600); err != nil {
		b.Fatal(err)
	}
}

// vaultAgent is `vault agent`, which ends when its templates are rendered.
type vaultAgent struct {
	w                *world
	spec             *hosts.Spec
	program          string
	roleID, secretID string
}

// newVaultAgent gives the agent a login of its own: it has keys made by Vault,
// for which the same roles are asked at another path.
func newVaultAgent(w *world, program string) *vaultAgent {
	w.t.Helper()
	a := &vaultAgent{w: w, spec: w.node("n1").spec, program: program}
	var policy strings.Builder
	allow := func(path, capability string) {
		fmt.Fprintf(&policy, "path %q { capabilities = [%q] }\n", path, capability)
	}
	for _, r := range keeps(a.spec) {
		allow(a.issuePath(r), "update")
	}
	for _, name := range sharedSecrets {
		allow(w.place.Secret(name), "read")
	}
	role := "auth/" + w.place.Auth(authAppRole) + "/role/vault-agent"
	w.must(w.client.Sys().PutPolicy("vault-agent", policy.String()))
	_, err := w.client.Logical().Write(role, map[string]any{"token_policies": "vault-agent", "role_id": "vault-agent"})
	w.must(err)
	secret, err := w.client.Logical().Write(role+"/secret-id", nil)
	w.must(err)
	a.roleID = "vault-agent"
	a.secretID, err = text(secret, "secret_id")
	w.must(err)
	return a
}

var sharedSecrets = []string{pki.KeyEncryption, pki.KeyServiceAccount}

func (a *vaultAgent) issuePath(r pki.Request) string {
	return a.w.place.Engine(r.CA) + "/issue/" + a.w.place.Role(a.spec.Name, r.Name)
}

func (a *vaultAgent) run(b *testing.B, l measure.Launcher) effort {
	dir := b.TempDir()
	writeBelow(b, dir, "role-id", []byte(a.roleID))
	writeBelow(b, dir, "secret-id", []byte(a.secretID))
	writeBelow(b, dir, "agent.hcl", []byte(a.config(dir)))
	out := filepath.Join(dir, "out")
	e := launch(b, l, "", out, a.program, "agent", "-config", filepath.Join(dir, "agent.hcl"))
	for _, r := range keeps(a.spec) {
		mustPair(b, r, filepath.Join(out, r.Name+".crt"), filepath.Join(out, r.Name+".key"))
	}
	for _, name := range sharedSecrets {
		if info, err := os.Stat(filepath.Join(out, name)); err != nil || info.Size() == 0 {
			b.Fatalf("secret %s: %v, %v", name, info, err)
		}
	}
	return e
}

// config is what HashiCorp's documentation advises for certificates: one
// template each, that writes the key and the CA beside the certificate. See
// https://developer.hashicorp.com/vault/docs/agent-and-proxy/agent/template.
func (a *vaultAgent) config(dir string) string {
	var c strings.Builder
	fmt.Fprintf(&c, `exit_after_auth = true
log_level = "warn"
vault {
  address = %q
  ca_cert = %q
}
auto_auth {
  method "approle" {
    mount_path = %q
    config = {
      role_id_file_path = %q
      secret_id_file_path = %q
      remove_secret_id_file_after_reading = false
    }
  }
}
template_config {
  exit_on_retry_failure = true
}
`, a.w.server.Address, a.w.server.CAFile, "auth/"+a.w.place.Auth(authAppRole), filepath.Join(dir, "role-id"), filepath.Join(dir, "secret-id"))
	template := func(name, contents string) {
		fmt.Fprintf(&c, "template {\n  destination = %q\n  perms = \"0600\"\n  contents = %q\n}\n", filepath.Join(dir, "out", name), contents)
	}
	for _, r := range keeps(a.spec) {
		parameters := SignParameters(r)
		words := []string{fmt.Sprintf("%q", a.issuePath(r))}
		for name, value := range parameters {
			words = append(words, fmt.Sprintf("%q", fmt.Sprintf("%s=%v", name, value)))
		}
		slices.Sort(words[1:])
		base := filepath.Join(dir, "out", r.Name)
		template(r.Name+".crt", fmt.Sprintf(
			`{{ with pkiCert %s }}{{ .Data.Key | writeToFile %q "" "" "0600" }}{{ .Data.CA | writeToFile %q "" "" "0644" }}{{ .Data.Cert }}{{ end }}`,
			strings.Join(words, " "), base+".key", base+".ca"))
	}
	for _, name := range sharedSecrets {
		template(name, fmt.Sprintf(`{{ with secret %q }}{{ .Data.data.%s }}{{ end }}`, a.w.place.Secret(name), secretField))
	}
	return c.String()
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// fill puts the server's address and CA where files of a fleet say so.
func (w *world) fill(content string) string {
	return strings.NewReplacer("ADDRESS", w.server.Address, "CAFILE", w.server.CAFile).Replace(content)
}
