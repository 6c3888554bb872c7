package names

import (
	"errors"
	"slices"
	"strings"
)

// The marker lines in /etc/hosts. What else was changed to put the block there
// is noted in the first one, so that taking it out again leaves every other
// byte as it was.
const (
	beginMarker  = "# nodeagent begin: these lines are overwritten\n"
	endMarker    = "# nodeagent end\n"
	beginNewline = "# nodeagent begin (the line before had no end): these lines are overwritten\n"
	beginNewFile = "# nodeagent begin (there was no file): these lines are overwritten\n"
)

// hostsFile is /etc/hosts in parts.
type hostsFile struct {
	before, after string
	// begin is the first marker, empty where there is no block.
	begin, block string
}

// errMarkers is why no block can be found or taken out.
var errMarkers = errors.New("the lines of markers (# nodeagent begin, # nodeagent end) are not one pair: remove them and what is nodeagent's between them")

// parseHosts takes the content of /etc/hosts apart.
func parseHosts(content string) (hostsFile, error) {
	var f hostsFile
	const (
		ahead = iota
		within
		behind
	)
	at := ahead
	for line := range strings.Lines(content) {
		full := strings.TrimRight(line, "\r\n") + "\n"
		begins := full == beginMarker || full == beginNewline || full == beginNewFile
		switch {
		case begins && at == ahead:
			at, f.begin = within, full
		case full == endMarker && at == within:
			at = behind
		case begins || full == endMarker:
			return hostsFile{}, errMarkers
		case at == ahead:
			f.before += line
		case at == within:
			f.block += line
		default:
			f.after += line
		}
	}
	if at == within {
		return hostsFile{}, errMarkers
	}
	return f, nil
}

// with returns the content with the block; exists tells whether there is a file.
func (f hostsFile) with(block string, exists bool) string {
	begin, before := f.begin, f.before
	switch {
	case begin != "":
	case !exists:
		begin = beginNewFile
	case before != "" && !strings.HasSuffix(before, "\n"):
		begin, before = beginNewline, before+"\n"
	default:
		begin = beginMarker
	}
	return before + begin + block + endMarker + f.after
}

// without returns the content without the block, and whether there is to be a
// file at all.
func (f hostsFile) without() (content string, exists bool) {
	before := f.before
	if f.begin == beginNewline && f.after == "" {
		before = strings.TrimSuffix(before, "\n")
	}
	content = before + f.after
	return content, content != "" || f.begin != beginNewFile
}

// foreign returns what the lines outside of the block say: addresses by name,
// in lower case as names are compared (hosts(5)), each address once.
func (f hostsFile) foreign() map[string][]string {
	said := map[string][]string{}
	for line := range strings.Lines(f.before + "\n" + f.after) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		for _, name := range words[1:] {
			name = strings.ToLower(name)
			if !slices.Contains(said[name], words[0]) {
				said[name] = append(said[name], words[0])
			}
		}
	}
	return said
}
