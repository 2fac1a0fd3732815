// SPDX-License-Identifier: Apache-2.0

package conform

import (
	"fmt"
	"strings"

	"redoubt.dev/test/conform/rig"
)

// lineEnds are line ends and bytes that end a line for some.
func lineEnds() []attack {
	var all []attack
	for _, c := range []struct{ name, send string }{
		{"bare LF everywhere", "GET /a HTTP/1.1\nHost: x\n\n"}, {"bare LF behind the start", "GET /a HTTP/1.1\nHost: x\r\n\r\n"}, {"bare LF behind a field", "GET /a HTTP/1.1\r\nHost: x\nX: y\r\n\r\n"},
		{"bare LF at the end", "GET /a HTTP/1.1\r\nHost: x\r\n\n"}, {"bare CR behind the start", "GET /a HTTP/1.1\rHost: x\r\n\r\n"}, {"bare CR behind a field", "GET /a HTTP/1.1\r\nHost: x\rX: y\r\n\r\n"},
		{"CR CR LF", "GET /a HTTP/1.1\r\nHost: x\r\r\n\r\n"}, {"CR CR LF at the end", "GET /a HTTP/1.1\r\nHost: x\r\n\r\r\n"}, {"bare CR in a value", "GET /a HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n"},
		{"NUL in a value", "GET /a HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n"}, {"NUL in a name", "GET /a HTTP/1.1\r\nHost: x\r\nX\x00: a\r\n\r\n"}, {"NUL in the target", "GET /a\x00 HTTP/1.1\r\nHost: x\r\n\r\n"},
		{"escape in a value", "GET /a HTTP/1.1\r\nHost: x\r\nX: \x1b[0m\r\n\r\n"}, {"delete in a value", "GET /a HTTP/1.1\r\nHost: x\r\nX: \x7f\r\n\r\n"},
		{"folded by space", "GET /a HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n"}, {"folded by tab", "GET /a HTTP/1.1\r\nHost: x\r\nX: a\r\n\tb\r\n\r\n"}, {"folded host", "GET /a HTTP/1.1\r\nHost:\r\n x\r\n\r\n"},
		{"space before the first field", "GET /a HTTP/1.1\r\n Host: x\r\n\r\n"}, {"blank line of spaces", "GET /a HTTP/1.1\r\nHost: x\r\n \r\n\r\n"}, {"space before colon", "GET /a HTTP/1.1\r\nHost : x\r\n\r\n"},
		{"empty name", "GET /a HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n"}, {"no colon", "GET /a HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n"}, {"separator in a name", "GET /a HTTP/1.1\r\nHost: x\r\nX(y): z\r\n\r\n"},
		{"high byte in a name", "GET /a HTTP/1.1\r\nHost: x\r\nX\xe9: z\r\n\r\n"}, {"line separator by Unicode", "GET /a HTTP/1.1\u2028Host: x\r\n\r\n"},
	} {
		all = append(all, attack{name: "line/" + c.name, send: c.send + smuggled, refuse: bad})
	}
	return append(all,
		attack{name: "line/empty line first", send: "\r\nGET /a HTTP/1.1\r\nHost: x\r\n\r\n", refuse: append(bad, 0), takes: []string{"GET /a "}},
		attack{name: "line/high byte in a value", send: "GET /a HTTP/1.1\r\nHost: x\r\nX: \xe9\r\n\r\n", refuse: bad, takes: []string{"GET /a "},
			then: func(s []*rig.Seen) string { return field(s[0], "x", "\xe9") }},
		attack{name: "line/tab in a value", send: "GET /a HTTP/1.1\r\nHost: x\r\nX: a\tb\r\n\r\n", takes: []string{"GET /a "}},
	)
}

