// SPDX-License-Identifier: Apache-2.0

package conform

import (
	"strings"

	"redoubt.dev/test/conform/rig"
)

const chunkedHead = "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

// chunks are chunk lines that two readers could read differently.
func chunks() []attack {
	var all []attack
	for _, c := range []struct{ name, body string }{
		{"hex prefix", "0x3\r\nabc\r\n0\r\n\r\n"}, {"upper hex prefix", "0X3\r\nabc\r\n0\r\n\r\n"}, {"plus", "+3\r\nabc\r\n0\r\n\r\n"}, {"minus", "-3\r\nabc\r\n0\r\n\r\n"},
		{"minus zero", "-0\r\n\r\n"}, {"hex zero", "0x0\r\n\r\n"}, {"space before", " 3\r\nabc\r\n0\r\n\r\n"}, {"tab before", "\t3\r\nabc\r\n0\r\n\r\n"},
		{"space inside", "1 0\r\nabc\r\n0\r\n\r\n"}, {"underscore", "0_3\r\nabc\r\n0\r\n\r\n"}, {"comma", "3,\r\nabc\r\n0\r\n\r\n"}, {"fraction", "3.0\r\nabc\r\n0\r\n\r\n"}, {"no digit", "\r\nabc\r\n0\r\n\r\n"},
		{"only extension", ";a=b\r\nabc\r\n0\r\n\r\n"}, {"letter behind", "3g\r\nabc\r\n0\r\n\r\n"}, {"NUL behind", "3\x00\r\nabc\r\n0\r\n\r\n"}, {"vertical tab behind", "3\v\r\nabc\r\n0\r\n\r\n"},
		{"2^64+3", "10000000000000003\r\nabc\r\n0\r\n\r\n"}, {"2^64-1", "ffffffffffffffff\r\nabc\r\n0\r\n\r\n"}, {"2^63", "8000000000000000\r\nabc\r\n0\r\n\r\n"},
		{"long leading zeros", strings.Repeat("0", 4000) + "3\r\nabc\r\n0\r\n\r\n"}, {"line without end", "3;" + strings.Repeat("a", 20000)},
		{"bare LF", "3\nabc\r\n0\r\n\r\n"}, {"bare CR", "3\rabc\r\n0\r\n\r\n"}, {"CR CR LF", "3\r\r\nabc\r\n0\r\n\r\n"}, {"LF CR", "3\n\rabc\r\n0\r\n\r\n"},
		{"LF behind the data", "3\r\nabc\n0\r\n\r\n"}, {"CR behind the data", "3\r\nabc\r0\r\n\r\n"}, {"nothing behind the data", "3\r\nabc0\r\n\r\n"}, {"two bytes behind the data", "3\r\nabcXX0\r\n\r\n"},
		{"data too long", "3\r\nabcd\r\n0\r\n\r\n"}, {"data too short", "5\r\nabc\r\n0\r\n\r\n"},
		{"extension with LF", "3;a\nabc\r\n0\r\n\r\n"}, {"extension with CR", "3;a\rb\r\nabc\r\n0\r\n\r\n"}, {"extension with LF in value", "3;a=b\n\r\nabc\r\n0\r\n\r\n"},
		{"extension with LF in quotes", "3;a=\"b\nc\"\r\nabc\r\n0\r\n\r\n"}, {"extension with CRLF in quotes", "3;a=\"b\r\nabc\"\r\n0\r\n\r\n"}, {"extension, open quote", "3;a=\"b\r\nabc\r\n0\r\n\r\n"},
		{"extension with NUL", "3;a=\x00\r\nabc\r\n0\r\n\r\n"}, {"huge extension", "3;a=" + strings.Repeat("b", 70000) + "\r\nabc\r\n0\r\n\r\n"}, {"extension without semicolon", "3 a=b\r\nabc\r\n0\r\n\r\n"},
		{"extension that hides a chunk", "2;\nxx\r\n4c\r\n0\r\n\r\n"}, // a reader that ends the line at LF sees another message
	} {
		all = append(all, attack{name: "chunk/" + c.name, send: chunkedHead + c.body + smuggled, refuse: []int{0, 400, 413, 431}})
	}
	good := []string{"POST /a abc"}
	return append(all,
		// Bounded by us at 256 bytes a line; what we drop, the origin does not see.
		attack{name: "chunk/extension", send: chunkedHead + "3;a=b;c;d=\"e;\\\"f\"\r\nabc\r\n0;z\r\n\r\n", refuse: bad, takes: good},
		attack{name: "chunk/extension with spaces", send: chunkedHead + "3 ; a = b\r\nabc\r\n0\r\n\r\n", refuse: bad, takes: good},
		attack{name: "chunk/space behind", send: chunkedHead + "3 \r\nabc\r\n0\r\n\r\n", refuse: bad, takes: good},
		attack{name: "chunk/few leading zeros", send: chunkedHead + "0003\r\nabc\r\n00\r\n\r\n", refuse: bad, takes: good},
		attack{name: "chunk/upper case hex", send: chunkedHead + "A\r\n0123456789\r\n0\r\n\r\n", takes: []string{"POST /a 0123456789"}},
		attack{name: "chunk/many of one byte", send: chunkedHead + strings.Repeat("1\r\nx\r\n", 5000) + "0\r\n\r\n", takes: []string{"POST /a " + strings.Repeat("x", 5000)}},
		attack{name: "chunk/2^32+3", send: chunkedHead + "100000003\r\nabc\r\n0\r\n\r\n" + smuggled, refuse: []int{0, 400, 408, 413, 504}, whole: true},
	)
}

