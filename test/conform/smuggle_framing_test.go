// SPDX-License-Identifier: Apache-2.0

package conform

import (
	"fmt"
	"strings"

	"redoubt.dev/test/conform/rig"
)

// attacks is the matrix.
func attacks() []attack {
	var all []attack
	for _, part := range [][]attack{plain(), lengths(), codings(), hidden(), chunks(), endings(), lineEnds(), startLines(), targets(), hosts(), fieldAttacks(), bounds()} {
		all = append(all, part...)
	}
	return all
}

// plain is what every proxy must pass.
func plain() []attack {
	return []attack{
		{name: "plain/get", send: m("GET /a HTTP/1.1\nHost: x\n\n"), takes: []string{"GET /a "}},
		{name: "plain/post", send: m("POST /a HTTP/1.1\nHost: x\nContent-Length: 3\n\nabc"), takes: []string{"POST /a abc"}},
		{name: "plain/chunked", send: m("POST /a HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n3\nabc\n0\n\n"), takes: []string{"POST /a abc"}},
		{name: "plain/head", send: m("HEAD /a HTTP/1.1\nHost: x\n\n"), takes: []string{"HEAD /a "}},
		{name: "plain/get with body", send: m("GET /a HTTP/1.1\nHost: x\nContent-Length: 3\n\nabc"), takes: []string{"GET /a abc"}},
		{name: "plain/pipelined", send: m("GET /a HTTP/1.1\nHost: x\n\nPOST /b HTTP/1.1\nHost: x\nContent-Length: 1\n\nzGET /c HTTP/1.1\nHost: x\n\n"), takes: []string{"GET /a ", "POST /b z", "GET /c "}},
		{name: "plain/CL.0 is pipelining", send: m("POST /a HTTP/1.1\nHost: x\nContent-Length: 0\n\nGET /b HTTP/1.1\nHost: x\n\n"), takes: []string{"POST /a ", "GET /b "}},
		{name: "plain/request as body", send: m("POST /a HTTP/1.1\nHost: x\nContent-Length: 37\n\n") + smuggled + "\r\n", takes: []string{"POST /a " + smuggled + "\r\n"}},
		{name: "plain/continue", send: m("POST /a HTTP/1.1\nHost: x\nExpect: 100-continue\nContent-Length: 3\n\nabc"), takes: []string{"POST /a abc"}},
	}
}

// lengths are contradictory or odd Content-Length fields.
func lengths() []attack {
	var all []attack
	req := func(fields, body string) string { return m("POST /a HTTP/1.1\nHost: x\n"+fields+"\n\n") + body }
	for _, c := range []struct{ name, fields string }{
		{"twice, same", "Content-Length: 3\nContent-Length: 3"},
		{"twice, different", "Content-Length: 3\nContent-Length: 40"},
		{"twice, zero first", "Content-Length: 0\nContent-Length: 40"},
		{"list, same", "Content-Length: 3, 3"},
		{"list, different", "Content-Length: 3, 40"},
		{"list, empty member", "Content-Length: 3,"},
		{"plus", "Content-Length: +3"},
		{"minus", "Content-Length: -3"},
		{"minus zero", "Content-Length: -0"},
		{"hexadecimal", "Content-Length: 0x3"},
		{"underscore", "Content-Length: 1_0"},
		{"fraction", "Content-Length: 3.0"},
		{"exponent", "Content-Length: 3e0"},
		{"semicolon", "Content-Length: 3;x"},
		{"quoted", "Content-Length: \"3\""},
		{"space inside", "Content-Length: 1 0"},
		{"vertical tab", "Content-Length: \v3"},
		{"form feed", "Content-Length: 3\f"},
		{"fullwidth digit", "Content-Length: \uff13"},
		{"NUL behind", "Content-Length: 3\x00"},
		{"empty", "Content-Length:"},
		{"2^63", "Content-Length: 9223372036854775808"},
		{"2^64+3", "Content-Length: 18446744073709551619"},
		{"2^32+3 as text", "Content-Length: 4294967299x"},
		{"very long", "Content-Length: " + strings.Repeat("9", 400)},
		{"long zeros", "Content-Length: " + strings.Repeat("0", 40) + "3"},
	} {
		all = append(all, attack{name: "length/" + c.name, send: req(c.fields, "abc"+smuggled), refuse: append(bad, 413)})
	}
	return append(all,
		attack{name: "length/few leading zeros", send: req("Content-Length: 003", "abc"), refuse: bad, takes: []string{"POST /a abc"},
			then: func(s []*rig.Seen) string { return field(s[0], "content-length", "3") }},
		attack{name: "length/white space around", send: req("Content-Length: \t 3 \t", "abc"), takes: []string{"POST /a abc"}},
		attack{name: "length/in HTTP/1.0", send: m("POST /a HTTP/1.0\nHost: x\nContent-Length: 3\n\nabc"), takes: []string{"POST /a abc"}},
		attack{name: "length/too short body never completes", send: req("Content-Length: 50", "abc"), refuse: []int{0, 400, 408, 504}, whole: true},
	)
}

