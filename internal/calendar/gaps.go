package calendar

import "time"

// gapsLooked is over how many moments Gaps looks: those of an expression by the
// hour of days, of one by the day of months.
const gapsLooked = 100

// Gaps returns the shortest and the longest time between two moments that follow
// each other, of the first hundred after the given time; zero where there are
// fewer than two.
func (s Schedule) Gaps(from time.Time) (shortest, longest time.Duration) {
	before := s.Next(from)
	for range gapsLooked {
		next := s.Next(before)
		if before.IsZero() || next.IsZero() {
			break
		}
		gap := next.Sub(before)
		longest = max(longest, gap)
		if shortest == 0 || gap < shortest {
			shortest = gap
		}
		before = next
	}
	return shortest, longest
}
