package pki

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
)

// The files of an authority: of the last two, one.
const (
	authorityCert      = "ca.crt"
	authorityKey       = "ca.key"
	authorityKeySealed = "ca.key.age"
)

// authorityKeyType is the key type of the local authorities, whatever their
// leaves have.
const authorityKeyType = "ecdsa-p256"

// authorityFiles is an authority as read from disk, as far as it can be read.
type authorityFiles struct {
	Authority
	key         crypto.Signer     // nil unless sound and in clear
	sealed      []byte            // the key, encrypted; nil where it lies in clear
	certificate *x509.Certificate // nil unless sound
	content     []byte            // of ca.crt
}

// readAuthority reads an authority's folder and says in which condition it is.
func readAuthority(dir, name string) authorityFiles {
	a := authorityFiles{Authority: Authority{Name: name}}
	var keyErr, certErr error
	a.key, keyErr = readAs(filepath.Join(dir, authorityKey), parseKey)
	if errors.Is(keyErr, fs.ErrNotExist) {
		a.sealed, keyErr = readSealed(dir)
		a.Encrypted = a.sealed != nil
	}
	a.certificate, certErr = readAs(filepath.Join(dir, authorityCert), func(content []byte) (*x509.Certificate, error) {
		a.content = content
		return parseSelfSigned(content)
	})
	a.judge(keyErr, certErr)
	if a.key != nil {
		a.KeyID = keyID(a.key.Public())
	}
	if c := a.certificate; c != nil {
		a.KeyID = keyID(c.PublicKey)
		a.Bundle, a.NotBefore, a.NotAfter = digest(a.content), c.NotBefore, c.NotAfter
	}
	return a
}

// readSealed reads a key that lies encrypted. The error is fs.ErrNotExist where
// there is none either.
func readSealed(dir string) ([]byte, error) {
	r, err := readFile(filepath.Join(dir, authorityKeySealed))
	if err != nil {
		return nil, err
	}
	if err := checkSealed(r.content, "X25519"); err != nil {
		return nil, fmt.Errorf("%s %w", authorityKeySealed, err)
	}
	return r.content, nil
}

// signer is the key, opened where it lies encrypted. It belongs to the
// certificate, where there is one.
func (a *authorityFiles) signer(ctx context.Context, keys *Keyring) (crypto.Signer, error) {
	if a.sealed == nil {
		return a.key, nil
	}
	identity, err := keys.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("authority %q: %w", a.Name, err)
	}
	return a.unseal(keys.Root, identity)
}

// unseal opens a key that lies encrypted and holds it against the certificate.
func (a *authorityFiles) unseal(root layout.Root, identity *age.X25519Identity) (crypto.Signer, error) {
	content, err := unseal(root, identity, a.sealed)
	if err != nil {
		return nil, fmt.Errorf("authority %q: %w", a.Name, err)
	}
	key, err := parseKey(content)
	if err != nil {
		return nil, fmt.Errorf("authority %q: %s %w: put it back from a backup", a.Name, authorityKeySealed, err)
	}
	if a.certificate != nil && !samePublic(a.certificate.PublicKey, key.Public()) {
		return nil, fmt.Errorf("authority %q: %s and %s do not belong together: put both back from a backup", a.Name, authorityCert, authorityKeySealed)
	}
	return key, nil
}

// sealedAuthorities are the authorities whose keys lie encrypted alone.
func sealedAuthorities(root layout.Root) []authorityFiles {
	var list []authorityFiles
	for _, name := range layout.CAs() {
		for _, dir := range []string{root.LocalCA(name), root.LocalCABeside(name)} {
			if a := readAuthority(dir, name); a.sealed != nil {
				list = append(list, a)
			}
		}
	}
	return list
}

// readAuthorities reads the authority that signs under a name and, while it is
// being changed for another, the one beside it. The bundle of the first is that
// of both.
func readAuthorities(root layout.Root, name string) (signs authorityFiles, beside *authorityFiles) {
	signs = readAuthority(root.LocalCA(name), name)
	if other := readAuthority(root.LocalCABeside(name), name); other.Condition != Missing {
		beside = &other
	}
	if beside != nil && beside.certificate != nil && signs.certificate != nil {
		signs.content = slices.Concat(signs.content, beside.content)
		signs.Bundle = digest(signs.content)
	}
	return signs, beside
}

// judge sets the condition from how reading the two files went.
func (a *authorityFiles) judge(keyErr, certErr error) {
	switch {
	case errors.Is(keyErr, fs.ErrNotExist) && errors.Is(certErr, fs.ErrNotExist):
		a.Condition = Missing
	case keyErr != nil:
		a.Condition, a.Problem = Damaged, keyProblem(keyErr)
	case certErr != nil:
		a.Condition, a.Problem = Incomplete, authorityCert+" "+problem(certErr)
	case a.sealed != nil:
		a.Condition = Sound
	case !samePublic(a.certificate.PublicKey, a.key.Public()):
		a.Condition, a.Problem = Damaged, authorityCert+" and "+authorityKey+" do not belong together"
	default:
		a.Condition = Sound
	}
}

