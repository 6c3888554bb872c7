package pki

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"runtime/debug"
	"sync"

	"filippo.io/age"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// How the keys of the local issuer's authorities lie on disk.
const (
	// ProtectPlain: in clear, readable by root alone.
	ProtectPlain = "plain"
	// ProtectPassphrase: encrypted with what a person knows.
	ProtectPassphrase = "passphrase"
	// ProtectCredential: encrypted with what systemd hands the service.
	ProtectCredential = "credential"
)

// SecretAsk says which secret is asked for.
type SecretAsk struct {
	// Protection is ProtectPassphrase or ProtectCredential.
	Protection string
	// New tells that something is about to be encrypted with it: whoever types
	// it types it twice.
	New bool
	// Again tells that what was answered before is wrong: only a person has
	// another answer.
	Again bool
}

// Keyring opens the private keys of the local issuer's authorities where they
// are encrypted at rest.
//
// They are encrypted to one key pair (age, X25519), and its private half lies
// beside them in a file that is encrypted with the passphrase or credential
// (age, scrypt). So a new authority needs no secret, since its key is encrypted
// with the public half; several keys are opened for the price of one; and
// another passphrase means one file written anew, by one rename.
//
// Several goroutines may use one. The nil Keyring opens nothing and says so.
type Keyring struct {
	Root layout.Root
	// Secret answers the passphrase or credential. It is asked only when a key
	// is about to be used, never to plan. What it cannot give it refuses with a
	// [Refusal] that says what to do.
	Secret func(context.Context, SecretAsk) (string, error)

	// workFactor is that of scrypt for passphrases, as the base 2 logarithm; 0
	// for age's own. Tests make it small.
	workFactor int

	mu       sync.Mutex
	opened   [sha256.Size]byte // the file that identity was read from
	identity *age.X25519Identity
	// refused is why the file with the digest refusedOf was not opened: however
	// much is to be signed, it is tried once until Forget.
	refused   error
	refusedOf [sha256.Size]byte
	// wrong is a digest of the file and a secret that does not open it, checked
	// one of all that Check has found to be sound: each is found out once, as that
	// takes a second of CPU.
	wrong, checked [sha256.Size]byte
}

// Forget drops what was opened; the next use asks for the secret again.
func (k *Keyring) Forget() {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.identity, k.opened = nil, [sha256.Size]byte{}
	k.refused, k.refusedOf = nil, [sha256.Size]byte{}
}

