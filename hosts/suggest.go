package hosts

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// didYouMean returns " (did you mean …?)" for the nearest of the words, empty
// where none is near.
func didYouMean(s string, words []string) string {
	best, distance := "", min(len(s)/3, 3)+1
	for _, w := range words {
		if d := editDistance(s, w); d < distance {
			best, distance = w, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// suggestKey says what an unknown key may have been meant to be: a key of the
// same table that is spelled alike, or one of the same name elsewhere, as a
// key that stands below the wrong [header].
func suggestKey(path, key string, r *rule) string {
	siblings := slices.Sorted(maps.Keys(r.keys))
	if near := didYouMean(key, siblings); near != "" {
		return near
	}
	if elsewhere := endingIn(key); len(elsewhere) > 0 {
		return fmt.Sprintf(" here: there is %s", and(elsewhere))
	}
	if path == "" {
		return fmt.Sprintf(": the tables of a file are %s", and(siblings))
	}
	return fmt.Sprintf(": [%s] has %s", path, and(siblings))
}

// endingIn lists the paths whose last part, or last parts, are the key.
func endingIn(key string) []string {
	return slices.DeleteFunc(keyPaths(), func(known string) bool { return known != key && !strings.HasSuffix(known, "."+key) })
}

// keyPaths lists the dotted path of every key of the schema, sorted, with
// NAME for the names of named tables.
func keyPaths() []string {
	var paths []string
	var walk func(string, *rule)
	walk = func(path string, r *rule) {
		for key, child := range r.keys {
			full := strings.TrimPrefix(path+"."+key, ".")
			paths = append(paths, full)
			walk(full, child)
		}
		if r.form == formNamed || r.form == formFlat {
			walk(path+".NAME", r.each)
		}
		if r.form == formList {
			walk(path, r.each)
		}
	}
	walk("", schema())
	slices.Sort(paths)
	return paths
}

// editDistance is the Damerau-Levenshtein distance (of its restricted kind)
// over bytes: keys are ASCII.
func editDistance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
