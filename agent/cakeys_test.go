package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

// Where what opens the CAs' keys is found, and what is said where it is not.
func TestCASecrets(t *testing.T) {
	for name, tc := range map[string]struct {
		local  hosts.LocalIssuer
		ask    pki.SecretAsk
		files  map[string]os.FileMode // below the root
		named  bool                   // by the environment: the file /named
		prompt bool
		want   string // the path whose content is the answer, or "typed"
		says   string
	}{
		"passphrase file":            {hosts.LocalIssuer{PassphraseFile: "/run/p"}, pki.SecretAsk{Protection: pki.ProtectPassphrase}, map[string]os.FileMode{"/run/p": 0o600}, false, true, "/run/p", ""},
		"the environment is first":   {hosts.LocalIssuer{PassphraseFile: "/run/p"}, pki.SecretAsk{Protection: pki.ProtectPassphrase}, map[string]os.FileMode{"/run/p": 0o600, "/named": 0o400}, true, false, "/named", ""},
		"others can read it":         {hosts.LocalIssuer{PassphraseFile: "/run/p"}, pki.SecretAsk{Protection: pki.ProtectPassphrase}, map[string]os.FileMode{"/run/p": 0o640}, false, true, "", "others than its owner"},
		"no file, a person":          {hosts.LocalIssuer{PassphraseFile: "/run/p"}, pki.SecretAsk{Protection: pki.ProtectPassphrase}, nil, false, true, "typed", ""},
		"no file, nobody":            {hosts.LocalIssuer{PassphraseFile: "/run/p"}, pki.SecretAsk{Protection: pki.ProtectPassphrase}, nil, false, false, "", "put the file there"},
		"nobody was told":            {hosts.LocalIssuer{}, pki.SecretAsk{Protection: pki.ProtectPassphrase}, nil, false, false, "", "NODEAGENT_CA_PASSPHRASE_FILE"},
		"that was wrong, nobody":     {hosts.LocalIssuer{PassphraseFile: "/run/p"}, pki.SecretAsk{Protection: pki.ProtectPassphrase, Again: true}, map[string]os.FileMode{"/run/p": 0o600}, false, false, "", "not at hand"},
		"that was wrong, a person":   {hosts.LocalIssuer{PassphraseFile: "/run/p"}, pki.SecretAsk{Protection: pki.ProtectPassphrase, Again: true}, map[string]os.FileMode{"/run/p": 0o600}, false, true, "typed", ""},
		"the service's credential":   {hosts.LocalIssuer{}, pki.SecretAsk{Protection: pki.ProtectCredential}, map[string]os.FileMode{"/run/credentials/nodeagent.service/nodeagent-ca": 0o400}, false, false, "/run/credentials/nodeagent.service/nodeagent-ca", ""},
		"under another name":         {hosts.LocalIssuer{Credential: "x"}, pki.SecretAsk{Protection: pki.ProtectCredential}, map[string]os.FileMode{"/run/credentials/nodeagent.service/x": 0o400}, false, false, "/run/credentials/nodeagent.service/x", ""},
		"no credential":              {hosts.LocalIssuer{}, pki.SecretAsk{Protection: pki.ProtectCredential}, nil, false, false, "", "systemd-creds encrypt --name=nodeagent-ca"},
		"a new one is not from here": {hosts.LocalIssuer{}, pki.SecretAsk{Protection: pki.ProtectCredential, New: true}, map[string]os.FileMode{"/named": 0o400}, true, true, "", "nodeagent.service"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			t.Setenv("CREDENTIALS_DIRECTORY", "")
			t.Setenv(PassphraseVariable, "")
			if tc.named {
				t.Setenv(PassphraseVariable, filepath.Join(root, "named"))
			}
			for path, mode := range tc.files {
				at := filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(at, []byte(path+"\n"), mode); err != nil {
					t.Fatal(err)
				}
			}
			s := caSecrets{root: layout.Root(root), spec: func() *hosts.Spec { return &hosts.Spec{PKI: hosts.PKI{Local: &tc.local}} }}
			if tc.prompt {
				s.prompt = func(context.Context, pki.SecretAsk) (string, error) { return "typed", nil }
			}
			got, err := s.find(t.Context(), tc.ask)
			if got != tc.want || (err == nil) != (tc.says == "") {
				t.Errorf("%q, %v; want %q", got, err, tc.want)
			}
			if err != nil && (!strings.Contains(err.Error(), tc.says) || pki.CauseOf(err) != pki.CauseLocked || strings.Contains(err.Error(), "\n")) {
				t.Errorf("error %v, want one line with %q", err, tc.says)
			}
		})
	}
}

// systemd's own folder for the process comes first.
func TestCredentialsDirectory(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if err := os.WriteFile(filepath.Join(dir, "nodeagent-ca"), []byte("of systemd"), 0o400); err != nil {
		t.Fatal(err)
	}
	s := caSecrets{root: layout.Root(t.TempDir()), spec: func() *hosts.Spec { return &hosts.Spec{} }}
	if got, err := s.find(t.Context(), pki.SecretAsk{Protection: pki.ProtectCredential}); got != "of systemd" {
		t.Errorf("%q, %v", got, err)
	}
}

// A local issuer that cannot open its keys is told with the days that are left.
func TestStatusOfALockedIssuer(t *testing.T) {
	h, have, want, now := vaultHost(t)
	h.spec.Store(&hosts.Spec{Name: "n1", PKI: hosts.PKI{Issuer: pki.IssuerLocal}})
	want.CAKeys.Protection = pki.ProtectCredential
	if s := h.issuerStatus(have, want, now); s.SurvivesDays != nil || s.Problem != "" {
		t.Errorf("%+v", s)
	}
	if err := noteIssuer(h.root, "no credential", now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	s := h.issuerStatus(have, want, now)
	if s.Problem != "no credential" || *s.SurvivesDays != 59 {
		t.Errorf("%+v", s)
	}
	if problem, warning := s.judge(nil); problem != "" || !strings.Contains(warning, "the issuer cannot issue (no credential); this host lives without it for 59 days") {
		t.Errorf("problem %q, warning %q", problem, warning)
	}
	if problem, _ := s.judge([]pki.Status{{Name: "x", State: pki.StateDue}}); !strings.Contains(problem, "cannot issue: no credential") {
		t.Errorf("problem %q", problem)
	}
}
