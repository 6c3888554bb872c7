package pki

import (
	"crypto/x509"
	"path/filepath"
	"time"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// Detail is everything that a host knows of one of its certificates.
type Detail struct {
	Status
	Organization string   `json:"organization,omitempty"`
	Names        []string `json:"names,omitempty"` // DNS names, then addresses
	Usage        string   `json:"usage"`           // "server", "client", "server+client", "none"
	KeyType      string   `json:"key_type"`
	// Serial number in hexadecimal; empty where there is no certificate.
	Serial string `json:"serial,omitempty"`
	// Issued is when it was signed, as far as its beginning tells: issuers make
	// certificates begin a little before.
	Issued time.Time `json:"issued,omitzero"`
	// Signers are the authorities above it, the one that signed it first; the
	// last is one that this host trusts, unless there is none.
	Signers []Signer `json:"signers"`
	Trusted bool     `json:"trusted"`
	Files   Files    `json:"files"`
	// PreviousEnds is the end of the pair before it, which could be put back.
	PreviousEnds time.Time `json:"previous_ends,omitzero"`
	// Refused is a later pair that was not taken, RetryAt when another one is
	// made.
	Refused *Refused  `json:"refused,omitempty"`
	RetryAt time.Time `json:"retry_at,omitzero"`
	// Revoke is the serial of an earlier pair that is still to be revoked.
	Revoke string `json:"revoke,omitempty"`
}

// Signer is one authority above a certificate.
type Signer struct {
	Subject  string    `json:"subject"` // RFC 2253
	KeyID    string    `json:"key_id"`
	NotAfter time.Time `json:"not_after"`
}

// Files are where a certificate lies.
type Files struct {
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
	CA          string `json:"ca"`
}

// Details are the wanted certificates as they lie on disk, sorted by name.
func Details(root layout.Root, have, want State, now time.Time) []Detail {
	statuses := List(have, want, now)
	owed, _ := owedRevocations(root) // who may not read the note is not told of it
	list := make([]Detail, len(statuses))
	for i, s := range statuses {
		list[i] = detail(root, have, want.Certificates[i].Request, s)
		for _, o := range owed {
			if o.Name == s.Name && o.Serial != list[i].Serial {
				list[i].Revoke = o.Serial
			}
		}
	}
	return list
}

// detail prefers what was found to what is wanted, which is all there is of a
// certificate that is missing.
func detail(root layout.Root, have State, want Request, s Status) Detail {
	at, r := root.Certificate(want.Name), want
	d := Detail{Status: s, Signers: []Signer{}, Files: Files{Certificate: at.Cert, Key: at.Key, CA: at.CA}}
	if c := have.certificate(want.Name); c != nil && c.Found.Serial != "" {
		f := c.Found
		r = c.Request
		d.CommonName, d.Serial, d.PreviousEnds = r.CommonName, f.Serial, f.PreviousEnd
		d.Issued = f.NotBefore.Add(Backdate)
		if f.Refused != nil && f.Refused.NotBefore.After(f.NotBefore) {
			d.Refused, d.RetryAt = f.Refused, f.Refused.until(f.NotAfter)
		}
		d.Signers, d.Trusted = signers(at.Cert, root.Trust(want.CA))
	}
	d.Organization, d.Names, d.Usage, d.KeyType = r.Organization, allNames(r), usage(r), r.KeyType
	return d
}

// signers reads the authorities above the leaf in a file: those in the file, and
// the one in the trust bundle to which they lead.
func signers(file, bundle string) (list []Signer, trusted bool) {
	list = []Signer{}
	chain, err := readAs(file, parseCertificates)
	if err != nil {
		return list, false
	}
	anchors, _ := readAs(bundle, parseBundle) // without one nothing is trusted
	for i, c := range chain {
		for _, a := range anchors {
			if anchorOf(a).signed(c) {
				return append(list, signerOf(a)), true
			}
		}
		if i+1 == len(chain) || c.CheckSignatureFrom(chain[i+1]) != nil {
			break
		}
		list = append(list, signerOf(chain[i+1]))
	}
	return list, false
}

func signerOf(c *x509.Certificate) Signer {
	return Signer{c.Subject.String(), keyID(c.PublicKey), c.NotAfter}
}

// previousCertificate describes the pair before the one in use; nil where there
// is none.
func previousCertificate(root layout.Root, name string) *Certificate {
	at := root.Certificate(name)
	dir := filepath.Join(filepath.Dir(at.Dir), previousFolder)
	chain, err := readAs(filepath.Join(dir, filepath.Base(at.Cert)), parseCertificates)
	if err != nil {
		return nil
	}
	c := &Certificate{Request: describe(chain[0])}
	c.Name = name
	c.Found = Found{Condition: Sound, Serial: chain[0].SerialNumber.Text(16), NotBefore: chain[0].NotBefore, NotAfter: chain[0].NotAfter}
	return c
}