// codings are CL.TE, TE.CL and TE.TE.
func codings() []attack {
	var all []attack
	both := func(name, fields, body string) {
		all = append(all, attack{name: "coding/" + name, send: m("POST /a HTTP/1.1\nHost: x\n"+fields+"\n\n") + body, refuse: coding})
	}
	both("CL.TE", "Content-Length: 44\nTransfer-Encoding: chunked", "0\r\n\r\n"+smuggled)
	both("TE.CL", "Transfer-Encoding: chunked\nContent-Length: 4", "23\r\n"+smuggled+"\r\n0\r\n\r\n")
	both("CL zero and TE", "Content-Length: 0\nTransfer-Encoding: chunked", "0\r\n\r\n"+smuggled)
	for _, c := range []struct{ name, line string }{
		{"upper case", "Transfer-Encoding: CHUNKED"}, {"tab", "Transfer-Encoding:\tchunked"}, {"spaces", "Transfer-Encoding:   chunked"}, {"space behind", "Transfer-Encoding: chunked "},
		{"no space", "Transfer-Encoding:chunked"}, {"name in mixed case", "tRANSFER-eNCODING: chunked"},
	} { // good by themselves, but not beside a length
		both("beside length, "+c.name, "Content-Length: 4\n"+c.line, "23\r\n"+smuggled+"\r\n0\r\n\r\n")
		all = append(all, attack{name: "coding/alone, " + c.name, send: m("POST /a HTTP/1.1\nHost: x\n" + c.line + "\n\n3\nabc\n0\n\n"), takes: []string{"POST /a abc"}})
	}
	for _, c := range []struct{ name, line string }{
		{"xchunked", "Transfer-Encoding: xchunked"}, {"space before colon", "Transfer-Encoding : chunked"}, {"tab before colon", "Transfer-Encoding\t: chunked"},
		{"twice", "Transfer-Encoding: chunked\nTransfer-Encoding: chunked"}, {"twice, second odd", "Transfer-Encoding: chunked\nTransfer-Encoding: x"},
		{"twice, first odd", "Transfer-Encoding: x\nTransfer-Encoding: chunked"}, {"twice, second identity", "Transfer-Encoding: chunked\nTransfer-Encoding: identity"},
		{"folded value", "Transfer-Encoding:\n chunked"}, {"folded behind", "X: y\n Transfer-Encoding: chunked"}, {"name on its own line", "Transfer-Encoding\n: chunked"},
		{"vertical tab", "Transfer-Encoding: \vchunked"}, {"form feed", "Transfer-Encoding: \fchunked"}, {"vertical tab behind", "Transfer-Encoding: chunked\v"},
		{"NUL behind", "Transfer-Encoding: chunked\x00"}, {"NUL in name", "Transfer\x00-Encoding: chunked"}, {"backspace", "Transfer-Encoding: x\bchunked"},
		{"non-breaking space", "Transfer-Encoding: \xa0chunked"}, {"high byte in name", "Transfer-Encoding\xff: chunked"},
		{"identity", "Transfer-Encoding: identity"}, {"identity first", "Transfer-Encoding: identity, chunked"}, {"identity last", "Transfer-Encoding: chunked, identity"},
		{"list twice", "Transfer-Encoding: chunked, chunked"}, {"empty first", "Transfer-Encoding: ,chunked"}, {"trailing comma", "Transfer-Encoding: chunked,"},
		{"double quotes", "Transfer-Encoding: \"chunked\""}, {"single quotes", "Transfer-Encoding: 'chunked'"}, {"parameter", "Transfer-Encoding: chunked;q=1"}, {"semicolon", "Transfer-Encoding: chunked;"},
		{"gzip first", "Transfer-Encoding: gzip, chunked"}, {"gzip last", "Transfer-Encoding: chunked, gzip"}, {"gzip", "Transfer-Encoding: gzip"}, {"empty", "Transfer-Encoding:"},
		{"bracket", "Transfer-Encoding: [chunked]"}, {"name quoted", "\"Transfer-Encoding\": chunked"}, {"dotless i", "Transfer-Encod\u0131ng: chunked"}, {"kelvin sign", "Transfer-Encoding: chun\u212aed"},
	} {
		both("beside length, "+c.name, "Content-Length: 4\n"+c.line, "23\r\n"+smuggled+"\r\n0\r\n\r\n")
		both("alone, "+c.name, c.line, "0\r\n\r\n"+smuggled)
	}
	all = append(all, attack{name: "coding/in HTTP/1.0", send: m("POST /a HTTP/1.0\nHost: x\nConnection: keep-alive\nTransfer-Encoding: chunked\n\n0\n\n") + smuggled, refuse: coding})
	// With an underscore it is another field; a CGI-like origin reads it as the
	// same one, so it must not pass.
	for _, n := range []string{"Transfer_Encoding: chunked", "Content_Length: 35"} {
		all = append(all, attack{name: "coding/underscore, " + n, send: m("POST /a HTTP/1.1\nHost: x\n"+n+"\n\n") + smuggled, refuse: bad, takes: []string{"POST /a ", "GET /smuggled "},
			then: func(s []*rig.Seen) string { return absent(s[0], "transfer_encoding", "content_length") }})
	}
	return all
}

