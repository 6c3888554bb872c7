package hosts

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/nodeagent/nodeagent/internal/calendar"
	"github.com/nodeagent/nodeagent/internal/layout"
)

var (
	labelPattern      = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	versionPattern    = regexp.MustCompile(`^(0|[1-9][0-9]{0,3})[.](0|[1-9][0-9]{0,3})[.](0|[1-9][0-9]{0,3})(-[0-9A-Za-z.-]+)?$`)
	modulePattern     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)
	parameterPattern  = regexp.MustCompile(`^[A-Za-z0-9_.-]*[A-Za-z0-9_-]$`)
	sysctlPattern     = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-][A-Za-z0-9_/:@-]*)+$`)
	flagPattern       = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	imagePattern      = regexp.MustCompile(`^[a-z0-9][A-Za-z0-9._:/@-]*$`)
	pathPattern       = regexp.MustCompile(`^/[A-Za-z0-9._/+:@=,-]*$`)
	credentialPattern = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$`)
	mountPattern      = regexp.MustCompile(`^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$`)
)

// isLabel tells whether a string is a DNS label as RFC 1123 has it, in lower
// case as Kubernetes wants the names of nodes.
func isLabel(s string) bool { return labelPattern.MatchString(s) }

func isDNSName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !isLabel(label) {
			return false
		}
	}
	return true
}

func parseLabel(s string) (string, error) {
	if !isLabel(s) {
		return "", fmt.Errorf("%s is not a DNS label: lower-case letters, digits and dashes, at most 63", quote(s))
	}
	return s, nil
}

func checkLabel(s string) error {
	_, err := parseLabel(s)
	return err
}

func parseDomain(s string) (string, error) {
	if !isDNSName(s) {
		return "", fmt.Errorf("%s is not a DNS name such as \"cluster.local\"", quote(s))
	}
	return s, nil
}

// parseExtraName reads a further name of kube-apiserver: DNS name or address.
func parseExtraName(s string) (string, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		if a.IsUnspecified() || a.IsMulticast() {
			return "", fmt.Errorf("%s cannot be the address of one host", quote(s))
		}
		return a.String(), nil
	}
	// A name of digits and dots only is a mistyped address.
	if !isDNSName(s) || strings.Trim(s, "0123456789.") == "" {
		return "", fmt.Errorf("%s is neither a DNS name nor an IP address", quote(s))
	}
	return s, nil
}

// checkLinkName follows dev_valid_name of the kernel's net/core/dev.c, and
// leaves out the two names that have a meaning below /proc/sys/net.
func checkLinkName(s string) error {
	switch {
	case s == "" || len(s) > 15: // IFNAMSIZ is 16 with the terminating zero
		return fmt.Errorf("link name %s must have 1 to 15 bytes", quote(s))
	case s == "." || s == ".." || s == "all" || s == "default":
		return fmt.Errorf("%s cannot be the name of a link", quote(s))
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/:\"'%\\*", r) }):
		return fmt.Errorf("link name %s has a character that links cannot have", quote(s))
	}
	return nil
}

func parseLinkName(s string) (string, error) { return s, checkLinkName(s) }

func checkModuleName(s string) error {
	if !modulePattern.MatchString(s) {
		return fmt.Errorf("%s is not the name of a kernel module", quote(s))
	}
	return nil
}

// parseModule reads a module's name and writes it as /sys/module does: to the
// kernel dashes and underscores are the same.
func parseModule(s string) (string, error) {
	return strings.ReplaceAll(s, "-", "_"), checkModuleName(s)
}

func checkParameterName(s string) error {
	if !parameterPattern.MatchString(s) {
		return fmt.Errorf("%s is not the name of a module's parameter", quote(s))
	}
	return nil
}

func checkSysctlName(s string) error {
	if !sysctlPattern.MatchString(s) {
		return fmt.Errorf("%s is not the name of a sysctl such as \"net.ipv4.ip_forward\" (a dot within a part, as in the name of a VLAN, is written as a slash)", quote(s))
	}
	return nil
}

