//go:build race

package insystemd

// With the race detector on here, it is on in the host too.
func init() { raceFlags = []string{"-race"} }
