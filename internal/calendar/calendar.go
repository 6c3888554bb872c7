// Package calendar reads calendar expressions in the notation of
// systemd.time(7) and computes when they elapse next. It is pure: it never
// looks at the clock.
//
// Words: an expression is what a person writes ("Mon..Fri 08:00"), a schedule
// is a parsed expression, a component is one of its six numbers (year, month,
// day, hour, minute, second), each a list of single values, ranges and
// repetitions.
//
// Not supported, and refused with a reason: fractions of a second, and absolute
// timestamps written with "@".
package calendar

import (
	"math/bits"
	"time"
)

// The years that a schedule can name, as in systemd.
const (
	firstYear = 1970
	lastYear  = 2199
)

// Schedule is a parsed calendar expression. The zero value never elapses.
type Schedule struct {
	parsed bool // false in the zero value only

	weekdays uint8 // bit 0 is Monday; 0 means every day

	year, month, day, hour, minute, second component

	fromEnd bool // days count from the end of the month, 1 being the last

	zone *time.Location // nil: that of the time given to Next
}

// component is the list of values that one number may take; nil means any.
type component []span

// span is start, start..stop, start/repeat or start..stop/repeat. stop is -1
// where none was written; repeat is 0 where none was written.
type span struct{ start, stop, repeat int }

// has tells whether the component allows the value.
func (c component) has(value int) bool {
	if c == nil {
		return true
	}
	for _, s := range c {
		if s.has(value) {
			return true
		}
	}
	return false
}

func (s span) has(value int) bool {
	switch {
	case value < s.start:
		return false
	case s.repeat == 0 && s.stop < 0:
		return value == s.start
	case s.stop >= 0 && value > s.stop:
		return false
	case s.repeat == 0:
		return true
	}
	return (value-s.start)%s.repeat == 0
}

// mask is the allowed values below 64 as bits.
func (c component) mask() uint64 {
	var m uint64
	for v := range 64 {
		if c.has(v) {
			m |= 1 << v
		}
	}
	return m
}

// Next returns the first moment strictly after the given one at which the
// schedule elapses, in the location of after, or the zero time when it never
// does again. An expression without a time zone is read in the location of
// after. A wall clock time that a change to summer time leaves out is skipped,
// and one that occurs twice counts the first time only, as in systemd.
func (s Schedule) Next(after time.Time) time.Time {
	if !s.parsed {
		return time.Time{}
	}
	zone := s.zone
	if zone == nil {
		zone = after.Location()
	}
	local := after.In(zone)
	// The wall clock is kept as a time in UTC, where arithmetic has no gaps.
	wall := time.Date(local.Year(), local.Month(), local.Day(), local.Hour(), local.Minute(), local.Second(), 0, time.UTC)
	for {
		wall = s.nextWall(wall)
		if wall.IsZero() {
			return time.Time{}
		}
		if at, ok := instant(wall, zone); ok && at.After(after) {
			return at.In(after.Location())
		}
		wall = wall.Add(time.Second)
	}
}

// nextWall returns the first wall clock time not before from that the schedule
// allows, or the zero time.
func (s Schedule) nextWall(from time.Time) time.Time {
	year, month, day := max(from.Year(), firstYear), from.Month(), from.Day()
	clock := from.Hour()*3600 + from.Minute()*60 + from.Second()
	if from.Year() < firstYear {
		month, day, clock = time.January, 1, 0
	}
	for ; year <= lastYear; year, month, day, clock = year+1, time.January, 1, 0 {
		if !s.year.has(year) {
			continue
		}
		for ; month <= time.December; month, day, clock = month+1, 1, 0 {
			if !s.month.has(int(month)) {
				continue
			}
			for last := daysIn(year, month); day <= last; day, clock = day+1, 0 {
				if !s.allowsDay(year, month, day, last) {
					continue
				}
				if at, ok := s.nextClock(clock); ok {
					return time.Date(year, month, day, 0, 0, at, 0, time.UTC)
				}
			}
		}
	}
	return time.Time{}
}

func (s Schedule) allowsDay(year int, month time.Month, day, last int) bool {
	if s.weekdays != 0 {
		weekday := time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Weekday()
		if s.weekdays&(1<<((weekday+6)%7)) == 0 {
			return false
		}
	}
	if !s.fromEnd {
		return s.day.has(day)
	}
	return s.allowsFromEnd(day, last)
}

// allowsFromEnd counts days from the end of the month. A range "~03..05" is
// the third to fifth last day; a repetition "~07/2" starts seven days before
// the end and goes on towards it.
func (s Schedule) allowsFromEnd(day, last int) bool {
	for _, sp := range s.day {
		turned := span{start: last + 1 - sp.start, stop: -1, repeat: sp.repeat}
		if sp.stop >= 0 {
			turned.start, turned.stop = last+1-sp.stop, turned.start
		}
		if turned.has(day) {
			return true
		}
	}
	return s.day == nil
}

// nextClock returns the first second of the day not before from that the
// schedule allows.
func (s Schedule) nextClock(from int) (int, bool) {
	hours, minutes, seconds := s.hour.mask(), s.minute.mask(), s.second.mask()
	h, m, sec := from/3600, from/60%60, from%60
	for ; h < 24; h, m, sec = h+1, 0, 0 {
		if hours&(1<<h) == 0 {
			continue
		}
		for ; m < 60; m, sec = m+1, 0 {
			if minutes&(1<<m) == 0 {
				continue
			}
			rest := seconds >> sec << sec
			if first := bits.TrailingZeros64(rest); first < 60 {
				return h*3600 + m*60 + first, true
			}
		}
	}
	return 0, false
}

// instant returns the first moment at which clocks in the zone show the wall
// clock time, and false when they never do.
func instant(wall time.Time, zone *time.Location) (time.Time, bool) {
	// The offsets in force a day before and after include that of the moment
	// itself, as no zone changes twice within two days in practice. The larger
	// offset gives the earlier moment.
	_, before := wall.Add(-24 * time.Hour).In(zone).Zone()
	_, later := wall.Add(24 * time.Hour).In(zone).Zone()
	for _, offset := range [2]int{max(before, later), min(before, later)} {
		at := wall.Add(-time.Duration(offset) * time.Second)
		if _, actual := at.In(zone).Zone(); actual == offset {
			return at, true
		}
	}
	return time.Time{}, false
}

func daysIn(year int, month time.Month) int {
	return time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC).Day()
}
