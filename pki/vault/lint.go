package vault

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nodeagent/nodeagent/internal/plan"
)

// The severities of findings.
const (
	SeverityError   = "error"   // something does not work, or is open to others
	SeverityWarning = "warning" // it will be, or cannot be told
	SeverityAdvice  = "advice"
)

// Finding is one thing that `nodeagent pki check` has to say.
type Finding struct {
	Severity string `json:"severity"`
	Where    string `json:"where"` // "role nodeagent/mercury/etcd-peer/n1.etcd-peer"
	What     string `json:"what"`
	Remedy   string `json:"remedy"` // empty where none is needed
}

const bootstrap = "nodeagent pki bootstrap puts it right"

// Lint compares what is in Vault with what the fleet wants, and looks for what
// is dangerous whoever made it. It is pure; now decides which CAs end too soon.
// The gravest findings come first.
func Lint(have, want State, now time.Time) []Finding {
	l := linter{have: have, want: want, now: now}
	for _, obstacle := range Obstacles(have, want) {
		l.add(SeverityError, string(have.Place), obstacle, "")
	}
	for _, a := range want.Authorities {
		l.authority(a)
	}
	for _, c := range Diff(have, want) {
		l.change(c)
	}
	for _, o := range have.Others {
		l.other(o)
	}
	l.audit()
	sortFindings(l.findings)
	return l.findings
}

// sortFindings puts the gravest first.
func sortFindings(list []Finding) {
	gravity := func(f Finding) int {
		return slices.Index([]string{SeverityError, SeverityWarning, SeverityAdvice}, f.Severity)
	}
	slices.SortStableFunc(list, func(a, b Finding) int {
		return cmp.Or(gravity(a)-gravity(b), cmp.Compare(a.Where, b.Where))
	})
}

type linter struct {
	have, want State
	now        time.Time
	findings   []Finding
}

func (l *linter) add(severity, where, what, remedy string) {
	l.findings = append(l.findings, Finding{severity, where, what, remedy})
}

// notice is how long before a CA cannot sign any more it is told of; a CA of a
// short life is told of in the last fifth.
const notice = 6 * 7 * 24 * time.Hour

// authority tells of a CA that cannot sign the next leaf, or soon will not.
// Vault refuses a leaf that would outlive its CA (leaf_not_after_behavior is
// "err"), so that every renewal fails long before the CA itself has ended.
func (l *linter) authority(want Authority) {
	where := "authority " + want.Engine
	have := l.have.authority(want.Name)
	switch {
	case have == nil || have.Condition == Absent:
		l.add(SeverityError, where, "there is none", "nodeagent pki bootstrap makes it")
		return
	case have.Condition == Waiting:
		l.add(SeverityError, where, "it waits for a certificate that is signed elsewhere", "nodeagent pki bootstrap --csr DIR writes the request, --import DIR takes the certificate")
		return
	}
	signer := have.signer()
	if signer == nil {
		return // an obstacle
	}
	if f, ok := life(where, want.Name, signer.Certificate, want.Leaf, l.now); ok {
		l.findings = append(l.findings, f)
	}
	if have.Follows {
		l.add(SeverityWarning, where, "default_follows_latest_issuer is set: when the CA is changed, the new one signs before hosts trust it", fmt.Sprintf("vault write %s/config/issuers default=%s default_follows_latest_issuer=false", want.Engine, have.Default))
	}
	if signer.Ends != "" && signer.Ends != "err" {
		l.add(SeverityWarning, where, fmt.Sprintf("leaf_not_after_behavior is %q: leaves silently end with the CA, or outlive it", signer.Ends), fmt.Sprintf("vault patch %s/issuer/%s leaf_not_after_behavior=err", want.Engine, signer.ID))
	}
}

// life tells of a CA's certificate that ends, or soon will end, before the next
// leaf would.
func life(where, ca string, signer *x509.Certificate, leaf time.Duration, now time.Time) (Finding, bool) {
	ends, rotate := signer.NotAfter, "change the CA: nodeagent certs rotate-ca "+ca
	switch last := ends.Add(-leaf); {
	case !now.Before(last):
		return Finding{SeverityError, where, fmt.Sprintf("it ends on %s, sooner than a leaf of %s: Vault refuses every renewal", date(ends), leaf), rotate}, true
	case last.Sub(now) < min(notice, ends.Sub(signer.NotBefore)/5):
		return Finding{SeverityWarning, where, fmt.Sprintf("it ends on %s: from %s on Vault refuses every renewal of a leaf of %s", date(ends), date(last), leaf), rotate}, true
	}
	return Finding{}, false
}