// hidden are 0.CL attacks: a length that one side does not see.
func hidden() []attack {
	var all []attack
	for _, c := range []struct{ name, line string }{
		{"space before colon", "Content-Length : 35"}, {"tab before colon", "Content-Length\t: 36"}, {"leading space", " Content-Length: 35"}, {"leading tab", "\tContent-Length: 35"},
		{"folded value", "Content-Length:\n 36"}, {"NUL first", "\x00Content-Length: 35"}, {"vertical tab in name", "Content-Length\v: 36"}, {"quoted name", "\"Content-Length\": 36"},
		{"colon first", ":Content-Length: 35"}, {"empty name", ": 36"}, {"no colon", "Content-Length 36"}, {"bare CR before", "X: y\rContent-Length: 35"}, {"CR in name", "Content-Length\r: 36"},
	} {
		all = append(all, attack{name: "hidden/" + c.name, send: strings.ReplaceAll("GET /a HTTP/1.1\nHost: x\n"+c.line+"\n\n", "\n", "\r\n") + smuggled, refuse: bad})
	}
	return all
}

func field(s *rig.Seen, name, want string) string {
	if got := s.Get(name); got != want {
		return fmt.Sprintf("the origin was sent %s: %q, want %q", name, got, want)
	}
	return ""
}

func absent(s *rig.Seen, names ...string) string {
	for _, n := range names {
		if s.Has(n) {
			return fmt.Sprintf("the origin was sent %s: %q", n, s.Get(n))
		}
	}
	return ""
}
