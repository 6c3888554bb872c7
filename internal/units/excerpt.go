package units

import (
	"fmt"
	"slices"
	"strings"
)

const (
	// excerptContext is how many equal lines are shown around those that differ.
	excerptContext = 1
	// excerptHead is how many lines of a new text are shown.
	excerptHead = 5
	// excerptCells bounds the work of comparing: lines of one text times lines
	// of the other. Larger texts are shown as one difference.
	excerptCells = 1 << 18
)

// head returns the first lines of a text that has nothing to be compared with,
// without the header that every file of ours begins with.
func head(text string) string {
	lines := splitLines(strings.TrimPrefix(text, Header+"\n"))
	if len(lines) <= excerptHead+1 {
		return strings.Join(lines, "\n")
	}
	return fmt.Sprintf("%s\n… (%d lines)", strings.Join(lines[:excerptHead], "\n"), len(lines))
}

// excerpt returns the lines of two texts that differ, each side with a line of
// context around them and "…" where equal lines are left out.
func excerpt(before, after string) (string, string) {
	if before == after {
		return "", ""
	}
	a, b := splitLines(before), splitLines(after)
	keepA, keepB := align(a, b)
	// A text that gained or lost only its last newline has no differing line.
	if len(a) == len(b) && !slices.Contains(keepA, false) {
		return "no newline at the end of the file", "a newline at the end of the file"
	}
	shownA, shownB := show(keepA, keepB)
	return cut(a, shownA), cut(b, shownB)
}

func splitLines(text string) []string {
	text = strings.TrimSuffix(text, "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// align marks the lines of both texts that belong to their longest common
// subsequence: the marked lines of a are, in order, the marked ones of b.
func align(a, b []string) (keepA, keepB []bool) {
	keepA, keepB = make([]bool, len(a)), make([]bool, len(b))
	start := 0
	for start < len(a) && start < len(b) && a[start] == b[start] {
		keepA[start], keepB[start] = true, true
		start++
	}
	endA, endB := len(a), len(b)
	for endA > start && endB > start && a[endA-1] == b[endB-1] {
		endA, endB = endA-1, endB-1
		keepA[endA], keepB[endB] = true, true
	}
	n, m := endA-start, endB-start
	if n == 0 || m == 0 || n*m > excerptCells {
		return keepA, keepB
	}
	// length[i][j] is that of the longest common subsequence of a[i:], b[j:].
	length := make([][]int, n+1)
	for i := range length {
		length[i] = make([]int, m+1)
	}
	for i := n - 1; i >= 0; i-- {
		for j := m - 1; j >= 0; j-- {
			if a[start+i] == b[start+j] {
				length[i][j] = length[i+1][j+1] + 1
			} else {
				length[i][j] = max(length[i+1][j], length[i][j+1])
			}
		}
	}
	for i, j := 0, 0; i < n && j < m; {
		switch {
		case a[start+i] == b[start+j]:
			keepA[start+i], keepB[start+j] = true, true
			i, j = i+1, j+1
		case length[i+1][j] >= length[i][j+1]:
			i++
		default:
			j++
		}
	}
	return keepA, keepB
}

// show marks the lines to be printed: those that differ, and the equal ones
// next to them. Equal lines are shown on both sides or on none.
func show(keepA, keepB []bool) (shownA, shownB []bool) {
	shownA, shownB = make([]bool, len(keepA)), make([]bool, len(keepB))
	var equalA, equalB []int // positions of the equal lines
	var gap []bool           // gap[k]: lines differ right before the k-th equal line
	i, j := 0, 0
	for {
		differ := false
		for ; i < len(keepA) && !keepA[i]; i++ {
			shownA[i], differ = true, true
		}
		for ; j < len(keepB) && !keepB[j]; j++ {
			shownB[j], differ = true, true
		}
		gap = append(gap, differ)
		if i >= len(keepA) || j >= len(keepB) {
			break
		}
		equalA, equalB = append(equalA, i), append(equalB, j)
		i, j = i+1, j+1
	}
	for g, differ := range gap {
		if !differ {
			continue
		}
		for k := max(0, g-excerptContext); k < min(len(equalA), g+excerptContext); k++ {
			shownA[equalA[k]], shownB[equalB[k]] = true, true
		}
	}
	return shownA, shownB
}

func cut(lines []string, shown []bool) string {
	var out []string
	hidden := false
	for i, line := range lines {
		switch {
		case shown[i]:
			out = append(out, line)
			hidden = false
		case !hidden && len(out) > 0 && slices.Contains(shown[i:], true):
			out = append(out, "…")
			hidden = true
		}
	}
	return strings.Join(out, "\n")
}
