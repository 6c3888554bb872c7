package calendar

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// shorthands are the words of systemd.time(7), which stand alone or before a
// time zone.
var shorthands = map[string]string{
	"minutely":      "*-*-* *:*:00",
	"hourly":        "*-*-* *:00:00",
	"daily":         "*-*-* 00:00:00",
	"weekly":        "Mon *-*-* 00:00:00",
	"monthly":       "*-*-01 00:00:00",
	"quarterly":     "*-01,04,07,10-01 00:00:00",
	"semiannually":  "*-01,07-01 00:00:00",
	"semi-annually": "*-01,07-01 00:00:00",
	"biannually":    "*-01,07-01 00:00:00",
	"bi-annually":   "*-01,07-01 00:00:00",
	"yearly":        "*-01-01 00:00:00",
	"annually":      "*-01-01 00:00:00",
}

var weekdayNames = [7]string{"monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"}

// limits are the name and the smallest and largest value of a component.
type limits struct {
	name     string
	min, max int
}

var (
	yearLimits   = limits{"year", firstYear, lastYear}
	monthLimits  = limits{"month", 1, 12}
	dayLimits    = limits{"day", 1, 31}
	endLimits    = limits{"day from the end of the month", 1, 28}
	hourLimits   = limits{"hour", 0, 23}
	minuteLimits = limits{"minute", 0, 59}
	secondLimits = limits{"second", 0, 59}
)

// Parse reads a calendar expression as systemd.time(7) has them:
//
//	[WEEKDAYS] [[YEAR-]MONTH-DAY] [HOUR:MINUTE[:SECOND]] [ZONE]
//
// or a word such as "daily". Each number is a list of values, ranges "a..b"
// and repetitions "a/n", or "*"; "MONTH~DAY" counts days from the end of the
// month. The error says which part is wrong and shows a valid expression.
func Parse(expr string) (Schedule, error) {
	s, err := parse(expr)
	if err != nil {
		return Schedule{}, fmt.Errorf("parse calendar expression %q: %w (an example: \"Mon..Fri *-*-* 08:00:00\", or \"*-*-* 00/6:00:00\" for every six hours)", expr, err)
	}
	return s, nil
}

func parse(expr string) (Schedule, error) {
	fields := strings.Fields(expr)
	if len(fields) == 0 {
		return Schedule{}, errors.New("it is empty")
	}
	zone, fields, err := splitZone(fields)
	if err != nil {
		return Schedule{}, err
	}
	if long, ok := shorthands[strings.ToLower(fields[0])]; ok {
		if len(fields) > 1 {
			return Schedule{}, fmt.Errorf("%q stands alone or before a time zone, but %q follows", fields[0], fields[1])
		}
		fields = strings.Fields(long)
	}
	midnight := component{{start: 0, stop: -1}}
	s := Schedule{parsed: true, zone: zone, hour: midnight, minute: midnight, second: midnight}
	return s, s.parseFields(fields)
}

