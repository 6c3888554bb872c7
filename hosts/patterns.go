package hosts

// What is written in patterns more than once. Prefix lengths are looked at by
// the loader alone.
const (
	addressChars = `[0-9a-fA-F:.]+`
	nameChars    = `[a-z0-9]([a-z0-9.-]*[a-z0-9])?`
	linkChars    = `[^ /:"'%*]`
	between      = `[^0-9A-Za-z]*` // blanks, of which Unicode has many
)

// patterns are for programs that know values by regular expressions alone:
// editors and Nix. By the name of a shape, each is matched by every string that
// the loader takes, and by some more; a shape without one is anything. They are
// held to what POSIX's extended expressions, ECMA-262 and Go read alike.
var patterns = map[string]string{
	"label":              labelPattern.String(),
	"zone":               zonePattern.String(),
	"version":            versionPattern.String(),
	"module name":        modulePattern.String(),
	"parameter":          parameterPattern.String(),
	"sysctl":             sysctlPattern.String(),
	"flag":               flagPattern.String(),
	"image":              imagePattern.String(),
	"path":               pathPattern.String(),
	"credential name":    credentialPattern.String(),
	"mount path":         mountPattern.String(),
	"bucket name":        bucketPattern.String(),
	"region":             regionPattern.String(),
	"key id":             kmsKeyPattern.String(),
	"place on the bus":   busPattern.String(),
	"resolver option":    optionPattern.String(),
	"name of a rule":     `^[ -~]{1,60}$`,
	"DNS name":           `^` + nameChars + `$`,
	"link name":          `^` + linkChars + `{1,15}$`,
	"link name or zone":  `^` + linkChars + `{1,15}$`,
	"alternative name":   `^` + linkChars + `{1,127}$`,
	"address":            `^` + addressChars + `$`,
	"range":              `^` + addressChars + `/[0-9]{1,3}$`,
	"address or range":   `^` + addressChars + `(/[0-9]{1,3})?$`,
	"MAC":                `^[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}$`,
	"WireGuard key":      `^[A-Za-z0-9+/]{43}=$`,
	"age recipient":      `^age1[02-9ac-hj-np-z]{58}$`,
	"snapshot key":       `^MCowBQYDK2VwAyEA[A-Za-z0-9+/]{43}=$`,
	"key name":           `^snapshots(/[a-z0-9-]+)*$`,
	"URL":                `^[Hh][Tt][Tt][Pp][Ss]?://.+$`,
	"host:port":          `^[^ /]+:[0-9]+$`,
	"address:port":       `^(off|[^ /]+:[0-9]+)$`,
	"rate":               `^` + between + `[0-9]+` + between + `/` + between + `(second|minute|hour|day)` + between + `$`,
	"size":               `^` + between + `[0-9]+` + between + `(KiB|MiB|GiB)$`,
	"duration":           `^([0-9]+d)?([+-]?([0-9]*[.]?[0-9]*(ns|us|µs|μs|ms|s|m|h))+|[+-]?0)?$`,
	"text with {host}":   `^.*[{]host[}].*$`,
	"source":             `^(any|fleet|pods|wireguard|clients|host:[a-z0-9-]+|` + addressChars + `(/[0-9]{1,3})?)$`,
	`range or "default"`: `^(default|` + addressChars + `/[0-9]{1,3})$`,

	"address with prefix length": `^` + addressChars + `/[0-9]{1,3}$`,
	"address or multicast group": `^` + addressChars + `$`,
	"DNS name or address":        `^[a-z0-9A-F:]([a-z0-9A-F.:-]*[a-z0-9A-F:])?$`,
}