// keyProblem names the file, unless the error does.
func keyProblem(err error) string {
	text := problem(err)
	if strings.HasPrefix(text, authorityKeySealed) {
		return text
	}
	return authorityKey + " " + text
}

// parseSelfSigned parses one CA certificate that is signed by its own key.
func parseSelfSigned(content []byte) (*x509.Certificate, error) {
	list, err := parseBundle(content)
	if err != nil {
		return nil, err
	}
	if len(list) != 1 {
		return nil, fmt.Errorf("has %d certificates, want 1", len(list))
	}
	c := list[0]
	if c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) != nil {
		return nil, errors.New("is not signed by its own key")
	}
	return c, nil
}

// loadAuthority reads an authority that must be sound.
func loadAuthority(root layout.Root, name string) (authorityFiles, error) {
	a, _ := readAuthorities(root, name)
	switch a.Condition {
	case Sound:
		return a, nil
	case Missing:
		return a, fmt.Errorf("read authority %q: there is none in %q: run nodeagent apply, which makes it", name, root.LocalCA(name))
	}
	return a, fmt.Errorf("read authority %q in %q: %s", name, root.LocalCA(name), a.Problem)
}

// makeAuthority brings an authority into the wanted state: key and certificate
// made, or a certificate made for a key that has none or whose certificate is
// due. A key is never replaced: a damaged authority is a person's to mend.
func makeAuthority(ctx context.Context, d disk, root layout.Root, keys *Keyring, want Authority, now time.Time) error {
	dir := root.LocalCA(want.Name)
	a := readAuthority(dir, want.Name)
	if a.Condition == Damaged {
		return fmt.Errorf("%s in %q: put the authority's two files back from a backup, or remove the folder to have a new authority made, which issues all of its certificates again", a.Problem, dir)
	}
	work, _ := authorityWork(&a.Authority, want, now)
	if work == authorityKeep {
		return nil
	}
	var key crypto.Signer
	var err error
	if a.Condition == Missing {
		key, err = makeAuthorityKey(d, dir, sealer(keys, want.Encrypted))
	} else {
		key, err = a.signer(ctx, keys)
	}
	if err != nil {
		return err
	}
	subject := pkix.Name{CommonName: want.Name, Organization: []string{want.Cluster}}
	if a.certificate != nil {
		subject = a.certificate.Subject
	}
	content, err := selfSign(key, subject, want.Lifetime, now)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(dir, authorityCert), content, 0o644); err != nil {
		return err
	}
	d.did("authority certificate written")
	return nil
}

// sealer is what a new key goes through before it is written; nil where it is
// written in clear.
func sealer(keys *Keyring, encrypted bool) func([]byte) ([]byte, error) {
	if !encrypted {
		return nil
	}
	return keys.seal
}

// makeAuthorityKey makes the key file durably and only if there is none: the
// file gets its name by link(2), which fails where the name is taken, so two
// runs at once cannot replace each other's key. A key that seal encrypts is
// never on disk in clear.
func makeAuthorityKey(d disk, dir string, seal func([]byte) ([]byte, error)) (crypto.Signer, error) {
	key, err := newKey(authorityKeyType)
	if err != nil {
		return nil, err
	}
	content, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	name := authorityKey
	if seal != nil {
		name = authorityKeySealed
		if content, err = seal(content); err != nil {
			return nil, err
		}
	}
	if err := atomicfile.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	d.did("authority folder made")
	tmp, err := os.MkdirTemp(dir, atomicfile.TempPrefix)
	if err != nil {
		return nil, fmt.Errorf("write %q: %w", filepath.Join(dir, name), err)
	}
	defer os.RemoveAll(tmp)
	staged := filepath.Join(tmp, name)
	if err := d.write(staged, content, 0o600); err != nil {
		return nil, err
	}
	if err := os.Link(staged, filepath.Join(dir, name)); err != nil {
		return nil, fmt.Errorf("make authority key: %w", err)
	}
	d.did("authority key linked")
	return key, atomicfile.SyncDir(dir)
}

// selfSign makes a root certificate. The subject key id is a
// digest of the public key (RFC 7093, section 2), so that it stays the same when
// the certificate is renewed.
func selfSign(key crypto.Signer, subject pkix.Name, lifetime time.Duration, now time.Time) ([]byte, error) {
	if lifetime <= 0 {
		return nil, fmt.Errorf("make authority certificate: lifetime %s is not positive", lifetime)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("make authority certificate: %w", err)
	}
	id := sha256.Sum256(der)
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               subject,
		SubjectKeyId:          id[:20],
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.Add(lifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err = x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make authority certificate: %w", err)
	}
	return encodeCertificate(der), nil
}
