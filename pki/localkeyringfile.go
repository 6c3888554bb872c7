package pki

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// The work factors of scrypt, as base 2 logarithms (r = 8, p = 1). What a person
// can remember is worth a second and 256 MB for each guess, which is what age
// takes by itself; what a machine made has 128 bits or more (see checkSecret) and
// needs none of that: a thousandth of it.
const (
	strongWork = 18
	lightWork  = 8
	// maxWork bounds what a file can make this host spend.
	maxWork = 20
)

// keyringFile is the content of layout.Root.LocalKeyring. People open it without
// nodeagent by the age command:
//
//	jq -r .identity keyring.json | age -d > identity
//	age -d -i identity etcd-server/ca.key.age
type keyringFile struct {
	// Protection is ProtectPassphrase or ProtectCredential.
	Protection string `json:"protection"`
	// Recipient is the public half of the key pair.
	Recipient string `json:"recipient"`
	// Identity is the private half, encrypted by scrypt, armored.
	Identity string `json:"identity"`
}

func newKeyringFile(protection, secret string, workFactor int, identity *age.X25519Identity) (keyringFile, error) {
	if protection == ProtectCredential {
		workFactor = lightWork
	}
	if workFactor == 0 {
		workFactor = strongWork
	}
	recipient, err := age.NewScryptRecipient(secret)
	if err != nil {
		return keyringFile{}, fmt.Errorf("encrypt the keys of the CAs: %w", err)
	}
	recipient.SetWorkFactor(workFactor)
	sealed, err := encrypt([]byte(identity.String()+"\n"), recipient)
	if err != nil {
		return keyringFile{}, fmt.Errorf("encrypt the keys of the CAs: %w", err)
	}
	f := keyringFile{Protection: protection, Recipient: identity.Recipient().String(), Identity: string(sealed)}
	// The only copies of the keys are about to depend on it.
	if _, err := f.unlock(secret); err != nil {
		return keyringFile{}, fmt.Errorf("open what was just encrypted: %w", err)
	}
	return f, nil
}

// unlock opens the private half. The error is an age.NoIdentityMatchError where
// the secret is another one.
func (f keyringFile) unlock(secret string) (*age.X25519Identity, error) {
	by, err := age.NewScryptIdentity(secret)
	if err != nil {
		return nil, &age.NoIdentityMatchError{} // of an empty secret
	}
	by.SetMaxWorkFactor(maxWork)
	content, err := decrypt([]byte(f.Identity), by)
	if f.Protection == ProtectPassphrase {
		afterScrypt()
	}
	if err != nil {
		return nil, err
	}
	identity, err := age.ParseX25519Identity(strings.TrimSpace(string(content)))
	if err != nil {
		// The parser's error may quote the key.
		return nil, errors.New("holds something else than a key")
	}
	if identity.Recipient().String() != f.Recipient {
		return nil, errors.New("names another public key than that of its private one")
	}
	return identity, nil
}

func (f keyringFile) encode() []byte {
	content, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		panic(err) // of three strings it cannot fail
	}
	return append(content, '\n')
}

// put writes the file, and reads it back.
func (f keyringFile) put(d disk, root layout.Root, content []byte) error {
	path := root.LocalKeyring()
	if err := atomicfile.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	d.did("folder of authorities made")
	if err := atomicfile.Write(path, content, 0o600); err != nil {
		return err
	}
	d.did("keyring written")
	back, err := readKeyringFile(root)
	if err != nil {
		return err
	}
	if !bytes.Equal(back, content) {
		return fmt.Errorf("read back %q: %w", path, errDiffers)
	}
	return nil
}

func readKeyring(root layout.Root) (keyringFile, error) {
	return readAs(root.LocalKeyring(), parseKeyring)
}

// parseKeyring checks everything that can be checked without the secret.
func parseKeyring(content []byte) (keyringFile, error) {
	var f keyringFile
	if err := json.Unmarshal(content, &f); err != nil {
		return f, errors.New("is not JSON")
	}
	if !slices.Contains([]string{ProtectPassphrase, ProtectCredential}, f.Protection) {
		return f, fmt.Errorf("has no protection that is known (%q)", f.Protection)
	}
	if _, err := age.ParseX25519Recipient(f.Recipient); err != nil {
		return f, errors.New("has no public key")
	}
	if err := checkSealed([]byte(f.Identity), "scrypt"); err != nil {
		return f, err
	}
	return f, nil
}

// encrypt answers an age file, armored.
func encrypt(content []byte, to age.Recipient) ([]byte, error) {
	var b bytes.Buffer
	armored := armor.NewWriter(&b)
	w, err := age.Encrypt(armored, to)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	if err := errors.Join(w.Close(), armored.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func decrypt(sealed []byte, by age.Identity) ([]byte, error) {
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(sealed)), by)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// unseal opens what was encrypted for the keyring.
func unseal(root layout.Root, identity *age.X25519Identity, sealed []byte) ([]byte, error) {
	content, err := decrypt(sealed, identity)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be opened by %s: put the two back from one backup", authorityKeySealed, root.LocalKeyring())
	}
	return content, nil
}

// checkSealed tells whether something is a whole age file with a recipient of a
// kind, as far as that shows without opening it.
func checkSealed(sealed []byte, kind string) error {
	content, err := io.ReadAll(armor.NewReader(bytes.NewReader(sealed)))
	switch {
	case err != nil:
		return errors.New("is no armored age file, or cut off")
	case !bytes.HasPrefix(content, []byte("age-encryption.org/v1\n-> "+kind+" ")):
		return fmt.Errorf("is no age file of kind %s", kind)
	}
	return nil
}