// Check tells whether the authorities' keys can be opened now, where they are
// encrypted, and are those of their certificates. It keeps nothing open, and
// costs nothing while neither a file nor the secret has changed since it was last
// found out.
func (k *Keyring) Check(ctx context.Context) error {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	content, err := readKeyringFile(k.Root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	held, err := parseKeyring(content)
	if err != nil {
		return damagedKeyring(k.Root, err)
	}
	secret, err := k.ask(ctx, SecretAsk{Protection: held.Protection})
	if err != nil {
		return err
	}
	for {
		sealed := sealedAuthorities(k.Root)
		now := pairing(content, secret, sealed...)
		if k.checked == now {
			return nil
		}
		identity, err := k.unlock(content, held, secret)
		if err != nil {
			return err
		}
		if err = opensAll(k.Root, identity, sealed); err == nil {
			k.checked = now
			return nil
		}
		// A change of a CA may have exchanged the folders meanwhile.
		if now == pairing(content, secret, sealedAuthorities(k.Root)...) || ctx.Err() != nil {
			return err
		}
	}
}

func opensAll(root layout.Root, identity *age.X25519Identity, sealed []authorityFiles) error {
	for _, a := range sealed {
		if _, err := a.unseal(root, identity); err != nil {
			return err
		}
	}
	return nil
}

// open answers the key pair's private half.
func (k *Keyring) open(ctx context.Context) (*age.X25519Identity, error) {
	if k == nil {
		return nil, Locked(errors.New("they are encrypted"), "")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.openLocked(ctx)
}

func (k *Keyring) openLocked(ctx context.Context) (*age.X25519Identity, error) {
	content, err := readKeyringFile(k.Root)
	if err != nil {
		return nil, Locked(fmt.Errorf("%s %s", k.Root.LocalKeyring(), problem(err)), "put it back from a backup")
	}
	file := sha256.Sum256(content)
	switch {
	case k.identity != nil && k.opened == file:
		return k.identity, nil
	case k.refused != nil && k.refusedOf == file:
		return nil, k.refused
	}
	held, err := parseKeyring(content)
	if err != nil {
		return nil, damagedKeyring(k.Root, err)
	}
	identity, err := k.try(ctx, content, held)
	if err != nil {
		k.refused, k.refusedOf = err, file
		return nil, err
	}
	k.identity, k.opened = identity, file
	return identity, nil
}

// tries is how often a person may mistype.
const tries = 3

// try asks for the secret until it is the right one, while k.mu is held.
func (k *Keyring) try(ctx context.Context, content []byte, held keyringFile) (*age.X25519Identity, error) {
	var wrong error
	for n := range tries {
		secret, err := k.ask(ctx, SecretAsk{Protection: held.Protection, Again: n > 0})
		if err != nil && wrong != nil && ctx.Err() == nil {
			return nil, wrong // nobody has another answer
		}
		if err != nil {
			return nil, err
		}
		identity, err := k.unlock(content, held, secret)
		if err == nil || k.wrong != pairing(content, secret) {
			return identity, err
		}
		wrong = err
	}
	return nil, wrong
}

// ask asks for the secret, while k.mu is held.
func (k *Keyring) ask(ctx context.Context, what SecretAsk) (string, error) {
	if k.Secret == nil {
		return "", Locked(fmt.Errorf("there is no %s", what.Protection), "")
	}
	return k.Secret(ctx, what)
}

// unlock opens what was read, while k.mu is held.
func (k *Keyring) unlock(content []byte, held keyringFile, secret string) (*age.X25519Identity, error) {
	tried := pairing(content, secret)
	if k.wrong == tried {
		return nil, wrongSecret(held.Protection)
	}
	identity, err := held.unlock(secret)
	var noMatch *age.NoIdentityMatchError
	if errors.As(err, &noMatch) {
		k.wrong = tried
		return nil, wrongSecret(held.Protection)
	}
	if err != nil {
		return nil, damagedKeyring(k.Root, err)
	}
	return identity, nil
}

// pairing is by what the outcome of opening a file with a secret is remembered,
// and what it opens. It stays in memory.
func pairing(content []byte, secret string, sealed ...authorityFiles) [sha256.Size]byte {
	h := sha256.New()
	add := func(b []byte) {
		sum := sha256.Sum256(b)
		h.Write(sum[:])
	}
	add(content)
	add([]byte(secret))
	for _, a := range sealed {
		add(a.sealed)
		add(a.content)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// make makes a new key pair, encrypted as wanted.
func (k *Keyring) make(ctx context.Context, d disk, protection string) error {
	if k == nil {
		return Locked(errors.New("nothing here can ask for a "+protection), "")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, err := readKeyringFile(k.Root); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make %s: there is one already", k.Root.LocalKeyring())
	}
	secret, err := k.ask(ctx, SecretAsk{Protection: protection, New: true})
	if err != nil {
		return err
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return fmt.Errorf("make the key pair of the authorities' keys: %w", err)
	}
	return k.write(d, protection, secret, identity)
}

// protect encrypts the key pair that is there with another secret. One that is
// empty is asked for.
func (k *Keyring) protect(ctx context.Context, d disk, protection, secret string) error {
	if k == nil {
		return Locked(errors.New("nothing here can ask for a "+protection), "")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	identity, err := k.openLocked(ctx)
	if err != nil {
		return err
	}
	if secret == "" {
		if secret, err = k.ask(ctx, SecretAsk{Protection: protection, New: true}); err != nil {
			return err
		}
	}
	return k.write(d, protection, secret, identity)
}

// write puts the file in its place, proven to open with the secret.
func (k *Keyring) write(d disk, protection, secret string, identity *age.X25519Identity) error {
	if err := checkSecret(protection, secret); err != nil {
		return Locked(err, "give another one")
	}
	held, err := newKeyringFile(protection, secret, k.workFactor, identity)
	if err != nil {
		return err
	}
	content := held.encode()
	if err := held.put(d, k.Root, content); err != nil {
		return err
	}
	k.identity, k.opened = identity, sha256.Sum256(content)
	return nil
}

// Change encrypts the authorities' keys with another passphrase, or a credential
// of another content, of the same kind as before.
func (k *Keyring) Change(ctx context.Context, secret string) error {
	protection, err := k.Protection()
	if err != nil {
		return err
	}
	if err := checkSecret(protection, secret); err != nil {
		return err
	}
	return k.protect(ctx, disk{}, protection, secret)
}

// Protection is what the authorities' keys are encrypted with now,
// ProtectPassphrase or ProtectCredential; an error where they are not.
func (k *Keyring) Protection() (string, error) {
	content, err := readKeyringFile(k.Root)
	if errors.Is(err, fs.ErrNotExist) {
		return "", errors.New("the keys of the CAs are not encrypted on this host: pki.local.ca_keys says how they are to be, and nodeagent apply makes it so")
	}
	if err != nil {
		return "", err
	}
	held, err := parseKeyring(content)
	if err != nil {
		return "", damagedKeyring(k.Root, err)
	}
	return held.Protection, nil
}

// seal encrypts a private key (PEM) for the keyring. It needs no secret.
func (k *Keyring) seal(key []byte) ([]byte, error) {
	if k == nil {
		return nil, Locked(errors.New("they are to be encrypted"), "")
	}
	held, err := readKeyring(k.Root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, Locked(fmt.Errorf("there is no %s yet", k.Root.LocalKeyring()), "nodeagent apply makes it")
	}
	if err != nil {
		return nil, damagedKeyring(k.Root, err)
	}
	recipient, err := age.ParseX25519Recipient(held.Recipient)
	if err != nil {
		return nil, damagedKeyring(k.Root, err)
	}
	return encrypt(key, recipient)
}

// The least lengths of secrets, in bytes. A passphrase is guarded by scrypt, so
// that a guess costs a second and 256 MB; still, twelve letters are little. A
// credential is made by a machine, and tried by one at full speed: 32 letters of
// any usual coding are 128 bits or more.
const (
	minPassphrase = 12
	minCredential = 32
)

// checkSecret refuses what guards nothing, before anything relies on it.
func checkSecret(protection, secret string) error {
	if protection == ProtectPassphrase && len(secret) < minPassphrase {
		return fmt.Errorf("the passphrase has %d characters, want %d or more", len(secret), minPassphrase)
	}
	if protection == ProtectCredential && len(secret) < minCredential {
		return fmt.Errorf("the credential has %d characters, want %d or more, made by a machine (openssl rand -base64 32)", len(secret), minCredential)
	}
	return nil
}

// Locked is the refusal of an issuer that cannot open its keys.
func Locked(err error, remedy string) *Refusal {
	return &Refusal{Cause: CauseLocked, What: "use the keys of the CAs", Err: err, Remedy: remedy}
}

func wrongSecret(protection string) error {
	return Locked(fmt.Errorf("they are encrypted with another %s", protection),
		fmt.Sprintf("give the %s of before, or have the new one take its place with nodeagent certs passphrase --old-file --new-file", protection))
}

func damagedKeyring(root layout.Root, err error) error {
	return Locked(fmt.Errorf("%s %w", root.LocalKeyring(), err), "put it back from a backup")
}

// afterScrypt gives back the memory that a passphrase takes, 256 MB, which would
// stay with a daemon for minutes.
func afterScrypt() { debug.FreeOSMemory() }

func readKeyringFile(root layout.Root) ([]byte, error) {
	r, err := readFile(root.LocalKeyring())
	return bytes.Clone(r.content), err
}
