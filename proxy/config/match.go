// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"regexp"
)

// Match selects requests.
type Match struct {
	Kind       PathKind
	Path       string         // for Prefix, Exact and PathPrefix
	Regex      *regexp.Regexp // for Regex: matches the whole path, without query
	IgnoreCase bool           // case_sensitive: false
	Fraction   *Fraction
	Headers    []HeaderMatch
	Query      []QueryMatch
	GRPC       bool
	TLS        *TLSMatch
}

// PathKind says how Match.Path matches.
type PathKind uint8

// The kinds.
const (
	Prefix     PathKind = iota
	Exact               // path
	PathPrefix          // path_separated_prefix
	Regex               // safe_regex
	Connect             // connect_matcher
)

// Fraction is a share of requests: Num of Den.
type Fraction struct{ Num, Den uint32 }

// TLSMatch selects by what the client showed.
type TLSMatch struct{ Presented, Validated *bool }

// StringMatch is a StringMatcher. Exactly one of the patterns is set; an
// Exact with an empty string matches the empty string.
type StringMatch struct {
	Kind       StringKind
	Value      string
	Regex      *regexp.Regexp
	IgnoreCase bool
}

// StringKind is the kind of a StringMatch.
type StringKind uint8

// The kinds.
const (
	MatchExact StringKind = iota
	MatchPrefix
	MatchSuffix
	MatchContains
	MatchRegex
)

// HeaderMatch matches a field of the request. Name may be ":method",
// ":authority", ":path" or ":scheme".
type HeaderMatch struct {
	Name           string // lower case
	Present        *bool  // set: nothing else is
	Range          *Range
	String         *StringMatch
	Invert         bool
	MissingIsEmpty bool // treat_missing_header_as_empty
}

// Range is [From, To).
type Range struct{ From, To int64 }

// QueryMatch matches a query parameter.
type QueryMatch struct {
	Name    string
	Present *bool
	String  *StringMatch
}

// RBAC is compiled by package filter, for connections and requests alike.
type RBAC struct {
	Action   string // "ALLOW", "DENY", "LOG"
	Policies map[string]*RBACPolicy
	Shadow   *RBAC
}

// RBACPolicy allows any of its principals any of its permissions.
type RBACPolicy struct {
	Permissions []*RBACRule
	Principals  []*RBACRule
}

// RBACRule is one node of a permission or principal tree; one kind is set.
type RBACRule struct {
	Any           bool
	And, Or       []*RBACRule
	Not           *RBACRule
	Header        *HeaderMatch
	Path          *StringMatch
	DestIP        *netip.Prefix
	DestPort      *Range
	SourceIP      *netip.Prefix // direct_remote_ip
	RemoteIP      *netip.Prefix // after X-Forwarded-For
	Principal     *StringMatch  // authenticated; nil inside a set Authenticated means any
	Authenticated bool
	SNI           *StringMatch
}
