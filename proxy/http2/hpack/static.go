// SPDX-License-Identifier: Apache-2.0

package hpack

import "redoubt.dev/proxy/message"

// Kind tells pseudo-header fields apart (RFC 9113, 8.3; RFC 8441, 4).
type Kind uint8

// The kinds.
const (
	Regular Kind = iota
	Authority
	Method
	Path
	Scheme
	Status
	Protocol
	Strange // begins with a colon and is none of these
)

// info is what is known of a field from its bytes alone.
type info struct {
	Known    message.Known
	Kind     Kind
	BadName  bool // not a token in lower case; pseudo-headers aside
	BadValue bool // holds what no value may, or begins or ends with white space
}

// look judges a name; the value is judged by the caller.
func look(name []byte) (in info) {
	if len(name) == 0 {
		in.BadName = true
		return in
	}
	if name[0] == ':' {
		in.Kind = pseudo(name)
		return in
	}
	for _, c := range name {
		if !message.IsToken(c) || 'A' <= c && c <= 'Z' {
			in.BadName = true
			return in
		}
	}
	in.Known = message.Lookup(name)
	return in
}

func pseudo(name []byte) Kind {
	switch string(name) {
	case ":authority":
		return Authority
	case ":method":
		return Method
	case ":path":
		return Path
	case ":scheme":
		return Scheme
	case ":status":
		return Status
	case ":protocol":
		return Protocol
	}
	return Strange
}

const staticLen = 61

type pair struct {
	name, value []byte
	info
}

// static is the static table (RFC 7541, appendix A), from 1.
var static = func() (t [staticLen + 1]pair) {
	for i, e := range [staticLen][2]string{
		{":authority", ""}, {":method", "GET"}, {":method", "POST"}, {":path", "/"}, {":path", "/index.html"},
		{":scheme", "http"}, {":scheme", "https"}, {":status", "200"}, {":status", "204"}, {":status", "206"},
		{":status", "304"}, {":status", "400"}, {":status", "404"}, {":status", "500"}, {"accept-charset", ""},
		{"accept-encoding", "gzip, deflate"}, {"accept-language", ""}, {"accept-ranges", ""}, {"accept", ""},
		{"access-control-allow-origin", ""}, {"age", ""}, {"allow", ""}, {"authorization", ""}, {"cache-control", ""},
		{"content-disposition", ""}, {"content-encoding", ""}, {"content-language", ""}, {"content-length", ""},
		{"content-location", ""}, {"content-range", ""}, {"content-type", ""}, {"cookie", ""}, {"date", ""},
		{"etag", ""}, {"expect", ""}, {"expires", ""}, {"from", ""}, {"host", ""}, {"if-match", ""},
		{"if-modified-since", ""}, {"if-none-match", ""}, {"if-range", ""}, {"if-unmodified-since", ""},
		{"last-modified", ""}, {"link", ""}, {"location", ""}, {"max-forwards", ""}, {"proxy-authenticate", ""},
		{"proxy-authorization", ""}, {"range", ""}, {"referer", ""}, {"refresh", ""}, {"retry-after", ""},
		{"server", ""}, {"set-cookie", ""}, {"strict-transport-security", ""}, {"transfer-encoding", ""},
		{"user-agent", ""}, {"vary", ""}, {"via", ""}, {"www-authenticate", ""},
	} {
		t[i+1] = pair{[]byte(e[0]), []byte(e[1]), look([]byte(e[0]))}
	}
	return
}()

// staticNames finds the first entry of a name: open addressing by hash.
var staticNames = func() (t [256]uint8) {
	for i := 1; i <= staticLen; i++ {
		if string(static[i].name) == string(static[i-1].name) {
			continue
		}
		at := uint8(hash(static[i].name, 0))
		for t[at] != 0 {
			at++
		}
		t[at] = uint8(i)
	}
	return
}()

// findStatic gives the entry of a name, and whether the value is its too.
func findStatic(name, value []byte, nameHash uint64) (index int, whole bool) {
	at := uint8(nameHash)
	for ; ; at++ {
		i := int(staticNames[at])
		if i == 0 {
			return 0, false
		}
		if string(static[i].name) == string(name) {
			index = i
			break
		}
	}
	if len(value) == 0 && len(static[index].value) == 0 {
		return index, true
	}
	for i := index; i <= staticLen && string(static[i].name) == string(name); i++ {
		if len(value) > 0 && string(static[i].value) == string(value) {
			return i, true
		}
	}
	return index, false
}
