package hosts

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// leaf is the type of one value: the TOML kind that it is written as, and how
// it is read. parse is given a value of that kind; its error is the reason of
// a problem.
type leaf struct {
	kind  string // "string", "integer", "boolean", or "scalar" for any of them
	shape string // what the reference calls it: "address", "duration"
	parse func(any) (any, error)

	words  []string // of a word
	bounds bounds   // of an integer
}

// bounds are the lowest and the highest number that a key takes.
type bounds struct{ lowest, highest int64 }

// text is a leaf that is written as a string.
func text[T any](shape string, parse func(string) (T, error)) leaf {
	return leaf{kind: "string", shape: shape, parse: func(v any) (any, error) {
		s := v.(string)
		if s == "" {
			return nil, errors.New("must not be empty")
		}
		if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil, errors.New("has a line break or another control character in it")
		}
		return parse(s)
	}}
}

// integer is a leaf for whole numbers from lowest to highest.
func integer(shape string, lowest, highest int64) leaf {
	return leaf{kind: "integer", shape: shape, bounds: bounds{lowest, highest}, parse: func(v any) (any, error) {
		n := v.(int64)
		if n < lowest || n > highest {
			return nil, fmt.Errorf("%d is not in %d to %d", n, lowest, highest)
		}
		return int(n), nil
	}}
}

// word is a leaf for one of a few words.
func word(words ...string) leaf {
	l := text("word", func(s string) (string, error) {
		for _, w := range words {
			if s == w {
				return s, nil
			}
		}
		return "", fmt.Errorf("%s is not known: it is one of %s%s", quote(s), list(words), didYouMean(s, words))
	})
	l.words = words
	return l
}

var boolean = leaf{kind: "boolean", shape: "boolean", parse: func(v any) (any, error) { return v.(bool), nil }}

// quote prints a value of a file in a reason, cut to a length that leaves the
// line readable.
func quote(s string) string {
	if len(s) > 60 {
		s = s[:57] + "…"
	}
	return strconv.Quote(s)
}

// list prints words for people: "a, b or c".
func list(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// oneLine makes sure that a reason from elsewhere stays one line.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// parseDuration reads Go's durations and, in front, a number of days.
func parseDuration(s string) (time.Duration, error) {
	rest, total := s, time.Duration(0)
	if days, after, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("%s is not a duration such as \"720h\", \"90d\" or \"30s\"", quote(s))
		}
		rest, total = after, time.Duration(n)*24*time.Hour
	}
	if rest != "" {
		d, err := time.ParseDuration(rest)
		if err != nil {
			return 0, fmt.Errorf("%s is not a duration such as \"720h\", \"90d\" or \"30s\"", quote(s))
		}
		if d > math.MaxInt64-total {
			return 0, fmt.Errorf("%s is longer than a duration can be", quote(s))
		}
		total += d
	}
	if total < 0 {
		return 0, fmt.Errorf("%s is negative", quote(s))
	}
	return total, nil
}

// duration is a leaf for durations of at least the given one.
func duration(atLeast time.Duration) leaf {
	return text("duration", func(s string) (time.Duration, error) {
		d, err := parseDuration(s)
		if err == nil && d < atLeast {
			err = fmt.Errorf("%s is too short: at least %s", quote(s), hours(atLeast))
		}
		return d, err
	})
}

// parseKeepalive reads what WireGuard takes: whole seconds in 16 bits. The
// kernel would cut off the rest, and the host would never be as its spec.
func parseKeepalive(s string) (time.Duration, error) {
	d, err := parseDuration(s)
	if err == nil && (d%time.Second != 0 || d > math.MaxUint16*time.Second) {
		err = fmt.Errorf("%s must be whole seconds, at most %d", quote(s), math.MaxUint16)
	}
	return d, err
}

var byteUnits = []struct {
	suffix string
	size   int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}}

// parseBytes reads a size such as "8GiB".
func parseBytes(s string) (int64, error) {
	for _, unit := range byteUnits {
		number, ok := strings.CutSuffix(s, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		if err == nil && n > 0 && n <= math.MaxInt64/unit.size {
			return n * unit.size, nil
		}
	}
	return 0, fmt.Errorf("%s is not a size such as \"512MiB\" or \"8GiB\"", quote(s))
}

// parseAddr reads the address of a host: unicast, without a zone.
func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil && strings.Contains(s, "/"):
		return a, fmt.Errorf("%s must be an address without a prefix length", quote(s))
	case err != nil:
		return a, fmt.Errorf("%s is not an IP address", quote(s))
	case a.Zone() != "":
		return a, fmt.Errorf("%s must not have a zone", quote(s))
	case a.Is4In6():
		return a, fmt.Errorf("%s is an IPv4 address in IPv6 clothes: write %s", quote(s), a.Unmap())
	case a.IsUnspecified(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return a, fmt.Errorf("%s cannot be the address of one host", quote(s))
	}
	return a, nil
}

// parseHostAddr reads an address that other hosts can reach.
func parseHostAddr(s string) (netip.Addr, error) {
	a, err := parseAddr(s)
	if err == nil && (a.IsLoopback() || a.IsLinkLocalUnicast()) {
		err = fmt.Errorf("%s is not reachable from other hosts", quote(s))
	}
	return a, err
}

// parseRange reads a prefix whose host bits are zero.
func parseRange(s string) (netip.Prefix, error) {
	p, err := parsePrefix(s)
	if err == nil && p != p.Masked() {
		err = fmt.Errorf("%s has bits set behind its length: write %s", quote(s), p.Masked())
	}
	return p, err
}

// parseClusterRange reads a range whose addresses the cluster gives to pods,
// services or hosts.
func parseClusterRange(s string) (netip.Prefix, error) {
	p, err := parseRange(s)
	if err != nil {
		return p, err
	}
	return p, checkOrdinary(s, p)
}

// checkOrdinary refuses a range, written as s, with addresses that no host or
// pod can have.
func checkOrdinary(s string, p netip.Prefix) error {
	for _, special := range specialRanges {
		if p.Overlaps(special) {
			return fmt.Errorf("%s overlaps %s, whose addresses have a meaning of their own", quote(s), special)
		}
	}
	return nil
}

// specialRanges are those of RFC 6890 and RFC 4291 that no route leads to:
// this host, loopback, link-local, multicast and reserved.
var specialRanges = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/3"),
	netip.MustParsePrefix("::/127"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

// parsePrefix reads an address with its prefix length.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err == nil && p.Addr().Is4In6() {
		err = errors.New("IPv4 in IPv6")
	}
	if err == nil {
		return p, nil
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return p, fmt.Errorf("%s lacks its prefix length, such as /24", quote(s))
	}
	return p, fmt.Errorf("%s is not a prefix such as \"192.0.2.0/24\"", quote(s))
}

// parseLinkAddress reads an address of a link with its prefix length.
func parseLinkAddress(s string) (netip.Prefix, error) {
	p, err := parsePrefix(s)
	if err != nil {
		return p, err
	}
	if a := p.Addr(); a.IsUnspecified() || a.IsMulticast() {
		return p, fmt.Errorf("%s cannot be the address of one host", quote(s))
	}
	return p, nil
}
