// SPDX-License-Identifier: Apache-2.0

package conform

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// invent makes up a message: one or two requests of ordinary and odd parts,
// of which about half are then mutated in structure or by byte.
func invent(r *rand.Rand) []byte {
	s := inventRequest(r)
	if r.IntN(4) == 0 {
		s += inventRequest(r)
	}
	b := []byte(s)
	for range []int{0, 0, 0, 1, 1, 2, 3}[r.IntN(7)] {
		b = mutate(r, b)
	}
	return b
}

func pick(r *rand.Rand, from ...string) string { return from[r.IntN(len(from))] }

// rarely gives one of odd in one of n cases, else one of usual.
func rarely(r *rand.Rand, n int, usual, odd []string) string {
	if r.IntN(n) == 0 {
		return pick(r, odd...)
	}
	return pick(r, usual...)
}

func inventRequest(r *rand.Rand) string {
	method := rarely(r, 30, []string{"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"}, []string{"get", "M-SEARCH", "PROPFIND", "x!y", "TRACE", "A_B"})
	host := rarely(r, 8, []string{"x", "bank.example", "x:8080"}, []string{"[::1]", "[::1]:80", "X", "x:", "a_b", "x.", "1.2.3.4", "a%20b", "a,b", "~x", "x:0080"})
	target := rarely(r, 3, []string{"/", "/a", "/a/b?c=d", "/a;b"}, []string{"http://" + host + "/a", "http://" + host, "HTTP://" + host + "/?q", "/%00", "/%2e%2e/", "/..", "//x", "/a|b^c`d\"<>{}\\", "/?", "/a?b?c", "/%zz", "/:@!$&'()*+,;=", "/http://x/", "*", "/" + strings.Repeat("a", r.IntN(2000))})
	version := rarely(r, 15, []string{"HTTP/1.1"}, []string{"HTTP/1.0", "HTTP/1.2", "HTTP/2.0"})
	var fields []string
	if r.IntN(30) != 0 {
		fields = append(fields, header(r, "Host", host))
	}
	for range r.IntN(4) {
		fields = append(fields, header(r, pick(r, "Accept", "User-Agent", "X-Own", "Cookie", "Referer", "x!#$%&'*+-.^_`|~y", "Range", "Content-Type", "A"),
			rarely(r, 4, []string{"a", "*/*", "b=c; d=e", ""}, []string{"\xe9\xff", "a\tb", "a  b", "\"q\\\"r\"", ":", "a,b", strings.Repeat("v", r.IntN(1500))})))
	}
	if r.IntN(6) == 0 {
		fields = append(fields, header(r, "Connection", pick(r, "keep-alive", "close", "Keep-Alive, X-Own", "TE", "keep-alive,,keep-alive")))
	}
	if r.IntN(12) == 0 {
		fields = append(fields, header(r, pick(r, "TE", "Trailer", "Keep-Alive", "Via", "Max-Forwards"), pick(r, "trailers", "x", "0")))
	}
	body := ""
	switch r.IntN(5) {
	case 0, 1:
	case 2, 3:
		body = pick(r, "", "abc", smuggled, "0\r\n\r\n", strings.Repeat("\r\n", 5))
		fields = append(fields, header(r, "Content-Length", pick(r, fmt.Sprint(len(body)), fmt.Sprint(len(body)), fmt.Sprint(len(body)), fmt.Sprintf("%03d", len(body)))))
	case 4:
		fields = append(fields, header(r, "Transfer-Encoding", rarely(r, 5, []string{"chunked"}, []string{"Chunked", "CHUNKED"})))
		body = inventChunks(r)
	}
	r.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	return method + " " + target + " " + version + "\r\n" + strings.Join(fields, "") + "\r\n" + body
}

func header(r *rand.Rand, name, value string) string {
	if r.IntN(8) == 0 {
		name = pick(r, strings.ToLower(name), strings.ToUpper(name))
	}
	return name + ":" + rarely(r, 25, []string{" ", " ", "", "  "}, []string{"\t", " \t "}) + value + rarely(r, 25, []string{"", "", "", " "}, []string{"\t", " \t "}) + "\r\n"
}

func inventChunks(r *rand.Rand) string {
	var b strings.Builder
	for range r.IntN(4) {
		data := pick(r, "a", "abc", "0\r\n\r\n", smuggled, strings.Repeat("z", r.IntN(600)+1))
		b.WriteString(pick(r, "", "", "0", "00"))
		if r.IntN(2) == 0 {
			fmt.Fprintf(&b, "%x", len(data))
		} else {
			fmt.Fprintf(&b, "%X", len(data))
		}
		b.WriteString(pick(r, "", "", "", "", ";a", ";a=b", ";a=\"b;c\\\"\"", ";a=b;c") + "\r\n" + data + "\r\n")
	}
	return b.String() + pick(r, "0", "0", "0", "00", "0;z") + "\r\n" + pick(r, "", "", "", "X-Sum: 1\r\n", "X-Sum: 1\r\nY:\r\n") + "\r\n"
}

// oddBytes are what parsers disagree on.
var oddBytes = []string{"\r", "\n", "\r\n", "\x00", "\t", " ", "\v", "\f", "\x7f", "\x80", "\xa0", ":", ";", ",", "\"", "\\", "=", "#", "0", "1", "+", "-", "x", "_", "/", "?", "\r\n ", "\n\r", "\r\r\n",
	"Content-Length: 0\r\n", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Host: evil\r\n", "Connection: close\r\n", "Expect: 100-continue\r\n"}

// mutate changes one thing.
func mutate(r *rand.Rand, b []byte) []byte {
	if len(b) == 0 {
		return b
	}
	s, at := string(b), r.IntN(len(b))
	switch r.IntN(8) {
	case 0: // insert
		return []byte(s[:at] + pick(r, oddBytes...) + s[at:])
	case 1: // replace a byte
		return []byte(s[:at] + pick(r, oddBytes...) + s[at+1:])
	case 2: // delete
		return []byte(s[:at] + s[at+1:])
	case 3: // insert at the end of a line
		if i := strings.Index(s[at:], "\r\n"); i >= 0 {
			return []byte(s[:at+i] + pick(r, oddBytes...) + s[at+i:])
		}
	case 4: // insert at the start of a line
		if i := strings.Index(s[at:], "\r\n"); i >= 0 {
			return []byte(s[:at+i+2] + pick(r, oddBytes...) + s[at+i+2:])
		}
	case 5: // insert behind a colon
		if i := strings.IndexByte(s[at:], ':'); i >= 0 {
			return []byte(s[:at+i+1] + pick(r, oddBytes...) + s[at+i+1:])
		}
	case 6: // a line twice, or moved
		lines := strings.SplitAfter(s, "\r\n")
		i := r.IntN(len(lines))
		j := r.IntN(len(lines))
		if r.IntN(2) == 0 {
			lines[i], lines[j] = lines[j], lines[i]
		} else {
			lines[i] += lines[i]
		}
		return []byte(strings.Join(lines, ""))
	case 7: // one bit
		c := b[at] ^ 1<<r.IntN(8)
		return []byte(s[:at] + string([]byte{c}) + s[at+1:])
	}
	return b
}
