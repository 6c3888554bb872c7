package units

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestExcerpt(t *testing.T) {
	many := "1\n2\n3\n4\n5\n6\n7\n8\n9\n"
	for _, tc := range []struct{ name, a, b, before, after string }{
		{"equal", many, many, "", ""},
		{"changed in the middle", many, strings.Replace(many, "5", "five", 1), "4\n5\n6", "4\nfive\n6"},
		{"added at the end", "a\nb\n", "a\nb\nc\n", "b", "b\nc"},
		{"added at the start", "b\nc\n", "a\nb\nc\n", "b", "a\nb"},
		{"two places", many, strings.NewReplacer("2", "two", "8", "eight").Replace(many), "1\n2\n3\n…\n7\n8\n9", "1\ntwo\n3\n…\n7\neight\n9"},
		{"moved line", "a\nb\nc\n", "c\na\nb\n", "a\nb\nc", "c\na\nb"},
		{"all new", "a\n", "b\n", "a", "b"},
		{"from nothing", "", "b\n", "", "b"},
		{"last newline", "a", "a\n", "no newline at the end of the file", "a newline at the end of the file"},
	} {
		before, after := excerpt(tc.a, tc.b)
		if before != tc.before || after != tc.after {
			t.Errorf("%s: got %q and %q, want %q and %q", tc.name, before, after, tc.before, tc.after)
		}
	}
}

// What is kept of both texts is the same sequence of lines, and it is a longest
// one: no text of these random ones has a better alignment.
func TestAlignIsALongestCommonSubsequence(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	text := func() []string {
		lines := make([]string, r.IntN(9))
		for i := range lines {
			lines[i] = fmt.Sprint(r.IntN(3))
		}
		return lines
	}
	for range 2000 {
		a, b := text(), text()
		keepA, keepB := align(a, b)
		kept := func(lines []string, keep []bool) (out []string) {
			for i, k := range keep {
				if k {
					out = append(out, lines[i])
				}
			}
			return out
		}
		ka, kb := kept(a, keepA), kept(b, keepB)
		if strings.Join(ka, ",") != strings.Join(kb, ",") || len(ka) != longest(a, b) {
			t.Fatalf("%q and %q: kept %q and %q, longest %d", a, b, ka, kb, longest(a, b))
		}
	}
}

func longest(a, b []string) int {
	if len(a) == 0 || len(b) == 0 {
		return 0
	}
	if a[0] == b[0] {
		return 1 + longest(a[1:], b[1:])
	}
	return max(longest(a[1:], b), longest(a, b[1:]))
}

func TestHugeTextsAreOneDifference(t *testing.T) {
	var a, b strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&a, "a%d\n", i)
		fmt.Fprintf(&b, "b%d\n", i)
	}
	before, after := excerpt(a.String(), b.String())
	if before+"\n" != a.String() || after+"\n" != b.String() {
		t.Error("not shown in full")
	}
}

func TestHead(t *testing.T) {
	if got := head(Header + "\na\nb\n"); got != "a\nb" {
		t.Errorf("got %q", got)
	}
	if got := head("1\n2\n3\n4\n5\n6\n7\n8\n"); got != "1\n2\n3\n4\n5\n… (8 lines)" {
		t.Errorf("got %q", got)
	}
}
