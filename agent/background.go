package agent

import (
	"context"
	"sync"
)

// background is work that goes on beside the converges, in goroutines of its own,
// until it is stopped. Its owner alone begins and stops it.
type background struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// begin starts each piece of work; each ends when its context is done.
func (b *background) begin(ctx context.Context, works ...func(ctx context.Context)) {
	ctx, b.cancel = context.WithCancel(ctx)
	for _, work := range works {
		b.done.Go(func() { work(ctx) })
	}
}

// stop ends the work, if there is any, and waits for it.
func (b *background) stop() {
	if b.cancel != nil {
		b.cancel()
		b.done.Wait()
		b.cancel = nil
	}
}
