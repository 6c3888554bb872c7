package main

import (
	"fmt"
	"sync"
	"time"
)

// waiting says on a terminal what is waited for, once that takes a second.
type waiting struct {
	stop chan struct{}
	done sync.WaitGroup
}

func newWaiting(o *options, what string) *waiting {
	w := &waiting{stop: make(chan struct{})}
	if !terminal(o.stderr) {
		return w
	}
	w.done.Go(func() {
		since := time.Now()
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for drawn := false; ; drawn = true {
			select {
			case <-w.stop:
				if drawn {
					fmt.Fprint(o.stderr, "\r\x1b[K")
				}
				return
			case <-tick.C:
				fmt.Fprintf(o.stderr, "\r\x1b[K%s, %s", what, time.Since(since).Round(time.Second))
			}
		}
	})
	return w
}

// close takes the line away.
func (w *waiting) close() {
	close(w.stop)
	w.done.Wait()
}