func checkFlagName(s string) error {
	if strings.HasPrefix(s, "-") {
		return fmt.Errorf("%s: flags are written without their dashes", quote(s))
	}
	if !flagPattern.MatchString(s) {
		return fmt.Errorf("%s is not the name of a flag", quote(s))
	}
	return nil
}

func parseVersion(s string) (string, error) {
	if strings.HasPrefix(s, "v") {
		return "", fmt.Errorf("%s: versions are written without the \"v\"", quote(s))
	}
	m := versionPattern.FindStringSubmatch(s)
	if m == nil {
		return "", fmt.Errorf("%s is not a version such as \"1.36.3\"", quote(s))
	}
	minor, _ := strconv.Atoi(m[2]) // the pattern leaves at most four digits
	if m[1] != "1" || minor < oldestMinor {
		return "", fmt.Errorf("%s is too old: nodeagent's flags and kube-proxy's nftables mode need Kubernetes 1.%d or newer", quote(s), oldestMinor)
	}
	return s, nil
}

// oldestMinor is the first 1.x with kube-proxy's nftables mode as stable.
const oldestMinor = 33

// parsePath reads an absolute path in the plain characters that need no quotes
// in a unit file.
func parsePath(s string) (string, error) {
	switch {
	case !strings.HasPrefix(s, "/"):
		return "", fmt.Errorf("%s is not an absolute path", quote(s))
	case !pathPattern.MatchString(s):
		return "", fmt.Errorf("%s has a character that is not safe in unit files: use letters, digits and . _ / + : @ = , -", quote(s))
	case path.Clean(s) != s:
		return "", fmt.Errorf("%s is not in its shortest form: write %s", quote(s), path.Clean(s))
	}
	return s, nil
}

func parseFolder(s string) (string, error) {
	if s == "/" {
		return "", errors.New(`"/" cannot be the folder`)
	}
	return parsePath(s)
}

// parseDestinationFolder keeps snapshots out of nodeagent's other folders: a
// restore exchanges etcd's data folder, and what lies in others is cleaned.
func parseDestinationFolder(s string) (string, error) {
	s, err := parseFolder(s)
	state, own := layout.Root("").State(), layout.Root("").Snapshots()
	if err == nil && (s == state || strings.HasPrefix(s, state+"/")) && s != own && !strings.HasPrefix(s, own+"/") {
		err = fmt.Errorf("%s is a folder of nodeagent's own: snapshots go to %s, or anywhere outside of %s", quote(s), own, state)
	}
	return s, err
}

func parseImage(s string) (string, error) {
	if !imagePattern.MatchString(s) {
		return "", fmt.Errorf("%s is not the name of an image such as \"registry.k8s.io/pause:3.10.1\"", quote(s))
	}
	return s, nil
}

// parseHostPort reads "host:port", the host being a DNS name or an address.
func parseHostPort(s string) (string, error) {
	if strings.Contains(s, "://") {
		return "", fmt.Errorf("%s must be host:port without a scheme", quote(s))
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", fmt.Errorf("%s is not host:port, such as \"api.example.org:6443\" or \"[2001:db8::1]:6443\"", quote(s))
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("%s: port %s is not in 1 to 65535", quote(s), quote(port))
	}
	if _, err := parseExtraName(host); err != nil {
		return "", fmt.Errorf("%s: %w", quote(s), err)
	}
	return s, nil
}

// parseVaultAddress reads an https URL without a user or a query, which are
// places where secrets end up.
func parseVaultAddress(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("%s is not a URL such as \"https://vault.example.org:8200\"", quote(s))
	}
	return strings.TrimSuffix(s, "/"), nil
}

func parseMount(s string) (string, error) {
	if !mountPattern.MatchString(s) {
		return "", fmt.Errorf("%s is not a mount path such as \"pki/k8s\"", quote(s))
	}
	return s, nil
}

// parseSecretFile keeps what opens files away from them: who copies the one
// folder must not have both.
func parseSecretFile(s string) (string, error) {
	s, err := parsePath(s)
	if state := layout.Root("").State(); err == nil && (s == state || strings.HasPrefix(s, state+"/")) {
		err = fmt.Errorf("%s is beside the keys that it opens: put it outside of %s, best where it is not on disk, below /run", quote(s), state)
	}
	return s, err
}

