package kernel

import (
	"fmt"
	"strconv"
	"strings"
)

// sysctlParts splits a sysctl's name into the names of the folders and the file
// below /proc/sys, by the rule of sysctl(8): the first separator, a dot or a
// slash, decides what the separator is; where it is the dot, a slash stands for
// a dot (interface names have them) and the other way round.
func sysctlParts(name string) ([]string, error) {
	separator, other := ".", "/"
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '/' {
		separator, other = "/", "."
	}
	parts := strings.Split(name, separator)
	for i, part := range parts {
		if separator == "." {
			part = strings.ReplaceAll(part, other, ".")
		}
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "/\x00 \t\n") {
			return nil, fmt.Errorf("sysctl %q: not a name below /proc/sys", name)
		}
		parts[i] = part
	}
	if len(parts) < 2 {
		return nil, fmt.Errorf("sysctl %q: not a name below /proc/sys", name)
	}
	return parts, nil
}

// sysctlName returns the canonical dotted spelling of a sysctl's name.
func sysctlName(name string) (string, error) {
	parts, err := sysctlParts(name)
	if err != nil {
		return "", err
	}
	for i, part := range parts {
		parts[i] = strings.ReplaceAll(part, ".", "/")
	}
	return strings.Join(parts, "."), nil
}

// sameValue compares two values of a sysctl. Values of several numbers are
// separated by tabs when the kernel prints them and by spaces when people do.
func sameValue(a, b string) bool { return normalise(a) == normalise(b) }

func normalise(value string) string { return strings.Join(strings.Fields(value), " ") }

// moduleName returns the name as /sys/module has it. The kernel takes dashes
// and underscores in module names as the same.
func moduleName(name string) (string, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00 \t\n") {
		return "", fmt.Errorf("module %q: not a module's name", name)
	}
	return strings.ReplaceAll(name, "-", "_"), nil
}

func checkParameter(module, name, value string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00= \t\n\"") {
		return fmt.Errorf("module %q: %q is not a parameter's name", module, name)
	}
	if strings.ContainsAny(value, "\"\n\x00") {
		return fmt.Errorf("module %q: parameter %q: the value has a quote or a line break, which the kernel cannot take", module, name)
	}
	return nil
}

// sameParameter compares a wanted parameter with what /sys/module prints,
// which is Y or N for a truth value and a decimal number for a number however
// it was written.
func sameParameter(wanted, observed string) bool {
	wanted, observed = strings.TrimSpace(wanted), strings.TrimSpace(observed)
	if wanted == observed {
		return true
	}
	if observed == "Y" || observed == "N" {
		truth, ok := parseTruth(wanted)
		return ok && truth == (observed == "Y")
	}
	w, errW := strconv.ParseInt(wanted, 0, 64)
	o, errO := strconv.ParseInt(observed, 0, 64)
	return errW == nil && errO == nil && w == o
}

// parseTruth reads a truth value as the kernel's kstrtobool does.
func parseTruth(s string) (value, ok bool) {
	switch strings.ToLower(s) {
	case "y", "yes", "t", "true", "1", "on", "": // a parameter without a value is true
		return true, true
	case "n", "no", "f", "false", "0", "off":
		return false, true
	}
	return false, false
}
