// Package fleets applies the shipped fleets (hosts/fleets) as a whole: every host
// of one in a network namespace of its own, joined by a provider's network as the
// fleet expects it, with real VLANs and the kernel's WireGuard, and tries with
// real connections what the fleet promises.
//
// It has tests only. They run in the virtual machine's stage (test/vm), because
// they load modules and most machines' kernels lack something of it.
package fleets