// parseCredentialName reads the name of a systemd credential, which is a file
// name (systemd.exec(5), LoadCredential=).
func parseCredentialName(s string) (string, error) {
	if !credentialPattern.MatchString(s) {
		return "", fmt.Errorf("%s is not the name of a credential such as %q", quote(s), defaultCredential)
	}
	return s, nil
}

// parseSubject reads the subject of hosts' tokens: without the host's name in it
// every host could log in as every other one.
func parseSubject(s string) (string, error) {
	if !strings.Contains(s, hostInSubject) || strings.ContainsFunc(s, unprintable) {
		return "", fmt.Errorf("%s has no %s, which stands for the host's name, as in \"spiffe://example.org/host/{host}\"", quote(s), hostInSubject)
	}
	return s, nil
}

func parseAudience(s string) (string, error) {
	if s == "" || strings.ContainsFunc(s, unprintable) {
		return "", fmt.Errorf("%s is not an audience such as \"vault\"", quote(s))
	}
	return s, nil
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// parseWireGuardKey reads a public key: 32 bytes in base64, not all zero (the
// zero key means "none" to the kernel). The error does not repeat the value:
// it may be another key, pasted into the wrong place.
func parseWireGuardKey(s string) (string, error) {
	key, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(key) != 32 || [32]byte(key) == [32]byte{} {
		return "", errors.New("is not a WireGuard public key: 32 bytes in base64, as \"wg pubkey\" prints")
	}
	return s, nil
}

// What Snapshots.Compression may be.
const (
	CompressionZstd = "zstd"
	CompressionNone = "none"
)

// never is the schedule that takes no snapshots.
const never = "never"

func parseSchedule(s string) (string, error) {
	if s == never {
		return s, nil
	}
	schedule, err := calendar.Parse(s)
	if err != nil {
		return "", errors.New(oneLine(err.Error()))
	}
	if schedule.Next(time.Unix(0, 0).UTC()).IsZero() {
		return "", fmt.Errorf("%s is a date that never comes (write %q if that is meant)", quote(s), never)
	}
	return s, nil
}

// destination is where a route leads: a prefix or "default".
type destination struct {
	isDefault bool
	prefix    netip.Prefix
}

func parseDestination(s string) (destination, error) {
	if s == "default" {
		return destination{isDefault: true}, nil
	}
	p, err := parseRange(s)
	return destination{prefix: p}, err
}

// sysctlValue is a sysctl's value; drop means that the host's own value stays.
type sysctlValue struct {
	value string
	drop  bool
}

func parseSysctlValue(v any) (any, error) {
	switch v := v.(type) {
	case int64:
		return sysctlValue{value: strconv.FormatInt(v, 10)}, nil
	case string:
		s := strings.TrimSpace(v)
		if s == "" || strings.ContainsAny(s, "\n\r\x00") {
			return nil, errors.New("must be one line that is not empty")
		}
		return sysctlValue{value: s}, nil
	case bool:
		if !v {
			return sysctlValue{drop: true}, nil
		}
	}
	return nil, errors.New("must be an integer, a string, or false to leave the host's own value")
}

// parseParameter reads a module parameter's value; booleans are written as the
// kernel prints them.
func parseParameter(v any) (any, error) {
	if b, ok := v.(bool); ok {
		if b {
			return "Y", nil
		}
		return "N", nil
	}
	s, err := scalarString(v)
	if err == nil && strings.Contains(s, `"`) {
		err = errors.New("has a quote, which the kernel cannot take")
	}
	return s, err
}

// parseFlagValue reads a command line flag's value.
func parseFlagValue(v any) (any, error) { return scalarString(v) }

func scalarString(v any) (string, error) {
	switch v := v.(type) {
	case string:
		if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return "", errors.New("has a line break or another control character in it")
		}
		return v, nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case bool:
		return strconv.FormatBool(v), nil
	case float64:
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			return strconv.FormatFloat(v, 'f', -1, 64), nil
		}
	}
	return "", errors.New("must be a string, a number or a boolean")
}
