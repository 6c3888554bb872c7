package pki

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

func (o *observer) certificates(ctx context.Context) {
	for _, e := range o.list(certsFolder(o.root)) {
		if ctx.Err() != nil {
			o.fail(ctx.Err())
			return
		}
		if !e.IsDir() {
			continue
		}
		c := o.certificate(e.Name())
		// A folder without any name of ours in it is not ours.
		if c.Found.Condition == Missing && len(c.Found.Leftovers) == 0 && c.Found.Unfit == nil {
			continue
		}
		o.state.Certificates = append(o.state.Certificates, c)
	}
}

// certificate reads one certificate's folder.
func (o *observer) certificate(name string) Certificate {
	c := Certificate{Request: Request{Name: name}}
	dir := filepath.Dir(o.root.Certificate(name).Dir)
	names, err := leftovers(dir)
	o.fail(err)
	c.Found.Leftovers = names
	c.Found.Unfit = readUnfit(dir)
	generation, err := current(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return c
	}
	if err != nil {
		return c.damaged(currentLink, err)
	}
	o.folder(dir)
	o.folder(generation)
	o.previous(dir)
	if pair, err := Previous(o.root, name); err == nil {
		c.Found.PreviousEnd = pair.Leaf.NotAfter
	}
	// A note that cannot be read must not stop a renewal.
	c.Found.Refused, _ = readRefused(dir)
	return o.pair(c, generation)
}

func (o *observer) previous(dir string) {
	path := filepath.Join(dir, previousFolder)
	if info, err := os.Lstat(path); err == nil && info.IsDir() {
		o.mode(path, info.Mode(), 0o700, owner(info))
	}
}

// pair reads a generation of a certificate.
func (o *observer) pair(c Certificate, generation string) Certificate {
	at := o.root.Certificate(c.Name)
	inUse := func(path string) string { return filepath.Join(generation, filepath.Base(path)) }
	if bundle, err := o.file(inUse(at.CA), 0o644); err == nil {
		c.Found.Bundle = digest(bundle)
	}
	keyPEM, keyErr := o.file(inUse(at.Key), 0o600)
	content, err := o.file(inUse(at.Cert), 0o644)
	if err != nil {
		return c.damaged(filepath.Base(at.Cert), err)
	}
	chain, err := parseCertificates(content)
	if err != nil {
		return c.damaged(filepath.Base(at.Cert), err)
	}
	leaf := chain[0]
	c.Request = describe(leaf)
	c.Name = filepath.Base(filepath.Dir(generation))
	c.Found.Serial = leaf.SerialNumber.Text(16)
	c.Found.NotBefore, c.Found.NotAfter = leaf.NotBefore, leaf.NotAfter
	c.Found.ChainEnd = chainEnd(chain[1:])
	var key crypto.Signer
	if keyErr == nil {
		key, keyErr = parseKey(keyPEM)
	}
	if keyErr != nil {
		return c.damaged(filepath.Base(at.Key), keyErr)
	}
	if !samePublic(leaf.PublicKey, key.Public()) {
		return c.damaged(filepath.Base(at.Key), errors.New("does not belong to the certificate"))
	}
	c.Found.Condition = Sound
	c.Found.SignedBy = signedBy(chain, o.anchors)
	return c
}

// chainEnd is the earliest end of authorities, the zero time of none.
func chainEnd(list []*x509.Certificate) time.Time {
	var end time.Time
	for _, c := range list {
		if end.IsZero() || c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}

// damaged returns the certificate as one that cannot be used.
func (c Certificate) damaged(file string, err error) Certificate {
	c.Found.Condition, c.Found.Problem = Damaged, file+" "+problem(err)
	return c
}
