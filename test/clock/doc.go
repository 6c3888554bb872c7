// Package clock sets the clock of a host forth and back while nodeagent runs on
// it, and counts what is issued.
//
// It has tests only. They run in the virtual machine's stage (test/vm), whose
// clock is its own, and nowhere else: a machine's clock is not a test's to set.
package clock