// startLines are request lines and versions.
func startLines() []attack {
	var all []attack
	ver := []int{400, 505}
	for _, c := range []struct {
		name, line string
		refuse     []int
	}{
		{"HTTP/0.9", "GET /a", bad}, {"HTTP/0.9 by name", "GET /a HTTP/0.9", ver}, {"HTTP/1.2", "GET /a HTTP/1.2", ver}, {"HTTP/2.0", "GET /a HTTP/2.0", ver}, {"HTTP/3", "GET /a HTTP/3", ver},
		{"HTTP/1.10", "GET /a HTTP/1.10", ver}, {"HTTP/01.1", "GET /a HTTP/01.1", ver}, {"HTTP/1,1", "GET /a HTTP/1,1", ver}, {"HTTP/+1.1", "GET /a HTTP/+1.1", ver}, {"HTTP/1.", "GET /a HTTP/1.", ver}, {"lower case", "GET /a http/1.1", ver}, {"other name", "GET /a HTTPS/1.1", ver},
		{"space inside the version", "GET /a HTTP/ 1.1", ver}, {"space behind", "GET /a HTTP/1.1 ", ver}, {"two spaces", "GET  /a HTTP/1.1", bad}, {"two spaces behind", "GET /a  HTTP/1.1", bad},
		{"tab", "GET\t/a HTTP/1.1", bad}, {"tab behind", "GET /a\tHTTP/1.1", bad}, {"vertical tab", "GET /a\vHTTP/1.1", bad}, {"leading space", " GET /a HTTP/1.1", bad}, {"words", "GET /a x HTTP/1.1", bad}, {"only method", "GET", bad},
		{"method with separator", "GE(T /a HTTP/1.1", bad}, {"method with NUL", "GE\x00T /a HTTP/1.1", bad}, {"method with high byte", "G\xc9T /a HTTP/1.1", bad}, {"long method", strings.Repeat("A", 10000) + " /a HTTP/1.1", []int{400, 414, 431, 501}},
	} {
		// A first line that is no HTTP/1 may also end the connection at once.
		all = append(all, attack{name: "start/" + c.name, send: c.line + "\r\nHost: x\r\n\r\n" + smuggled, refuse: append(c.refuse, 0)})
	}
	return append(all,
		attack{name: "start/CONNECT", send: m("CONNECT evil:443 HTTP/1.1\nHost: evil:443\n\n") + smuggled, refuse: []int{400, 403, 404, 405, 501}},
		attack{name: "start/CONNECT with path", send: m("CONNECT /a HTTP/1.1\nHost: x\n\n") + smuggled, refuse: []int{400, 403, 404, 405, 501}},
		attack{name: "start/TRACE", send: m("TRACE /a HTTP/1.1\nHost: x\n\n"), refuse: []int{400, 403, 405, 501}, takes: []string{"TRACE /a "}, whole: true},
		attack{name: "start/TRACK", send: m("TRACK /a HTTP/1.1\nHost: x\n\n"), refuse: []int{400, 403, 405, 501}, takes: []string{"TRACK /a "}, whole: true},
		attack{name: "start/unknown method", send: m("BREW /a HTTP/1.1\nHost: x\n\n"), refuse: []int{400, 405, 501}, takes: []string{"BREW /a "}},
		attack{name: "start/method in lower case", send: m("get /a HTTP/1.1\nHost: x\n\n"), refuse: []int{0, 400, 405, 501}, takes: []string{"get /a "}},
		attack{name: "start/HTTP/2 preface behind a request", send: m("GET /a HTTP/1.1\nHost: x\n\nPRI * HTTP/2.0\n\nSM\n\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"), takes: []string{"GET /a "}},
		attack{name: "start/HTTP/1.0 pipelined without keep-alive", send: m("GET /a HTTP/1.0\nHost: x\n\n") + smuggled, takes: []string{"GET /a "}, whole: true},
		attack{name: "start/behind Connection: close", send: m("GET /a HTTP/1.1\nHost: x\nConnection: close\n\n") + smuggled, takes: []string{"GET /a "}, whole: true},
	)
}

