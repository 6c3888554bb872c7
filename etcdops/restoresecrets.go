package etcdops

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrKeyMissing is the error of a restore whose Secrets nobody could read.
var ErrKeyMissing = errors.New("the Secrets in the snapshot are encrypted, and this host lacks the key")

// checkEncryption refuses where the restored Secrets could not be read, since
// keys are not in the snapshot, and warns where that is not known.
func (p *RestorePlan) checkEncryption(opts RestoreOptions) error {
	if !p.Snapshot.Encrypted {
		return nil
	}
	m := p.Snapshot.Manifest
	if m == nil { // its values name keys, nothing says which these were
		m = &Manifest{Format: ManifestFormat, EncryptedWith: p.Snapshot.EncryptedWith}
	}
	needed, unknown := m.NeededKeys()
	err := missingKeys(needed, opts)
	if err == nil {
		err = missingNames(unknown, opts.Surroundings.EncryptionKeys)
	}
	if err == nil && (len(needed) == 0 || len(unknown) > 0) {
		which := "a key that it does not name"
		if len(unknown) > 0 {
			which = strings.Join(unknown, ", ")
		}
		p.warn("Secrets in the snapshot are encrypted with %s: if that is not this host's %s, they stay unreadable until the folder pki/keys/encryption of the host that wrote them is back", which, opts.EncryptionKeys[0])
	}
	if err != nil && opts.UnreadableSecrets {
		p.warn("%s", err)
		return nil
	}
	return err
}

const keyRemedy = "put the folder pki/keys/encryption of the host that wrote them back from a backup, or say that they may stay unreadable: --unreadable-secrets"

// missingNames says which of the keys, of which no more than provider and name are
// known, are surely not on this host, whose own are named: kube-apiserver looks for
// the key that a value names. One of the same name may still be another.
func missingNames(needed []string, own []EncryptionKey) error {
	if len(own) == 0 {
		return nil
	}
	var names []string
	for _, key := range own {
		names = append(names, key.Provider+" "+key.Name)
	}
	missing := slices.DeleteFunc(slices.Clone(needed), func(name string) bool { return slices.Contains(names, name) })
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%w: they are encrypted with %s, it has %s: %s", ErrKeyMissing, strings.Join(missing, ", "), strings.Join(names, ", "), keyRemedy)
}

// missingKeys says which of the keys are not on this host, and where they are.
func missingKeys(needed []string, opts RestoreOptions) error {
	if len(opts.EncryptionKeys) == 0 {
		return fmt.Errorf("%w: it has none: %s", ErrKeyMissing, keyRemedy)
	}
	var missing, retired []string
	for _, key := range needed {
		switch {
		case slices.Contains(opts.EncryptionKeys, key):
		case slices.Contains(opts.RetiredKeys, key):
			retired = append(retired, key)
		default:
			missing = append(missing, key)
		}
	}
	switch {
	case len(missing) > 0:
		return fmt.Errorf("%w: they are encrypted with %s, it has %s: %s", ErrKeyMissing, strings.Join(missing, ", "), strings.Join(opts.EncryptionKeys, ", "), keyRemedy)
	case len(retired) > 0:
		return fmt.Errorf("%w: they are encrypted with %s, which was dropped since: put it from %s into the EncryptionConfiguration as the last key, or say that they may stay unreadable: --unreadable-secrets",
			ErrKeyMissing, strings.Join(retired, ", "), opts.RetiredFile)
	}
	return nil
}

// checkAlarms refuses data that would come back read-only.
func (p *RestorePlan) checkAlarms(opts RestoreOptions) error {
	p.RepairSpace = opts.RepairSpace && slices.Contains(p.Snapshot.Alarms, AlarmNoSpace)
	switch {
	case slices.Contains(p.Snapshot.Alarms, AlarmCorrupt):
		p.warn("the snapshot carries the alarm CORRUPT: its members' data differed when it was taken; `nodeagent etcd disarm` deals with it after the restore")
	case slices.Contains(p.Snapshot.Alarms, AlarmNoSpace) && !p.RepairSpace:
		return errors.New("the snapshot carries the alarm NOSPACE, so the restored etcd would take no writes: take --repair-space, which has it compacted, defragmented and the alarm switched off as soon as it runs")
	}
	return nil
}
