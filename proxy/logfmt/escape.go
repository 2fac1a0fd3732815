// SPDX-License-Identifier: Apache-2.0

package logfmt

import "unicode/utf8"

const hex = "0123456789abcdef"

// safe tells bytes that stand for themselves in each kind of output.
var safe = func() (t [3][256]bool) {
	for c := ' '; c < 0x7f; c++ {
		quote := c == '"' || c == '\\'
		t[escapeText][c], t[escapeJSON][c], t[escapeValue][c] = !quote, !quote, true
	}
	t[escapeValue]['\t'] = true
	for c := 0x80; c < 0x100; c++ {
		t[escapeValue][c] = true // obs-text
	}
	return
}()

// guard escapes what was appended to dst from from on, in place: most values
// need nothing, so that the common case is one pass over the bytes.
func (f *Format) guard(dst []byte, from int) []byte {
	ok := &safe[f.escape]
	i := from
	for i < len(dst) && ok[dst[i]] {
		i++
	}
	if i == len(dst) {
		return dst
	}
	switch f.escape {
	case escapeValue:
		for ; i < len(dst); i++ {
			if !ok[dst[i]] {
				dst[i] = '_'
			}
		}
		return dst
	case escapeText:
		return expand(dst, i, textLen, appendText)
	}
	return expand(dst, i, jsonLen, appendJSON)
}

// expand rewrites the bytes from i on with longer ones: it moves them to the
// end of room made behind them, and appends from there.
func expand(dst []byte, i int, length func([]byte) int, app func(dst, v []byte) []byte) []byte {
	raw := len(dst) - i
	grown := length(dst[i:])
	for range grown { // room for the result between here and the moved bytes
		dst = append(dst, 0)
	}
	src := dst[i+grown : i+grown+raw]
	copy(src, dst[i:i+raw])
	return app(dst[:i], src)
}

func textLen(v []byte) int {
	n := 0
	for _, c := range v {
		n++
		if !safe[escapeText][c] {
			n += 3
		}
	}
	return n
}

func appendText(dst, v []byte) []byte {
	for _, c := range v {
		if safe[escapeText][c] {
			dst = append(dst, c)
			continue
		}
		dst = append(dst, '\\', 'x', hex[c>>4], hex[c&15])
	}
	return dst
}

// jsonLen bounds what appendJSON gives.
func jsonLen(v []byte) int {
	n := 0
	for _, c := range v {
		n++
		if !safe[escapeJSON][c] {
			n += 5
		}
	}
	return n
}

// appendJSON appends v as the inside of a JSON string. Bytes that are not
// UTF-8 become U+FFFD; control characters, and the line separators that some
// readers break lines at, are escaped.
func appendJSON(dst, v []byte) []byte {
	for i := 0; i < len(v); {
		c := v[i]
		switch {
		case safe[escapeJSON][c]:
			dst = append(dst, c)
			i++
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
			i++
		case c < utf8.RuneSelf:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			i++
		default:
			r, n := utf8.DecodeRune(v[i:])
			switch {
			case r == utf8.RuneError && n == 1, r == 0x2028, r == 0x2029, r >= 0x80 && r < 0xa0:
				dst = append(dst, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
			default:
				dst = append(dst, v[i:i+n]...)
			}
			i += n
		}
	}
	return dst
}
