package hosts

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// The words that stand for ranges in a firewall rule's "from"; "host:NAME"
// stands for the addresses of one host.
const (
	fromAny       = "any"
	fromFleet     = "fleet"
	fromPods      = "pods"
	fromWireGuard = "wireguard"
	fromClients   = "clients"
	fromHost      = "host:"
)

var sourceWords = []string{fromAny, fromFleet, fromPods, fromWireGuard, fromClients}

// source is where a firewall rule accepts from: one of the words, a host, or a
// range.
type source struct {
	word   string
	host   string
	prefix netip.Prefix
}

func parseSource(s string) (source, error) {
	for _, word := range sourceWords {
		if s == word {
			return source{word: s}, nil
		}
	}
	if name, ok := strings.CutPrefix(s, fromHost); ok {
		if !isLabel(name) {
			return source{}, fmt.Errorf("%s does not name a host: write \"host:NAME\", NAME being that of its file", quote(s))
		}
		return source{word: fromHost, host: name}, nil
	}
	p, err := parsePrefixOrAddress(s)
	if err != nil && !strings.Contains(s, "/") {
		err = fmt.Errorf("%s is neither a prefix nor one of %s%s", quote(s), list(append(sourceWords[:len(sourceWords):len(sourceWords)], fromHost+"NAME")), didYouMean(s, sourceWords))
	}
	return source{prefix: p}, err
}

// By what a limit counts.
const (
	limitTotal  = "total"
	limitSource = "source"
)

// perWords are the times in which a limit counts.
var perWords = map[string]time.Duration{
	"second": time.Second, "minute": time.Minute, "hour": time.Hour, "day": 24 * time.Hour,
}

// maxRate keeps counts far below where nft's arithmetic of rates ends.
const maxRate = 1000000

// parseRate reads "10/minute".
func parseRate(s string) (Limit, error) {
	count, unit, _ := strings.Cut(s, "/")
	n, err := strconv.ParseUint(strings.TrimSpace(count), 10, 32)
	per := perWords[strings.TrimSpace(unit)]
	if err != nil || n < 1 || n > maxRate || per == 0 {
		return Limit{}, fmt.Errorf("%s is not a rate such as \"10/minute\": 1 to %d in a second, minute, hour or day", quote(s), maxRate)
	}
	return Limit{Count: int(n), Per: per}, nil
}

// zonePattern holds the names of zones to what could be the name of a link: in
// and out take either.
var zonePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?$`)

func checkZoneName(s string) error {
	if !zonePattern.MatchString(s) {
		return fmt.Errorf("%s is not the name of a zone: at most 15 lower-case letters, digits and dashes", quote(s))
	}
	return nil
}

func parseZone(s string) (string, error) { return s, checkZoneName(s) }
