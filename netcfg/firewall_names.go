package netcfg

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
)

func sorted(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	return slices.Compact(slices.Sorted(slices.Values(list)))
}

// maxName is how many bytes of a name the comment of a rule takes (the nft
// command's own limit is 128).
const maxName = 120

// restName is the comment of the last rule of a chain that drops.
const restName = "everything else"

// uniqueNames tells rules of one name apart by a number.
func uniqueNames(rules []FirewallRule) []FirewallRule {
	seen := map[string]bool{restName: true}
	for i, r := range rules {
		name := strings.Map(func(c rune) rune {
			if c < ' ' {
				return ' '
			}
			return c
		}, r.Name)
		if len(name) > maxName {
			name = strings.ToValidUTF8(name[:maxName], "")
		}
		if name == "" {
			name = "rule"
		}
		for n, base := 2, name; seen[name]; n++ {
			name = fmt.Sprintf("%s #%d", base, n)
		}
		seen[name] = true
		rules[i].Name = name
	}
	return rules
}

// sixSuffix ends the name of the IPv6 half of a rule for both families.
const sixSuffix = " (IPv6)"

// sourcesName is the name of the set that holds the buckets of a rule whose
// limit counts each source by itself. It depends on nothing but the names of
// chain and rule, and is a word that nft(8) reads back: "input-ssh",
// "input-ssh.6" for the IPv6 half. A name that loses something on the way has a
// number of its own, after a dot.
func sourcesName(chain, rule string) string {
	four, six := strings.CutSuffix(rule, sixSuffix)
	lost := false
	word := strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-':
			return c
		case c == ' ':
			return '_'
		}
		lost = true
		return '-'
	}, four)
	if lost {
		h := fnv.New32a()
		_, _ = h.Write([]byte(four))
		word = fmt.Sprintf("%s.%08x", word, h.Sum32())
	}
	if six {
		word += ".6"
	}
	return chain + "-" + word
}

// limitedRules are the rules with a limit by source, by their set.
type limitedRules map[string]FirewallRule

func (f *Firewall) limited() limitedRules {
	rules := limitedRules{}
	for _, c := range f.chains() {
		for _, r := range c.Rules {
			if r.Other == "" && r.Limit != nil && r.Limit.BySource {
				rules[sourcesName(c.name, r.Name)] = r
			}
		}
	}
	return rules
}

func (l limitedRules) names() []string { return slices.Sorted(maps.Keys(l)) }

// idle returns the sets that have keeps and want has no use for.
func idle(have, want *Firewall) []string {
	if have == nil || want == nil {
		return nil
	}
	used := want.limited()
	var names []string
	for _, name := range have.Idle {
		if _, is := used[name]; !is {
			names = append(names, name)
		}
	}
	return names
}

// keep returns the places in have of the rules that stay where they are while
// have becomes want: as many as can, in the order of both.
func keep(have, want []FirewallRule) []int {
	place := map[string]int{}
	for i, r := range have {
		place[r.Name] = i // of several with a name want has one, and one may stay
	}
	// The longest rising subsequence of the places (patience sorting): tops are
	// the least ends of those of each length, before links them.
	type card struct{ place, before int }
	var cards []card
	var tops []int
	for _, w := range want {
		i, ok := place[w.Name]
		if !ok || !have[i].same(w) {
			continue
		}
		pile, _ := slices.BinarySearchFunc(tops, i, func(top, i int) int { return cards[top].place - i })
		before := -1
		if pile > 0 {
			before = tops[pile-1]
		}
		cards = append(cards, card{i, before})
		if pile == len(tops) {
			tops = append(tops, 0)
		}
		tops[pile] = len(cards) - 1
	}
	var kept []int
	if len(tops) > 0 {
		for at := tops[len(tops)-1]; at >= 0; at = cards[at].before {
			kept = append(kept, cards[at].place)
		}
	}
	slices.Reverse(kept)
	return kept
}
