package agent

import (
	"sync"
	"time"
)

// recentFor is how long what was observed may serve another question of the
// same command.
const recentFor = 2 * time.Second

// recent keeps what was observed a moment ago, for the next one in the same run
// of a command who asks the same. It is handed out once, so that whoever looks
// again, to see what became of a change, does look.
type recent[S any] struct {
	mu    sync.Mutex
	state S
	until time.Time
}

func (r *recent[S]) keep(state S, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state, r.until = state, now.Add(recentFor)
}

// take returns what was kept, and false where nothing was, or too long ago.
func (r *recent[S]) take(now time.Time) (state S, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Before(r.until) {
		state, ok = r.state, true
	}
	r.drop()
	return state, ok
}

// forget is for who changes what was observed.
func (r *recent[S]) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop()
}

func (r *recent[S]) drop() {
	var none S
	r.state, r.until = none, time.Time{}
}