// targets are forms of the request target.
func targets() []attack {
	var all []attack
	for _, c := range []struct{ name, target string }{
		{"control character", "/a\x01"}, {"delete", "/a\x7f"}, {"high byte", "/\xe9"}, {"fragment", "/a#b"}, {"fragment only", "#"}, {"relative", "a"}, {"asterisk", "*"}, {"authority form", "x:80"},
		{"user in authority", "http://u@x/"}, {"user and password", "http://u:p@x/"}, {"absolute, no host", "http:///a"}, {"absolute, other host", "http://evil/a"}, {"absolute, other port", "http://x:81/a"},
		{"absolute, backslash", "http://x\\@evil/a"}, {"other scheme", "ftp://x/a"}, {"javascript", "javascript:x"}, {"two schemes", "http://http://x/"}, {"scheme only", "http://"},
	} {
		all = append(all, attack{name: "target/" + c.name, send: "GET " + c.target + " HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, refuse: []int{400, 403, 404}})
	}
	one := func(name, target, seen string, refuse []int) attack {
		return attack{name: "target/" + name, send: "GET " + target + " HTTP/1.1\r\nHost: x\r\n\r\n", refuse: refuse, takes: []string{"GET " + seen + " "}}
	}
	normal := func(a attack, path string) attack {
		a.or = []string{"GET " + path + " "}
		return a
	}
	return append(all,
		one("absolute", "http://x/a?b", "/a?b", nil), one("absolute in mixed case", "HTTP://x/a", "/a", bad), one("absolute without path", "http://x", "/", nil), one("absolute, query only", "http://x?b", "/?b", bad),
		one("absolute https", "https://x/a", "/a", bad), one("double slash", "//evil/a", "//evil/a", bad), one("scheme in path", "/http://evil/", "/http://evil/", bad), normal(one("backslash", "/a\\b", "/a\\b", bad), "/a/b"),
		one("encoded NUL", "/a%00b", "/a%00b", bad), one("encoded CRLF", "/a%0d%0aX:y", "/a%0d%0aX:y", bad), one("encoded space and request", "/a%20HTTP/1.1%0d%0a", "/a%20HTTP/1.1%0d%0a", bad), normal(one("dot segments", "/b/../a", "/b/../a", bad), "/a"),
		one("odd but common", "/a|b^c`d\"e<f>{g}", "/a|b^c`d\"e<f>{g}", bad), one("semicolon", "/a;b=c", "/a;b=c", nil), one("bad escape", "/%zz", "/%zz", bad),
		attack{name: "target/OPTIONS asterisk", send: m("OPTIONS * HTTP/1.1\nHost: x\n\n"), refuse: []int{400, 404, 405}, takes: []string{"OPTIONS * "}},
	)
}

// hosts are Host fields.
func hosts() []attack {
	var all []attack
	for _, c := range []struct{ name, fields string }{
		{"missing", "X: y"}, {"twice", "Host: x\nHost: evil"}, {"twice, same", "Host: x\nHost: x"}, {"twice, one empty", "Host: x\nHost:"}, {"case does not hide the second", "Host: x\nhOST: evil"}, {"space inside", "Host: x evil"},
		{"path", "Host: x/evil"}, {"query", "Host: x?evil"}, {"fragment", "Host: x#evil"}, {"user", "Host: u@x"}, {"backslash", "Host: x\\evil"}, {"NUL", "Host: x\x00evil"}, {"high byte", "Host: x\xe9"}, {"tab inside", "Host: x\tevil"},
		{"port not a number", "Host: x:evil"}, {"port too large", "Host: x:65536"}, {"port twice", "Host: x:80:81"}, {"bracket open", "Host: [::1"}, {"bracket with name", "Host: [x]"}, {"behind the bracket", "Host: [::1]evil"}, {"quote", "Host: \"x\""}, {"comma", "Host: x,evil"}, {"semicolon", "Host: x;evil"}, {"escaped", "Host: x%2fevil"}, {"port without name", "Host: :8080"}, {"colon", "Host: :"}, {"two dots", "Host: x..evil"}, {"angle", "Host: <x>"},
		{"very long", "Host: " + strings.Repeat("x", 5000)},
	} {
		all = append(all, attack{name: "host/" + c.name, send: m("GET /a HTTP/1.1\n"+c.fields+"\n\n") + smuggled, refuse: append(bad, 431)})
	}
	for _, c := range []struct{ name, host string }{{"port", "x:8080"}, {"IPv6", "[::1]"}, {"IPv6 and port", "[::1]:8080"}, {"upper case", "X.EXAMPLE"}, {"IPv4", "127.0.0.1"}} {
		all = append(all, attack{name: "host/good, " + c.name, send: m("GET /a HTTP/1.1\nHost: " + c.host + "\n\n"), takes: []string{"GET /a "},
			then: func(s []*rig.Seen) string {
				if !strings.EqualFold(s[0].Get("host"), c.host) {
					return fmt.Sprintf("the host became %q", s[0].Get("host"))
				}
				return ""
			}})
	}
	return append(all,
		attack{name: "host/empty", send: m("GET /a HTTP/1.1\nHost:\n\n"), refuse: bad},
		attack{name: "host/empty port", send: m("GET /a HTTP/1.1\nHost: x:\n\n"), refuse: bad, takes: []string{"GET /a "}},
	)
}

// fieldAttacks are fields that speak to the proxy.
func fieldAttacks() []attack {
	var all []attack
	// CVE-2025-48865: a connection option that takes away what was set for the
	// next hop. Either it is refused, or the field arrives.
	for _, n := range []string{"Host", "Content-Length", "Transfer-Encoding", "Authorization", "Cookie", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Client-Cert", "Expect"} {
		all = append(all, attack{name: "field/Connection names " + n, send: m("POST /a HTTP/1.1\nHost: x\nContent-Length: 3\nAuthorization: t\nCookie: c\nX-Forwarded-Proto: http\nConnection: keep-alive, " + n + "\n\nabc"),
			refuse: bad, takes: []string{"POST /a abc"}, then: func(s []*rig.Seen) string {
				switch n {
				case "Authorization", "Cookie", "Host":
					if !s[0].Has(strings.ToLower(n)) {
						return n + " was taken away by a connection option"
					}
				}
				return ""
			}})
	}
	// CVE-2025-64484: an origin that reads "_" as "-" takes these for the real
	// ones. They are refused or do not pass.
	for _, n := range []string{"X_Forwarded_For", "X-Forwarded_For", "X_Forwarded_Client_Cert", "X_Forwarded_Proto", "Content_Type", "Authorization_"} {
		low := strings.ToLower(n)
		all = append(all, attack{name: "field/underscore, " + n, send: m("GET /a HTTP/1.1\nHost: x\n" + n + ": forged\n\n"), refuse: bad, takes: []string{"GET /a "},
			then: func(s []*rig.Seen) string {
				if strings.HasPrefix(low, "x") {
					return absent(s[0], low)
				}
				return ""
			}})
	}
	return append(all,
		attack{name: "field/Connection says both", send: m("GET /a HTTP/1.1\nHost: x\nConnection: close\nConnection: keep-alive\n\n") + smuggled, refuse: bad},
		attack{name: "field/hop by hop does not pass", send: m("GET /a HTTP/1.1\nHost: x\nConnection: X-Own\nX-Own: 1\nKeep-Alive: 5\nProxy-Connection: keep-alive\nTE: gzip\n\n"), takes: []string{"GET /a "},
			then: func(s []*rig.Seen) string {
				return absent(s[0], "x-own", "keep-alive", "proxy-connection", "te")
			}},
		attack{name: "field/forged client certificate", send: m("GET /a HTTP/1.1\nHost: x\nX-Forwarded-Client-Cert: URI=spiffe://bank/admin\n\n"), refuse: bad, takes: []string{"GET /a "},
			then: func(s []*rig.Seen) string { return absent(s[0], "x-forwarded-client-cert") }},
		attack{name: "field/h2c upgrade", send: m("GET /a HTTP/1.1\nHost: x\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\n\n"), refuse: []int{400, 403, 426}, takes: []string{"GET /a "},
			then: func(s []*rig.Seen) string { return absent(s[0], "upgrade", "http2-settings") }},
		attack{name: "field/h2c upgrade in other words", send: m("GET /a HTTP/1.1\nHost: x\nConnection: upgrade\nUpgrade: H2C, websocket\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\n\n"), refuse: []int{400, 403, 426}, takes: []string{"GET /a "},
			then: func(s []*rig.Seen) string { return absent(s[0], "upgrade", "http2-settings") }},
		attack{name: "field/upgrade to TLS", send: m("OPTIONS /a HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: TLS/1.0\n\n"), refuse: []int{400, 403, 426}, takes: []string{"OPTIONS /a "},
			then: func(s []*rig.Seen) string { return absent(s[0], "upgrade") }},
		attack{name: "field/unknown expectation", send: m("POST /a HTTP/1.1\nHost: x\nExpect: magic\nContent-Length: 3\n\nabc"), refuse: []int{400, 417}, takes: []string{"POST /a abc"},
			then: func(s []*rig.Seen) string { return absent(s[0], "expect") }},
		attack{name: "field/expectation twice", send: m("POST /a HTTP/1.1\nHost: x\nExpect: 100-continue\nExpect: y\nContent-Length: 3\n\nabc"), refuse: []int{400, 417}, takes: []string{"POST /a abc"}},
		attack{name: "field/obfuscated expectation", send: m("POST /a HTTP/1.1\nHost: x\nExpect: y 100-continue\nContent-Length: 3\n\nabc") + smuggled, refuse: []int{400, 417}},
		attack{name: "field/expectation without body", send: m("GET /a HTTP/1.1\nHost: x\nExpect: 100-continue\n\nGET /b HTTP/1.1\nHost: x\n\n"), refuse: []int{400, 417}, takes: []string{"GET /a ", "GET /b "}},
	)
}

// bounds are sizes.
func bounds() []attack {
	long := strings.Repeat("a", 4000)
	big := []int{400, 413, 414, 431}
	return []attack{
		{name: "bound/target of 4 KB", send: m("GET /" + long + " HTTP/1.1\nHost: x\n\n"), takes: []string{"GET /" + long + " "}},
		{name: "bound/target of 100 KB", send: m("GET /" + strings.Repeat("a", 100<<10) + " HTTP/1.1\nHost: x\n\n"), refuse: big},
		{name: "bound/target without end", send: "GET /" + strings.Repeat("a", 200<<10), refuse: append(big, 0)},
		{name: "bound/field of 100 KB", send: m("GET /a HTTP/1.1\nHost: x\nX: " + strings.Repeat("a", 100<<10) + "\n\n"), refuse: big},
		{name: "bound/name of 100 KB", send: m("GET /a HTTP/1.1\nHost: x\n" + strings.Repeat("a", 100<<10) + ": y\n\n"), refuse: big},
		{name: "bound/fields without end", send: "GET /a HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: y\r\n", 20000), refuse: big},
		{name: "bound/300 fields", send: m("GET /a HTTP/1.1\nHost: x\n" + strings.Repeat("X: y\n", 300) + "\n"), refuse: big},
		{name: "bound/50 fields", send: m("GET /a HTTP/1.1\nHost: x\n" + strings.Repeat("X: y\n", 50) + "\n"), takes: []string{"GET /a "},
			then: func(s []*rig.Seen) string {
				if n := strings.Count(s[0].Get("x"), "y"); n != 50 {
					return fmt.Sprintf("%d of 50 fields arrived", n)
				}
				return ""
			}},
	}
}
