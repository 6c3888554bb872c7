package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/nodeagent/nodeagent/hosts"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/pki"
)

// PassphraseVariable names the file with what opens the CAs' keys, for scripts
// that run commands by hand. The secret itself is in no environment.
const PassphraseVariable = "NODEAGENT_CA_PASSPHRASE_FILE"

// Prompt asks a person on the terminal for a secret.
type Prompt func(context.Context, pki.SecretAsk) (string, error)

// CAKeyring opens the keys of the local issuer's CAs, by what systemd, the spec's
// file, the environment or a person gives. prompt is nil where nobody is there.
// What opens them is looked up when they are used, not before.
func CAKeyring(root layout.Root, spec func() *hosts.Spec, prompt Prompt) *pki.Keyring {
	s := caSecrets{root: root, spec: spec, prompt: prompt}
	return &pki.Keyring{Root: root, Secret: s.find}
}

// AskBy has a person asked for what opens the CAs' keys where it is found nowhere
// else.
func (h *Host) AskBy(prompt Prompt) { h.keyring = CAKeyring(h.root, h.Spec, prompt) }

// CAProtection is what the CAs' keys are encrypted with on this host, and what
// is to be done with another such secret for nodeagent.service to have it; empty
// where only people have it. The error tells that they are not encrypted.
func (h *Host) CAProtection() (protection, serve string, err error) {
	protection, err = h.keyring.Protection()
	local := localIssuer(h.Spec())
	switch {
	case protection == pki.ProtectCredential:
		serve = fmt.Sprintf("hand it to nodeagent.service as the credential %q, and restart that", credentialName(local))
	case local.PassphraseFile != "":
		serve = "write it to " + local.PassphraseFile
	}
	return protection, serve, err
}

// ChangeCAPassphrase encrypts the CAs' keys with another secret. before is the
// one that they are encrypted with; empty where that is to be found.
func (h *Host) ChangeCAPassphrase(ctx context.Context, before, secret string) error {
	keyring := h.keyring
	if before != "" {
		keyring = &pki.Keyring{Root: h.root, Secret: func(context.Context, pki.SecretAsk) (string, error) { return before, nil }}
	}
	return h.exclusively(ctx, DomainPKI, func() error { return keyring.Change(ctx, secret) })
}

// localIssuer is how the spec has the keys kept; the zero one where it is not
// about them, though keys may be encrypted still.
func localIssuer(spec *hosts.Spec) *hosts.LocalIssuer {
	if spec.PKI.Local == nil {
		return &hosts.LocalIssuer{}
	}
	return spec.PKI.Local
}

// caSecrets are the places where what opens the CAs' keys can be.
type caSecrets struct {
	root   layout.Root
	spec   func() *hosts.Spec
	prompt Prompt
}

// find looks in them, the ones that need nobody first. A new credential is taken
// from systemd alone, since there the service must find it.
func (s caSecrets) find(ctx context.Context, ask pki.SecretAsk) (string, error) {
	local := localIssuer(s.spec())
	prompt := s.prompt
	if ask.New && ask.Protection == pki.ProtectCredential {
		prompt = nil
	}
	places, remedy := s.places(local, ask)
	if ask.Again {
		places = nil // what lies there was wrong
	}
	for _, path := range places {
		secret, err := ReadSecret(path)
		if err == nil {
			return secret, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", pki.Locked(err, "mend that file")
		}
	}
	if prompt != nil {
		return prompt(ctx, ask)
	}
	where := "nobody has said where it is"
	if len(places) > 0 {
		where = "there is no " + strings.Join(places, " and no ")
	}
	return "", pki.Locked(fmt.Errorf("the %s is not at hand: %s", ask.Protection, where), remedy)
}

// places are the files in which it can be, and what to do where it is in none.
func (s caSecrets) places(local *hosts.LocalIssuer, ask pki.SecretAsk) (list []string, remedy string) {
	named := os.Getenv(PassphraseVariable)
	if ask.Protection == pki.ProtectCredential {
		list = s.credentials(local)
		remedy = fmt.Sprintf("hand it to nodeagent.service as the credential %q (systemd-creds encrypt --name=%[1]s - /etc/credstore.encrypted/%[1]s) and restart that", credentialName(local))
		if ask.New {
			return list, remedy
		}
	}
	if named != "" {
		list = append(list, named)
	}
	if ask.Protection == pki.ProtectPassphrase {
		remedy = "run nodeagent apply on a terminal, which asks for it, or name its file in " + PassphraseVariable
		if local.PassphraseFile != "" {
			list = append(list, string(s.root)+local.PassphraseFile)
			remedy = "put the file there, or run nodeagent apply on a terminal, which asks for it"
		}
	}
	return list, remedy
}

// defaultCredential is the name that nodeagent.service itself has, for keys that
// are encrypted while the spec says otherwise already.
const defaultCredential = "nodeagent-ca"

func credentialName(local *hosts.LocalIssuer) string {
	if local.Credential == "" {
		return defaultCredential
	}
	return local.Credential
}

// credentials are where systemd puts the credential: for this process if that is
// the service, else for the service that runs. The latter only root can read,
// who could as well read the service's memory.
func (s caSecrets) credentials(local *hosts.LocalIssuer) []string {
	return credentialFiles(s.root, credentialName(local))
}

// maxSecret is more than any passphrase has.
const maxSecret = 4096

// ReadSecret reads a file that holds one line. It must be for its owner alone,
// who is root or runs this.
func ReadSecret(path string) (string, error) {
	content, err := readOwn(path)
	if err != nil {
		return "", err
	}
	secret := strings.TrimRight(string(content), "\r\n")
	if strings.ContainsAny(secret, "\r\n\x00") {
		return "", fmt.Errorf("read %s: it has more than one line", path)
	}
	return secret, nil
}

// readOwn reads a small file that must be for its owner alone, who is root or
// runs this.
func readOwn(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: it is not a regular file", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("read %s: others than its owner can read it (mode %#o, want 0600 or less)", path, info.Mode().Perm())
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 0 && owner != uint32(os.Geteuid()) {
		return nil, fmt.Errorf("read %s: it belongs to user %d, who can read it, and not to root", path, owner)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	switch {
	case len(strings.TrimRight(string(content), "\r\n")) == 0:
		return nil, fmt.Errorf("read %s: it is empty", path)
	case len(content) > maxSecret:
		return nil, fmt.Errorf("read %s: it has more than %d bytes", path, maxSecret)
	}
	return content, nil
}
