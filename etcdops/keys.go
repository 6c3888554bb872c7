package etcdops

import (
	"errors"
	"fmt"
	"os"

	"filippo.io/age"
)

// ParseRecipients reads the age recipients of a spec.
func ParseRecipients(texts []string) ([]age.Recipient, error) {
	var recipients []age.Recipient
	for _, text := range texts {
		recipient, err := age.ParseX25519Recipient(text)
		if err != nil {
			return nil, fmt.Errorf("read age recipient %q: %w", text, err)
		}
		recipients = append(recipients, recipient)
	}
	return recipients, nil
}

// ReadIdentities reads the age identities of files, as age-keygen writes them.
// One that others than its owner can read is refused: who reads it can open
// every snapshot.
func ReadIdentities(paths ...string) (identities []age.Identity, err error) {
	for _, path := range paths {
		found, err := readIdentities(path)
		if err != nil {
			return nil, fmt.Errorf("read age identities: %w", err)
		}
		identities = append(identities, found...)
	}
	return identities, nil
}

func readIdentities(path string) (_ []age.Identity, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%q has mode %04o, so that others than its owner can read it: `chmod 600` it, and think of who has read it", path, info.Mode().Perm())
	}
	identities, err := age.ParseIdentities(f)
	if err != nil {
		// age's own error may repeat a line of the file.
		return nil, fmt.Errorf("%q is no file of age identities, as `age-keygen` writes it: lines that begin with AGE-SECRET-KEY-1, and comments", path)
	}
	return identities, nil
}
