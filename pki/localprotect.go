package pki

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"

	"github.com/nodeagent/nodeagent/internal/atomicfile"
	"github.com/nodeagent/nodeagent/internal/layout"
	"github.com/nodeagent/nodeagent/internal/plan"
)

// How the keys of the authorities get from one protection to another: the
// keyring first, then key by key, each written and proven in its new form before
// the old one is removed. Killed between the two, a key is there in both forms,
// and the next run goes on.

// caKeys decides what is to be done with the keyring and with the form of each
// key that is there. New keys are made in the wanted form.
func (d *differ) caKeys() {
	want, have := d.want.CAKeys.Protection, d.have.CAKeys
	switch want {
	case "":
	case ProtectPlain:
		d.decryptCAKeys(have)
	default:
		if d.wantKeyring(want, have) {
			d.encryptCAKeys(want, have)
		}
	}
}

// caKeysChange is the key of the change of the keyring.
const caKeysChange = "CA keys"

// wantKeyring has the keyring made, or another secret open it. It tells whether
// there is one then.
func (d *differ) wantKeyring(want string, have CAKeys) bool {
	sealed := slices.ContainsFunc(have.Files, func(k CAKey) bool { return k.Sealed })
	switch {
	case have.Condition == Missing && sealed:
		reason := "keyring.json is missing, and without it no encrypted key of a CA can be opened"
		d.add(caKeysChange, plan.ActionCreate, plan.Quiet, reason+"; a person must put it back", "", want, waitsForPerson(reason+": put it back from a backup, or remove the keys (*"+authorityKeySealed+") with their folders to have new CAs made, which issue all of their certificates again"))
		return false
	case have.Condition == Missing:
		d.add(caKeysChange, plan.ActionCreate, plan.Quiet, "what opens the keys of the CAs is made, with the "+want, "", "opened by: "+want, keyringOp{want, false})
	case have.Condition == Damaged:
		d.add(caKeysChange, plan.ActionUpdate, plan.Quiet, have.Problem+"; a person must put it back", "", want, waitsForPerson(have.Problem+": put it back from a backup"))
		return false
	case have.Protection != want:
		d.add(caKeysChange, plan.ActionEncrypt, plan.Quiet, fmt.Sprintf("they are opened by a %s, the spec says %s", have.Protection, want),
			"opened by: "+have.Protection, "opened by: "+want, keyringOp{want, true})
	}
	return true
}

func (d *differ) encryptCAKeys(want string, have CAKeys) {
	for _, k := range have.Files {
		if k.Clear {
			reason := "it lies in clear"
			if k.Sealed {
				reason = "it lies in clear, beside the encrypted one"
			}
			d.add("CA key "+k.Name, plan.ActionEncrypt, plan.Quiet, reason, "in clear", "opened by: "+want, encryptOp{k})
		}
	}
}

func (d *differ) decryptCAKeys(have CAKeys) {
	for _, k := range have.Files {
		if k.Sealed {
			d.add("CA key "+k.Name, plan.ActionDecrypt, plan.Quiet, "the spec says that it lies in clear", "encrypted", "in clear", decryptOp{k})
		}
	}
	if have.Condition != Missing {
		d.add(caKeysChange, plan.ActionDelete, plan.Quiet, "no key of a CA is encrypted any more", "opened by: "+have.Protection, "", noKeyringOp{})
	}
}

type (
	// keyringOp makes the keyring, or has another secret open it.
	keyringOp struct {
		protection string
		there      bool
	}
	encryptOp   struct{ key CAKey }
	decryptOp   struct{ key CAKey }
	noKeyringOp struct{}
)

func (o keyringOp) apply(ctx context.Context, r *run) error {
	if o.there {
		return r.Keys.protect(ctx, r.disk, o.protection, "")
	}
	return r.Keys.make(ctx, r.disk, o.protection)
}

