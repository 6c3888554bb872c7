package etcdops

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrKeyMissing is the error of a restore whose Secrets nobody could read.
var ErrKeyMissing = errors.New("Secrets in the snapshot are encrypted, and this host lacks the key")

// checkEncryption refuses where the restored Secrets could not be read, since
// the key is not in the snapshot, and warns where that is not known.
func (p *RestorePlan) checkEncryption(opts RestoreOptions) error {
	if !p.Snapshot.Encrypted {
		return nil
	}
	var key string
	if m := p.Snapshot.Manifest; m != nil {
		key = m.EncryptionKey
	}
	const remedy = "put the folder pki/keys/encryption of the host that wrote them back from a backup, or say that they may stay unreadable: --unreadable-secrets"
	var err error
	switch own := opts.EncryptionKeys; {
	case len(own) == 0:
		err = fmt.Errorf("%w: it has none: %s", ErrKeyMissing, remedy)
	case key == "":
		p.warn("Secrets in the snapshot are encrypted with a key that it does not name: if that is not this host's %s, they stay unreadable until the folder pki/keys/encryption of the host that wrote them is back", own[0])
	case !slices.Contains(own, key) && slices.Contains(opts.RetiredKeys, key):
		err = fmt.Errorf("%w: they are encrypted with %s, which was dropped since: put it from %s into the EncryptionConfiguration as the last key, or say that they may stay unreadable: --unreadable-secrets", ErrKeyMissing, key, opts.RetiredFile)
	case !slices.Contains(own, key):
		err = fmt.Errorf("%w: they are encrypted with %s, it has %s: %s", ErrKeyMissing, key, strings.Join(own, ", "), remedy)
	}
	if err != nil && opts.UnreadableSecrets {
		p.warn("%s", err)
		return nil
	}
	return err
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
