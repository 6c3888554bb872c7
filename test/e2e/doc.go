// Package e2e tests nodeagent from end to end: on a lab host that is bare at
// first, with the real servers, through nodeagent's command line alone. The
// tests say what a user may rely on; how it is done inside is not theirs.
package e2e