// endings are last chunks and trailers.
func endings() []attack {
	var all []attack
	for _, c := range []struct{ name, end string }{
		{"bare LF", "0\n\r\n"}, {"bare LF twice", "0\n\n"}, {"second LF bare", "0\r\n\n"}, {"CR only", "0\r\n\r" + "X"}, {"CR CR LF", "0\r\n\r\r\n"},
		{"length in trailer", "0\r\nContent-Length: 36\r\n\r\n"}, {"coding in trailer", "0\r\nTransfer-Encoding: chunked\r\n\r\n"}, {"host in trailer", "0\r\nHost: evil\r\n\r\n"},
		{"credential in trailer", "0\r\nAuthorization: x\r\n\r\n"}, {"cookie in trailer", "0\r\nCookie: x\r\n\r\n"}, {"connection in trailer", "0\r\nConnection: close\r\n\r\n"},
		{"client certificate in trailer", "0\r\nX-Forwarded-Client-Cert: x\r\n\r\n"}, {"forwarded in trailer", "0\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n"}, {"expect in trailer", "0\r\nExpect: 100-continue\r\n\r\n"},
		{"space before colon in trailer", "0\r\nX : y\r\n\r\n"}, {"folded trailer", "0\r\nX: y\r\n z\r\n\r\n"}, {"trailer without colon", "0\r\nX\r\n\r\n"}, {"bare LF in trailer", "0\r\nX: y\n\r\n"}, {"CR in trailer", "0\r\nX: y\rz\r\n\r\n"},
		{"NUL in trailer", "0\r\nX: \x00\r\n\r\n"}, {"trailers too large", "0\r\nX: " + strings.Repeat("y", 100<<10) + "\r\n\r\n"}, {"too many trailers", "0\r\n" + strings.Repeat("X: y\r\n", 20000) + "\r\n"},
		{"request as trailer", "0\r\n" + smuggled}, // no empty line: a request line is no field
	} {
		all = append(all, attack{name: "ending/" + c.name, send: chunkedHead + "3\r\nabc\r\n" + c.end + smuggled, refuse: []int{0, 400, 413, 431}})
	}
	return append(all, attack{name: "ending/good trailer", send: chunkedHead + "3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n", takes: []string{"POST /a abc"},
		then: func(s []*rig.Seen) string {
			if s[0].Trailers != "" && !strings.EqualFold(s[0].Trailers, "X-Sum: 1\r\n") {
				return "the trailer was changed to " + s[0].Trailers
			}
			return ""
		}})
}