// apply of encryptOp removes the key in clear only when the encrypted one was
// opened with the secret at hand, and is the same.
func (o encryptOp) apply(ctx context.Context, r *run) error {
	clear, sealed := filepath.Join(o.key.Dir, authorityKey), filepath.Join(o.key.Dir, authorityKeySealed)
	key, err := readFile(clear)
	if err != nil {
		return err
	}
	if _, err := parseKey(key.content); err != nil {
		return fmt.Errorf("%s %w: put it back from a backup", clear, err)
	}
	// Where nothing can be opened nothing is encrypted.
	identity, err := r.Keys.open(ctx)
	if err != nil {
		return err
	}
	if there := sameSealed(r.Root, identity, sealed, key.content); there != nil {
		if !errors.Is(there, fs.ErrNotExist) && readAuthority(o.key.Dir, o.key.Name).Condition != Sound {
			return twoKeys(o.key.Dir)
		}
		content, err := r.Keys.seal(key.content)
		if err != nil {
			return err
		}
		if err := atomicfile.Write(sealed, content, 0o600); err != nil {
			return err
		}
		r.disk.did("encrypted key written")
		if err := sameSealed(r.Root, identity, sealed, key.content); err != nil {
			return fmt.Errorf("read back %q: %w", sealed, err)
		}
	}
	if err := atomicfile.Remove(clear); err != nil {
		return err
	}
	r.disk.did("key in clear removed")
	return nil
}

// sameSealed answers nil where an encrypted key opens to the content.
func sameSealed(root layout.Root, identity *age.X25519Identity, path string, want []byte) error {
	r, err := readFile(path)
	if err != nil {
		return err
	}
	content, err := unseal(root, identity, r.content)
	if err == nil && !bytes.Equal(content, want) {
		err = errDiffers
	}
	return err
}

// waitsForPerson is a change that only a person can make.
func waitsForPerson(reason string) heldOp { return heldOp{reason, reason} }

// twoKeys is the refusal to write one key over another when it does not show
// which of the two is the authority's. Only a person can have put them there.
func twoKeys(dir string) error {
	return fmt.Errorf("%s and %s in %q are not the same key, and the first is not known to be that of %s: move the one away that is not", authorityKey, authorityKeySealed, dir, authorityCert)
}

// apply of decryptOp keeps a key in clear that is there already: the authority
// uses that one.
func (o decryptOp) apply(ctx context.Context, r *run) error {
	clear, sealed := filepath.Join(o.key.Dir, authorityKey), filepath.Join(o.key.Dir, authorityKeySealed)
	if a := readAuthority(o.key.Dir, o.key.Name); a.Encrypted || a.Condition != Sound {
		if err := o.decrypt(ctx, r, clear); err != nil {
			return err
		}
	}
	if err := atomicfile.Remove(sealed); err != nil {
		return err
	}
	r.disk.did("encrypted key removed")
	return nil
}

// decrypt writes the key in clear, over nothing that is another key.
func (o decryptOp) decrypt(ctx context.Context, r *run, clear string) error {
	content, err := readSealed(o.key.Dir)
	if err != nil {
		return err
	}
	identity, err := r.Keys.open(ctx)
	if err != nil {
		return err
	}
	key, err := unseal(r.Root, identity, content)
	if err != nil {
		return err
	}
	there, err := readFile(clear)
	if _, noKey := parseKey(there.content); err == nil && noKey == nil && !bytes.Equal(there.content, key) {
		return twoKeys(o.key.Dir)
	}
	if err := atomicfile.Write(clear, key, 0o600); err != nil {
		return err
	}
	r.disk.did("key in clear written")
	back, err := readFile(clear)
	if err == nil && !bytes.Equal(back.content, key) {
		err = errDiffers
	}
	if err != nil {
		return fmt.Errorf("read back %q: %w", clear, err)
	}
	return nil
}

// apply of noKeyringOp looks once more: a key that could not be decrypted needs
// the keyring still, wherever below the folder it lies.
func (noKeyringOp) apply(_ context.Context, r *run) error {
	err := filepath.WalkDir(filepath.Dir(r.Root.LocalKeyring()), func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), atomicfile.TempPrefix):
			return fs.SkipDir // left over, and about to be removed
		case d.Name() == authorityKeySealed:
			return stillSealed(r.Root, path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := atomicfile.Remove(r.Root.LocalKeyring()); err != nil {
		return err
	}
	r.Keys.Forget()
	r.disk.did("keyring removed")
	return nil
}

// stillSealed says what keeps the keyring: that of an authority is needed, and
// why it was not decrypted is an error of its own; another one is a person's.
func stillSealed(root layout.Root, path string) error {
	for _, name := range layout.CAs() {
		if dir := filepath.Dir(path); dir == root.LocalCA(name) || dir == root.LocalCABeside(name) {
			return fmt.Errorf("the key of the authority %s is encrypted still", name)
		}
	}
	return fmt.Errorf("%s, which is no authority's, can be opened by it alone: move it out of that folder, or away", path)
}