// change tells of a difference; of one in a role, what each field lets pass.
func (l *linter) change(c plan.Change) {
	e, ok := c.Payload.(edit)
	if !ok || e.object == nil {
		return // authorities have their own findings
	}
	have := l.have.object(*e.object)
	switch {
	case c.Action == plan.ActionDelete:
		l.add(SeverityWarning, c.Key, "no host of the fleet needs it", "nodeagent pki bootstrap removes it")
	case have == nil:
		l.add(SeverityError, c.Key, "it is missing", "nodeagent pki bootstrap makes it")
	case e.object.Kind != KindRole:
		l.add(SeverityError, c.Key, oneLine(c.Reason+": "+c.Before+" → "+c.After), bootstrap)
	default:
		l.role(*have, e.object.Fields)
	}
}

func (l *linter) role(have Object, want Fields) {
	told := traps(have.Fields)
	for _, name := range have.Fields.differing(want) {
		what := fmt.Sprintf("%s is %s, the fleet needs %s", name, word(have.Fields[name]), word(want[name]))
		if trap := told[name]; trap != "" {
			what += ": " + trap
		}
		l.add(SeverityError, have.Key(), what, bootstrap)
	}
}

// other tells of what others made below the place.
func (l *linter) other(o Object) {
	switch o.Kind {
	case KindRole:
		told := traps(o.Fields)
		for _, name := range sortedKeys(told) {
			l.add(SeverityError, o.Key(), fmt.Sprintf("a role that is not nodeagent's, in an engine that the cluster trusts: %s is %s: %s", name, word(o.Fields[name]), told[name]), "vault delete "+o.path()+", or narrow it")
		}
		if len(told) == 0 {
			l.add(SeverityWarning, o.Key(), "a role that is not nodeagent's, in an engine that the cluster trusts", "make sure that it is meant to be there")
		}
	case KindLogin:
		l.add(SeverityWarning, o.Key(), "a login that is not nodeagent's; it gives "+word(o.Fields["token_policies"]), "make sure that it is meant to be there")
	default:
		l.add(SeverityAdvice, o.Key(), "not nodeagent's; it is left alone", "")
	}
}

func (l *linter) audit() {
	switch {
	case l.have.AuditHidden:
		l.add(SeverityAdvice, "audit", "this token may not see whether there is an audit device", "see nodeagent pki bootstrap --print-policy")
	case len(l.have.Audit) == 0:
		l.add(SeverityWarning, "audit", "no audit device is enabled: nobody can tell later who had what signed", "vault audit enable file file_path=/var/log/vault/audit.log")
	}
}

// traps are the fields of a role with which it signs more than it seems to, or
// otherwise than expected, each with why. facts of Vault 1.13 and 1.21, each
// tried.
func traps(role Fields) map[string]string {
	told := map[string]string{}
	trap := func(name string, sprung bool, why string) {
		if sprung {
			told[name] = why
		}
	}
	has := func(name, element string) bool {
		l, _ := role[name].([]string)
		return slices.Contains(l, element)
	}
	trap("cn_validations", has("cn_validations", "disabled"), "it switches allowed_domains off: any common name is signed")
	trap("allow_any_name", role["allow_any_name"] == true, "any name is signed")
	trap("allow_glob_domains", role["allow_glob_domains"] == true, "patterns in allowed_domains match more names than they seem to")
	trap("allow_subdomains", role["allow_subdomains"] == true, "all names below the allowed ones are signed")
	trap("allow_ip_sans", role["allow_ip_sans"] == true, "a role knows but yes or no: any address is signed where no policy pins it")
	trap("use_csr_common_name", role["use_csr_common_name"] == true, "the request's own name is taken, which no policy can pin")
	trap("use_csr_sans", role["use_csr_sans"] == true, "the request's own names and addresses are taken, which no policy can pin")
	trap("key_type", role["key_type"] == "any", "keys of any type and length are signed")
	trap("ttl", role["ttl"] == int64(0), "without one, a leaf lives as long as the engine lets it: on a fresh engine as long as its CA")
	trap("max_ttl", role["max_ttl"] == int64(0), "without one, a longer life can be asked for")
	trap("not_after", role["not_after"] != nil, "every leaf ends at this moment, and none after it is of use")
	trap("no_store", role["no_store"] == false, "every leaf is kept in Vault, whose storage grows with each renewal")
	return told
}

func date(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// oneLine is a text of several lines on one, cut where it gets long.
func oneLine(text string) string {
	const most = 300
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + " …"
	}
	return text
}

func sortedKeys(m map[string]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
