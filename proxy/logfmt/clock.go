// SPDX-License-Identifier: Apache-2.0

package logfmt

import (
	"strconv"
	"strings"
	"time"

	"redoubt.dev/api/errs"
)

// clockPart is one conversion of a strftime format, or literal text.
type clockPart struct {
	text   string
	verb   byte // 0: text; 'f' with digits
	digits int
}

const defaultClock = "%Y-%m-%dT%H:%M:%S.%3fZ"

// clock compiles a strftime format. %f is the fraction of a second, 9 digits
// or as many as %3f says; %s the seconds since 1970.
func clock(op *operator, arg string) *errs.Error {
	if arg == "" {
		arg = defaultClock
	}
	for arg != "" {
		i := strings.IndexByte(arg, '%')
		if i < 0 {
			op.clock = append(op.clock, clockPart{text: arg})
			return nil
		}
		if i > 0 {
			op.clock = append(op.clock, clockPart{text: arg[:i]})
		}
		arg = arg[i+1:]
		p := clockPart{digits: 9}
		if len(arg) > 1 && '1' <= arg[0] && arg[0] <= '9' && arg[1] == 'f' {
			p.digits = int(arg[0] - '0')
			arg = arg[1:]
		}
		if arg == "" || !strings.ContainsRune("YmdHMSsfFTZzbBaAjeyIp%DR", rune(arg[0])) {
			return &errs.Error{Kind: errs.Unsupported, Field: "%START_TIME%", Expected: "a conversion of strftime that is known here", Seen: "%" + arg}
		}
		p.verb = arg[0]
		arg = arg[1:]
		op.clock = append(op.clock, p)
	}
	return nil
}

func appendClock(dst []byte, t time.Time, parts []clockPart) []byte {
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	for i := range parts {
		p := &parts[i]
		switch p.verb {
		case 0:
			dst = append(dst, p.text...)
		case 'Y':
			dst = pad(dst, year, 4)
		case 'y':
			dst = pad(dst, year%100, 2)
		case 'm':
			dst = pad(dst, int(month), 2)
		case 'd':
			dst = pad(dst, day, 2)
		case 'e':
			if day < 10 {
				dst = append(dst, ' ')
			}
			dst = strconv.AppendInt(dst, int64(day), 10)
		case 'H':
			dst = pad(dst, hour, 2)
		case 'I':
			dst = pad(dst, (hour+11)%12+1, 2)
		case 'p':
			dst = append(dst, [2]string{"AM", "PM"}[hour/12]...)
		case 'M':
			dst = pad(dst, minute, 2)
		case 'S':
			dst = pad(dst, second, 2)
		case 's':
			dst = strconv.AppendInt(dst, t.Unix(), 10)
		case 'f':
			n := t.Nanosecond()
			for range 9 - p.digits {
				n /= 10
			}
			dst = pad(dst, n, p.digits)
		case 'F':
			dst = pad(append(pad(append(pad(dst, year, 4), '-'), int(month), 2), '-'), day, 2)
		case 'D':
			dst = pad(append(pad(append(pad(dst, int(month), 2), '/'), day, 2), '/'), year%100, 2)
		case 'T':
			dst = pad(append(pad(append(pad(dst, hour, 2), ':'), minute, 2), ':'), second, 2)
		case 'R':
			dst = pad(append(pad(dst, hour, 2), ':'), minute, 2)
		case 'Z':
			dst = append(dst, "UTC"...)
		case 'z':
			dst = append(dst, "+0000"...)
		case 'b':
			dst = append(dst, month.String()[:3]...)
		case 'B':
			dst = append(dst, month.String()...)
		case 'a':
			dst = append(dst, t.Weekday().String()[:3]...)
		case 'A':
			dst = append(dst, t.Weekday().String()...)
		case 'j':
			dst = pad(dst, t.YearDay(), 3)
		case '%':
			dst = append(dst, '%')
		}
	}
	return dst
}

// pad appends n with leading zeros.
func pad(dst []byte, n, width int) []byte {
	from := len(dst)
	for range width {
		dst = append(dst, '0')
	}
	for i := len(dst) - 1; i >= from && n > 0; i-- {
		dst[i] = byte('0' + n%10)
		n /= 10
	}
	return dst
}
