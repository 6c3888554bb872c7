package agent

import (
	"testing"
	"time"
)

func TestRecent(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, tc := range []struct {
		name  string
		after time.Duration
		do    func(*recent[string])
		want  bool
	}{
		{"at once", 0, func(*recent[string]) {}, true},
		{"too late", recentFor, func(*recent[string]) {}, false},
		{"taken before", 0, func(r *recent[string]) { r.take(now) }, false},
		{"forgotten", 0, func(r *recent[string]) { r.forget() }, false},
	} {
		var r recent[string]
		if state, ok := r.take(now); ok || state != "" {
			t.Errorf("%s: there is %q before anything was kept", tc.name, state)
		}
		r.keep("seen", now)
		tc.do(&r)
		if state, ok := r.take(now.Add(tc.after)); ok != tc.want || (state == "seen") != tc.want {
			t.Errorf("%s: %q, %t", tc.name, state, ok)
		}
	}
}