// splitZone takes the time zone off the end, where there is one.
func splitZone(fields []string) (*time.Location, []string, error) {
	last := fields[len(fields)-1]
	if len(fields) == 1 || last == "" || !isLetter(last[0]) || isWeekdays(last) {
		return nil, fields, nil
	}
	if strings.EqualFold(last, "UTC") {
		return time.UTC, fields[:len(fields)-1], nil
	}
	zone, err := time.LoadLocation(last)
	if err != nil || last == "Local" {
		return nil, nil, fmt.Errorf("%q is no time zone that this machine knows (UTC, or a name such as Europe/Berlin)", last)
	}
	return zone, fields[:len(fields)-1], nil
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

func isWeekdays(field string) bool {
	_, err := parseWeekdays(field)
	return err == nil
}

// parseFields reads weekdays, date and time, in this order and each at most
// once.
func (s *Schedule) parseFields(fields []string) error {
	stage := 0 // 1 after the weekdays, 2 after the date, 3 after the time
	for _, field := range fields {
		var err error
		var part int
		switch {
		case strings.Contains(field, ":"):
			part, err = 3, s.parseTime(field)
		case isLetter(field[0]):
			part = 1
			s.weekdays, err = parseWeekdays(field)
		default:
			part, err = 2, s.parseDate(field)
		}
		if err != nil {
			return err
		}
		if part <= stage {
			return fmt.Errorf("%q is out of place: weekdays, then a date, then a time, each at most once", field)
		}
		stage = part
	}
	return nil
}

func parseWeekdays(field string) (uint8, error) {
	var set uint8
	for _, item := range strings.Split(field, ",") {
		from, to, isRange := strings.Cut(item, "..")
		first, err := parseWeekday(from)
		if err != nil {
			return 0, err
		}
		last := first
		if isRange {
			if last, err = parseWeekday(to); err != nil {
				return 0, err
			}
		}
		if last < first {
			return 0, fmt.Errorf("weekdays %q run backwards: the week begins on Monday, so write a list such as \"Sat,Sun,Mon\"", item)
		}
		for d := first; d <= last; d++ {
			set |= 1 << d
		}
	}
	if set == 1<<7-1 {
		set = 0 // every day is no restriction
	}
	return set, nil
}

func parseWeekday(name string) (int, error) {
	lower := strings.ToLower(name)
	for i, full := range weekdayNames {
		if lower == full || lower == full[:3] {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%q is neither a weekday (Mon, Tue, …) nor a word such as daily", name)
}

func (s *Schedule) parseDate(field string) error {
	head, day, fromEnd := strings.Cut(field, "~")
	parts := strings.Split(field, "-")
	if fromEnd {
		parts = append(strings.Split(head, "-"), day)
	}
	if len(parts) < 2 || len(parts) > 3 {
		return fmt.Errorf("%q is neither a date (YEAR-MONTH-DAY or MONTH-DAY) nor a time (HOUR:MINUTE)", field)
	}
	of := dayLimits
	if fromEnd {
		of = endLimits
	}
	var errYear, errMonth, errDay error
	if len(parts) == 3 {
		s.year, errYear = parseComponent(parts[0], yearLimits, false)
		parts = parts[1:]
	}
	s.month, errMonth = parseComponent(parts[0], monthLimits, false)
	s.day, errDay = parseComponent(parts[1], of, fromEnd)
	s.fromEnd = fromEnd && s.day != nil
	return cmp.Or(errYear, errMonth, errDay)
}

func (s *Schedule) parseTime(field string) error {
	parts := strings.Split(field, ":")
	if len(parts) > 3 {
		return fmt.Errorf("time %q has more than hours, minutes and seconds", field)
	}
	var errHour, errMinute, errSecond error
	s.hour, errHour = parseComponent(parts[0], hourLimits, false)
	s.minute, errMinute = parseComponent(parts[1], minuteLimits, false)
	if len(parts) == 3 {
		s.second, errSecond = parseComponent(parts[2], secondLimits, false)
	}
	return cmp.Or(errHour, errMinute, errSecond)
}

// parseComponent reads "*" (nil) or a list of spans.
func parseComponent(text string, of limits, fromEnd bool) (component, error) {
	if text == "*" {
		return nil, nil
	}
	var c component
	for _, item := range strings.Split(text, ",") {
		sp, err := parseSpan(item, of, fromEnd)
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", of.name, text, err)
		}
		c = append(c, sp)
	}
	slices.SortFunc(c, func(a, b span) int {
		if a.start != b.start {
			return a.start - b.start
		}
		if a.stop != b.stop {
			return a.stop - b.stop
		}
		return a.repeat - b.repeat
	})
	return slices.Compact(c), nil
}

func parseSpan(item string, of limits, fromEnd bool) (span, error) {
	if strings.HasPrefix(item, "*") {
		return span{}, fmt.Errorf("\"*\" stands alone; write %d/n to repeat", of.min)
	}
	sp := span{stop: -1}
	values, every, repeated := strings.Cut(item, "/")
	from, to, isRange := strings.Cut(values, "..")
	var err error
	if sp.start, err = parseValue(from, of); err != nil {
		return span{}, err
	}
	if isRange {
		if sp.stop, err = parseValue(to, of); err != nil {
			return span{}, err
		}
		if sp.stop < sp.start {
			return span{}, fmt.Errorf("the range %q runs backwards", values)
		}
	}
	if repeated {
		if sp.repeat, err = parseRepeat(every, sp, of, fromEnd); err != nil {
			return span{}, err
		}
	}
	return sp.normalize(fromEnd), nil
}

// parseRepeat refuses a repetition whose second value is already out of range,
// as systemd does: it would be a single value in disguise.
func parseRepeat(text string, sp span, of limits, fromEnd bool) (int, error) {
	n, err := parseNumber(text)
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, errors.New("a repetition of 0 never advances")
	}
	beyond := sp.start+n > of.max
	if fromEnd {
		beyond = max(sp.start, sp.stop)-n < of.min
	}
	if beyond {
		return 0, fmt.Errorf("repeating %d every %d leaves the range %d to %d at once", sp.start, n, of.min, of.max)
	}
	return n, nil
}

// normalize gives equal spans one form: a range ends at the last value that it
// reaches, and a range of one value is that value.
func (s span) normalize(fromEnd bool) span {
	if s.stop < 0 {
		return s
	}
	if s.repeat > 0 && !fromEnd {
		s.stop -= (s.stop - s.start) % s.repeat
	}
	if s.stop == s.start {
		return span{start: s.start, stop: -1}
	}
	if s.repeat == 1 {
		s.repeat = 0
	}
	return s
}

func parseValue(text string, of limits) (int, error) {
	n, err := parseNumber(text)
	if err != nil {
		return 0, err
	}
	if of == yearLimits && n < 100 {
		// Two digits mean 1970 to 2069, as in systemd.
		n += 1900
		if n < firstYear {
			n += 100
		}
	}
	if n < of.min || n > of.max {
		return 0, fmt.Errorf("%s is not in %d to %d", text, of.min, of.max)
	}
	return n, nil
}

func parseNumber(text string) (int, error) {
	if text == "" {
		return 0, errors.New("a number is missing")
	}
	for _, c := range []byte(text) {
		if c == '.' {
			return 0, fmt.Errorf("%q: fractions are not supported", text)
		}
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("%q is not a number", text)
		}
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("%q is too large", text)
	}
	return n, nil
}
