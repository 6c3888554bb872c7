package agent

import (
	"context"
	"fmt"

	"github.com/nodeagent/nodeagent/netcfg"
)

// Foreign is an object of the network that nodeagent neither made nor, by the
// spec, is to manage, and never touches.
type Foreign = netcfg.Foreign

// Foreign lists such objects. It writes nothing.
func (h *Host) Foreign(ctx context.Context) ([]Foreign, error) {
	want, err := h.wantNetwork()
	if err != nil {
		return nil, err
	}
	list, err := h.network.Foreign(ctx, want)
	if err != nil {
		err = fmt.Errorf("list what is foreign: %w", err)
	}
	return list, err
}
