package pki

import (
	"fmt"
	"strings"
	"time"
)

// What plans show before and after. Nothing here prints a key: certificates
// are public, keys appear as fingerprints.

func lines(list []string) string { return strings.Join(list, "\n") }

func describeWanted(r Request) string {
	return lines(append(describeRequest(r), "lifetime: "+span(r.Lifetime)))
}

func describeRequest(r Request) []string {
	subject := "subject: CN=" + r.CommonName
	if r.Organization != "" {
		subject += ", O=" + r.Organization
	}
	list := []string{subject}
	if all := allNames(r); len(all) > 0 {
		list = append(list, "names: "+strings.Join(all, ", "))
	}
	return append(list, "usage: "+usage(r), "key: "+r.KeyType)
}

// describeFound is empty for a certificate that is not there.
func describeFound(c *Certificate) string {
	if c == nil || c.Found.Serial == "" {
		return ""
	}
	return lines(append(describeRequest(c.Request),
		fmt.Sprintf("valid: %s to %s", date(c.Found.NotBefore), date(c.Found.NotAfter)),
		"serial: "+c.Found.Serial))
}

func describeAuthority(a *Authority) string {
	if a == nil || a.Condition == Missing {
		return ""
	}
	var list []string
	if a.KeyID != "" {
		list = append(list, "key: "+short(a.KeyID))
	}
	if !a.NotAfter.IsZero() {
		list = append(list, fmt.Sprintf("valid: %s to %s", date(a.NotBefore), date(a.NotAfter)))
	}
	return lines(list)
}

func describeWantedAuthority(a Authority, now time.Time) string {
	return fmt.Sprintf("subject: CN=%s, O=%s\nvalid: until %s", a.Name, a.Cluster, date(now.Add(a.Lifetime)))
}

func describeBundle(b *Bundle) string {
	if b == nil || b.Condition != Sound {
		return ""
	}
	keys := make([]string, len(b.KeyIDs))
	for i, id := range b.KeyIDs {
		keys[i] = "key: " + short(id)
	}
	return lines(append(keys, "valid: until "+date(b.NotAfter)))
}

func describeKey(k *Key) string {
	if k == nil {
		return ""
	}
	return k.Fingerprint
}

// short cuts a digest to the length of plan.Fingerprint.
func short(id string) string { return id[:min(len(id), len("sha256:")+12)] }

func (m Mode) reason() string {
	if m.Foreign {
		return fmt.Sprintf("it belongs to user %d, not to the one who runs nodeagent", m.UID)
	}
	return fmt.Sprintf("its mode is %#o, want %#o", m.Have, m.Want)
}

func (m Mode) before() string {
	if m.Foreign {
		return fmt.Sprintf("%#o, user %d", m.Have, m.UID)
	}
	return fmt.Sprintf("%#o", m.Have)
}

func (m Mode) after() string { return fmt.Sprintf("%#o", m.Want) }
