package calendar

import (
	"fmt"
	"strings"
)

// String returns the normalized form that systemd-analyze calendar prints; it
// parses to the same schedule.
func (s Schedule) String() string {
	if !s.parsed {
		return ""
	}
	var b strings.Builder
	if s.weekdays != 0 {
		writeWeekdays(&b, s.weekdays)
		b.WriteByte(' ')
	}
	separator := "-"
	if s.fromEnd {
		separator = "~"
	}
	writeComponent(&b, s.year, 4)
	b.WriteByte('-')
	writeComponent(&b, s.month, 2)
	b.WriteString(separator)
	writeComponent(&b, s.day, 2)
	b.WriteByte(' ')
	writeComponent(&b, s.hour, 2)
	b.WriteByte(':')
	writeComponent(&b, s.minute, 2)
	b.WriteByte(':')
	writeComponent(&b, s.second, 2)
	if s.zone != nil {
		b.WriteByte(' ')
		b.WriteString(s.zone.String())
	}
	return b.String()
}

func writeComponent(b *strings.Builder, c component, width int) {
	if c == nil {
		b.WriteByte('*')
		return
	}
	for i, s := range c {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(b, "%0*d", width, s.start)
		if s.stop >= 0 {
			fmt.Fprintf(b, "..%0*d", width, s.stop)
		}
		if s.repeat > 0 {
			fmt.Fprintf(b, "/%d", s.repeat)
		}
	}
}

// writeWeekdays writes runs of three and more as ranges, as systemd does.
func writeWeekdays(b *strings.Builder, set uint8) {
	separator := ""
	for first := 0; first < 7; first++ {
		if set&(1<<first) == 0 {
			continue
		}
		last := first
		for last < 6 && set&(1<<(last+1)) != 0 {
			last++
		}
		b.WriteString(separator)
		separator = ","
		b.WriteString(shortWeekday(first))
		switch {
		case last > first+1:
			b.WriteString(".." + shortWeekday(last))
		case last == first+1:
			b.WriteString("," + shortWeekday(last))
		}
		first = last
	}
}

func shortWeekday(i int) string {
	return strings.ToUpper(weekdayNames[i][:1]) + weekdayNames[i][1:3]
}
