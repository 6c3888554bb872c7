package netcfg

import (
	"context"

	"github.com/nodeagent/nodeagent/internal/layout"
)

// Before observes all that applying want could change, for [Back]: beside what
// Observe returns, the routes of people and DHCP in every table, and a WireGuard
// device of ours in full where want has none. It writes nothing.
func (sys *System) Before(ctx context.Context, root layout.Root, want State) (State, error) {
	if want.WireGuard == nil {
		kernel, err := sys.listLinks()
		if err != nil {
			return State{}, err
		}
		if ours, _ := sys.ourWireGuard(kernel); ours != nil { // Observe tells the error
			want.WireGuard = &WireGuard{Interface: ours.Interface, Folder: wireGuardFolder(root)}
		}
	}
	return sys.observe(ctx, want, everyRoute)
}
