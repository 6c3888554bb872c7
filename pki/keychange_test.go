package pki

import (
	"testing"
	"time"
)

func TestNextKey(t *testing.T) {
	use := func(proven bool, keys ...string) Use {
		u := Use{Host: "a", Known: true, Proven: proven, Trusts: keys}
		if len(keys) > 0 {
			u.SignedBy = keys[:1]
		}
		return u
	}
	const enc, sa = KeyEncryption, KeyServiceAccount
	begun, back := Change{Old: "old", New: "new"}, Change{Old: "old", New: "new", Back: true}
	with := func(c Change, p KeyProgress) Change { c.Key = &p; return c }
	waited := func(ago time.Duration) KeyProgress {
		return KeyProgress{Signed: true, Since: start.Add(-ago), Overlap: time.Hour}
	}
	before, after := []string{"old", "new"}, []string{"new", "old"}
	for _, tc := range []struct {
		name   string
		secret string
		change Change
		have   []string
		hosts  []Use
		left   int
		want   KeyDo
		late   int
	}{
		{"begins", sa, Change{Old: "old"}, []string{"old"}, []Use{use(true, "old")}, -1, KeyAdd, 0},
		{"a host has not heard of it", sa, begun, before, []Use{use(true, before...), use(true, "old")}, -1, KeyServe, 1},
		{"a server has not restarted", sa, begun, before, []Use{use(false, before...)}, -1, KeyServe, 1},
		{"a host says nothing", sa, begun, before, []Use{{Host: "b"}}, -1, KeyServe, 1},
		{"all accept both", sa, begun, before, []Use{use(true, before...)}, -1, KeySwitch, 0},
		{"a host signs with the old one", sa, begun, after, []Use{use(true, after...), use(true, before...)}, -1, KeyUse, 1},
		{"all sign with the new one", sa, begun, after, []Use{use(true, after...)}, -1, KeyMark, 0},
		{"the last token has not ended", sa, with(begun, waited(59*time.Minute)), after, []Use{use(true, after...)}, -1, KeyWait, 0},
		{"a host went back while waiting", sa, with(begun, waited(time.Minute)), after, []Use{use(true, before...)}, -1, KeyUse, 1},
		{"the last token has ended", sa, with(begun, waited(time.Hour)), after, []Use{use(true, after...)}, -1, KeyDrop, 0},
		{"the clock was put back", sa, with(begun, waited(-time.Hour)), after, []Use{use(true, after...)}, -1, KeyWait, 0},
		{"a host accepts the old one still", sa, begun, []string{"new"}, []Use{use(true, after...), use(true, "new")}, -1, KeyForget, 1},
		{"done", sa, begun, []string{"new"}, []Use{use(true, "new")}, -1, KeyDone, 0},

		{"back before it was added", sa, Change{Old: "old", Back: true}, []string{"old"}, []Use{use(true, "old")}, -1, KeyDone, 0},
		{"back before the switch", sa, back, before, []Use{use(true, before...)}, -1, KeyDrop, 0},
		{"back after it: both are accepted", sa, with(back, KeyProgress{Signed: true}), after, []Use{use(true, after...)}, -1, KeySwitch, 0},
		{"back: tokens of the new one", sa, with(back, KeyProgress{Signed: true}), before, []Use{use(true, before...)}, -1, KeyMark, 0},
		{"back: they have ended", sa, with(back, waited(time.Hour)), before, []Use{use(true, before...)}, -1, KeyDrop, 0},
		{"back: done", sa, back, []string{"old"}, []Use{use(true, "old")}, -1, KeyDone, 0},

		{"a server cannot read the new one yet", enc, begun, before, []Use{use(false, before...)}, -1, KeyServe, 1},
		{"every server can", enc, begun, before, []Use{use(true, before...)}, -1, KeySwitch, 0},
		{"a server writes with the old one", enc, begun, after, []Use{use(true, after...), use(false, after...)}, -1, KeyUse, 1},
		{"nothing is counted", enc, begun, after, []Use{use(true, after...)}, -1, KeyCount, 0},
		{"some are left", enc, begun, after, []Use{use(true, after...)}, 3, KeyRewrite, 0},
		{"none is left", enc, begun, after, []Use{use(true, after...)}, 0, KeyDrop, 0},
		{"none is left, but a host says no more", enc, begun, after, []Use{{Host: "a"}}, 0, KeyUse, 1},
		{"back before anything was written with it", enc, back, before, []Use{use(true, before...)}, 0, KeyDrop, 0},
		{"back after it", enc, back, before, []Use{use(true, before...)}, 7, KeyRewrite, 0},
		{"encryption done", enc, begun, []string{"new"}, []Use{use(true, "new")}, -1, KeyDone, 0},
	} {
		got, late := tc.change.NextKey(tc.secret, tc.have, tc.hosts, tc.left, start)
		if got != tc.want || len(late) != tc.late {
			t.Errorf("%s: %d, late %v; want %d, %d", tc.name, got, late, tc.want, tc.late)
		}
	}
}
