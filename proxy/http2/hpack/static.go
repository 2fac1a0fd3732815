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
	BadName  bool // not a token in lower case, or one that reads like another; pseudo-headers aside
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
	in.BadName = in.Known == message.Other && message.Lookalike(name)
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
		if e[0] == string(t[i].name) {
			t[i+1].name = t[i].name // one name, one address
		}
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

// staticHash is the hash of each entry's name.
var staticHash = func() (t [staticLen + 1]uint64) {
	for i := range t {
		t[i] = hash(static[i].name, 0)
	}
	return
}()

// Names of the static table, by their first index, for Encoder.AppendStatic.
const (
	NameAuthority       = 1
	NameMethod          = 2
	NamePath            = 4
	NameScheme          = 6
	NameStatus          = 8
	NameAuthorization   = 23
	NameContentEncoding = 26
	NameContentLength   = 28
	NameContentRange    = 30
	NameContentType     = 31
	NameCookie          = 32
	NameExpect          = 35
	NameSetCookie       = 55
)

// findStatic gives the first entry of a name, and the one with the value too; 0:
// none.
func findStatic(name, value []byte, nameHash uint64) (index, whole int) {
	at := uint8(nameHash)
	for ; ; at++ {
		i := int(staticNames[at])
		if i == 0 {
			return 0, 0
		}
		if string(static[i].name) == string(name) {
			index = i
			break
		}
	}
	return index, staticValue(index, value)
}

// staticValue gives the entry with the name of the entry at index, the first
// of its name, that has the value; 0: none.
func staticValue(index int, value []byte) int {
	name := &static[index].name[0]
	for i := index; i <= staticLen && (i == index || &static[i].name[0] == name); i++ {
		if string(static[i].value) == string(value) {
			return i
		}
	}
	return 0
}
