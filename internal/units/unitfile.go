package units

import (
	"slices"
	"strings"
)

const serviceSection = "[Service]"

// withInputs adds the digest of the inputs to the [Service] section of a unit
// file. A unit without that section, or without a digest, is left as it is.
func withInputs(content, inputs string) string {
	if inputs == "" || !hasService(content) {
		return content
	}
	var b strings.Builder
	for line := range strings.Lines(content) {
		b.WriteString(line)
		if strings.TrimSpace(line) == serviceSection {
			if !strings.HasSuffix(line, "\n") {
				b.WriteByte('\n')
			}
			b.WriteString("Environment=" + InputsVariable + "=" + inputs + "\n")
		}
	}
	return b.String()
}

// splitInputs takes apart what withInputs put together.
func splitInputs(file string) (content, inputs string) {
	var b strings.Builder
	for line := range strings.Lines(file) {
		if digest, ok := strings.CutPrefix(line, "Environment="+InputsVariable+"="); ok {
			inputs = strings.TrimSpace(digest)
			continue
		}
		b.WriteString(line)
	}
	return b.String(), inputs
}

func hasService(content string) bool {
	for line := range strings.Lines(content) {
		if strings.TrimSpace(line) == serviceSection {
			return true
		}
	}
	return false
}

// carried is the digest that the unit's file and process carry once it is as
// wanted: none where there is no [Service] section to hold it.
func carried(u Unit) string {
	if !hasService(u.Content) {
		return ""
	}
	return u.Inputs
}

// ours tells whether nodeagent wrote the unit file.
func ours(content string) bool {
	first, _, _ := strings.Cut(content, "\n")
	return first == Header
}

// installLinks returns the folders, below that of the unit files, in which an
// enabled unit has a link, as its [Install] section asks: WantedBy=x gives
// "x.wants". Sorted; empty when the unit cannot be enabled. See systemd.unit(5).
func installLinks(content string) []string {
	var links []string
	section := ""
	for line := range strings.Lines(content) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = line
			continue
		}
		key, value, found := strings.Cut(line, "=")
		if section != "[Install]" || !found {
			continue
		}
		suffix := map[string]string{"WantedBy": ".wants", "RequiredBy": ".requires"}[strings.TrimSpace(key)]
		if suffix == "" {
			continue
		}
		for _, target := range strings.Fields(value) {
			links = append(links, target+suffix)
		}
	}
	slices.Sort(links)
	return slices.Compact(links)
}
