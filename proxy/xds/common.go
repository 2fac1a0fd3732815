// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 fields that the API deprecates are read, or refused by name

package xds

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"time"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/logfmt"
	"redoubt.dev/proxy/message"
)

// maxRegex bounds the text of a regular expression. RE2 runs in linear time;
// its program is bounded by the length of the text and by Go's own limit of
// repetitions.
const maxRegex = 1024

// maxDuration bounds durations, so that sums of a few do not overflow.
const maxDuration = 365 * 24 * time.Hour

// converter makes values of package config from messages that strict has
// passed. One belongs to one file or resource.
type converter struct {
	*reader
	boot    *Bootstrap // for what configuration sources mean
	from    source     // of the resource; what "self" means
	uses    *uses      // of clusters; nil: nobody asks
	regexes map[string]*regexp.Regexp
	tls     map[*config.CommonTLS]*tlsRefs // secrets that are fetched
	hcm     map[string]string              // which filter of a chain is its http_connection_manager
}

// uses are the clusters that a file refers to.
type uses struct {
	list    []use
	servers map[string]bool // those of management servers
}

type use struct {
	name string
	at   *place
}

func (u *uses) server(name string) {
	if u != nil && name != "" {
		u.servers[name] = true
	}
}

// use notes that a cluster is referred to at p.
func (c *converter) use(name string, p *place) string {
	if c.uses != nil && name != "" {
		c.uses.list = append(c.uses.list, use{name, p})
	}
	return name
}

func newConverter(r *reader, b *Bootstrap, from source) *converter {
	return &converter{reader: r, boot: b, from: from, regexes: map[string]*regexp.Regexp{}, tls: map[*config.CommonTLS]*tlsRefs{}, hcm: map[string]string{}}
}

// duration gives 0 for none. A set one must lie in (0, maxDuration].
func (c *converter) duration(d *durationpb.Duration, p *place) time.Duration {
	if d == nil {
		return 0
	}
	if v := c.span(d, p); v > 0 {
		return v
	}
	c.wrong(p, "a duration above 0", d.AsDuration(), "remove it to have the default")
	return 0
}

// span gives any duration that is not negative.
func (c *converter) span(d *durationpb.Duration, p *place) time.Duration {
	v := d.AsDuration()
	if d.CheckValid() != nil || v < 0 || v > maxDuration {
		c.wrong(p, "a duration from 0 to 365 days", fmt.Sprint(d.GetSeconds(), " s ", d.GetNanos(), " ns"), "")
		return 1
	}
	return v
}

// orNever gives 0 for none and -1 for a set 0, which switches off.
func (c *converter) orNever(d *durationpb.Duration, p *place) time.Duration {
	if d == nil {
		return 0
	}
	if v := c.span(d, p); v != 0 {
		return v
	}
	return -1
}

// count gives 0 for none; a set 0 is refused, since 0 means the default in
// package config.
func (c *converter) count(v *wrapperspb.UInt32Value, p *place) uint32 {
	if v != nil && v.Value == 0 {
		c.wrong(p, "1 or more", 0, "remove it to have the default")
	}
	return v.GetValue()
}

func (c *converter) count64(v *wrapperspb.UInt64Value, p *place) uint64 {
	if v != nil && v.Value == 0 {
		c.wrong(p, "1 or more", 0, "remove it to have the default")
	}
	return v.GetValue()
}

// size is a count of bytes that fits an int.
func (c *converter) size(v *wrapperspb.UInt32Value, limit uint32, p *place) int {
	if n := c.count(v, p); n <= limit {
		return int(n)
	}
	c.wrong(p, fmt.Sprintf("at most %d", limit), v.GetValue(), "")
	return 0
}

// only takes a flag that may be set to what holds here anyway.
func (c *converter) only(v *wrapperspb.BoolValue, want bool, p *place) {
	if v != nil && v.Value != want {
		c.unsupported(p, fmt.Sprint(want), v.Value, "remove it")
	}
}

func (c *converter) port(v uint32, p *place) uint16 {
	if v > math.MaxUint16 {
		c.wrong(p, "a port, at most 65535", v, "")
		return 0
	}
	return uint16(v)
}

func (c *converter) prefix(r *corev3.CidrRange, p *place) netip.Prefix {
	a, err := netip.ParseAddr(r.GetAddressPrefix())
	if err != nil {
		c.failed(p.field("address_prefix"), "an IP address", err, "")
		return netip.Prefix{}
	}
	x, err := a.Prefix(int(min(r.GetPrefixLen().GetValue(), 1000)))
	if err != nil || a.Zone() != "" {
		c.wrong(p.field("prefix_len"), fmt.Sprintf("at most %d", a.BitLen()), r.GetPrefixLen().GetValue(), "")
	}
	return x
}

func (c *converter) prefixes(rs []*corev3.CidrRange, p *place, name string) (list []netip.Prefix) {
	for i, r := range rs {
		list = append(list, c.prefix(r, p.item(name, i)))
	}
	return list
}

func (c *converter) regex(m *matcherv3.RegexMatcher, p *place) *regexp.Regexp {
	return c.expression(m.GetRegex(), p.field("regex"), true)
}

// expression compiles s. RE2 in Envoy matches the whole text; whole says that
// the result must too.
func (c *converter) expression(s string, p *place, whole bool) *regexp.Regexp {
	if len(s) > maxRegex || s == "" {
		c.wrong(p, fmt.Sprintf("1 to %d bytes", maxRegex), len(s), "split it into several routes or matchers")
		return nil
	}
	text := s
	if whole {
		text = `^(?:` + s + `)$`
	}
	if re := c.regexes[text]; re != nil {
		return re
	}
	// First by itself: an unbalanced ")(" must not pass by the group around it.
	if _, err := syntax.Parse(s, syntax.Perl); err != nil {
		c.failed(p, "a regular expression that RE2 takes", err, "")
		return nil
	}
	re, err := regexp.Compile(text)
	if err != nil {
		c.failed(p, "a regular expression that RE2 takes", err, "")
		return nil
	}
	c.regexes[text] = re
	return re
}

func (c *converter) stringMatch(m *matcherv3.StringMatcher, p *place) (s config.StringMatch) {
	s.IgnoreCase = m.GetIgnoreCase()
	switch x := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		s.Kind, s.Value = config.MatchExact, x.Exact
	case *matcherv3.StringMatcher_Prefix:
		s.Kind, s.Value = config.MatchPrefix, x.Prefix
	case *matcherv3.StringMatcher_Suffix:
		s.Kind, s.Value = config.MatchSuffix, x.Suffix
	case *matcherv3.StringMatcher_Contains:
		s.Kind, s.Value = config.MatchContains, x.Contains
	case *matcherv3.StringMatcher_SafeRegex:
		s.Kind, s.Regex = config.MatchRegex, c.regex(x.SafeRegex, p.field("safe_regex"))
		if s.IgnoreCase {
			c.wrong(p.field("ignore_case"), "none beside safe_regex", true, "begin the expression with (?i)")
		}
	default:
		c.wrong(p, "a pattern", "none", "")
	}
	return s
}

func (c *converter) stringMatches(list []*matcherv3.StringMatcher, p *place, name string) (out []config.StringMatch) {
	for i, m := range list {
		out = append(out, c.stringMatch(m, p.item(name, i)))
	}
	return out
}

func (c *converter) headerMatches(list []*routev3.HeaderMatcher, p *place, name string) (out []config.HeaderMatch) {
	for i, m := range list {
		out = append(out, c.headerMatch(m, p.item(name, i)))
	}
	return out
}

func (c *converter) headerMatch(m *routev3.HeaderMatcher, p *place) (h config.HeaderMatch) {
	h.Name = c.fieldName(m.GetName(), p.field("name"), true)
	h.Invert, h.MissingIsEmpty = m.GetInvertMatch(), m.GetTreatMissingHeaderAsEmpty()
	text := func(kind config.StringKind, v string) { h.String = &config.StringMatch{Kind: kind, Value: v} }
	switch x := m.GetHeaderMatchSpecifier().(type) {
	case nil:
		yes := true // the API: without a specifier, presence is asked for
		h.Present = &yes
	case *routev3.HeaderMatcher_PresentMatch:
		h.Present = &x.PresentMatch
	case *routev3.HeaderMatcher_RangeMatch:
		h.Range = &config.Range{From: x.RangeMatch.GetStart(), To: x.RangeMatch.GetEnd()}
	case *routev3.HeaderMatcher_StringMatch:
		s := c.stringMatch(x.StringMatch, p.field("string_match"))
		h.String = &s
	case *routev3.HeaderMatcher_ExactMatch:
		text(config.MatchExact, x.ExactMatch)
	case *routev3.HeaderMatcher_PrefixMatch:
		text(config.MatchPrefix, x.PrefixMatch)
	case *routev3.HeaderMatcher_SuffixMatch:
		text(config.MatchSuffix, x.SuffixMatch)
	case *routev3.HeaderMatcher_ContainsMatch:
		text(config.MatchContains, x.ContainsMatch)
	case *routev3.HeaderMatcher_SafeRegexMatch:
		h.String = &config.StringMatch{Kind: config.MatchRegex, Regex: c.regex(x.SafeRegexMatch, p.field("safe_regex_match"))}
	default:
		c.unsupported(p, "string_match, range_match or present_match", fmt.Sprintf("%T", x), "")
	}
	return h
}

func (c *converter) queryMatches(list []*routev3.QueryParameterMatcher, p *place, name string) (out []config.QueryMatch) {
	for i, m := range list {
		q := config.QueryMatch{Name: m.GetName()}
		switch x := m.GetQueryParameterMatchSpecifier().(type) {
		case nil:
			yes := true
			q.Present = &yes
		case *routev3.QueryParameterMatcher_PresentMatch:
			q.Present = &x.PresentMatch
		case *routev3.QueryParameterMatcher_StringMatch:
			s := c.stringMatch(x.StringMatch, p.item(name, i).field("string_match"))
			q.String = &s
		}
		out = append(out, q)
	}
	return out
}

// fieldName gives a header's name in lower case. pseudo allows ":path" and
// the like, to read.
func (c *converter) fieldName(name string, p *place, pseudo bool) string {
	low := strings.ToLower(name)
	if pseudo {
		switch low {
		case ":method", ":authority", ":path", ":scheme":
			return low
		}
	}
	if !message.ValidName(low) {
		c.wrong(p, "a field name", name, "")
	}
	return low
}

// unsettable are fields that belong to the protocol or to routing; the route
// has settings of their own for those that may change.
var unsettable = map[string]bool{"host": true, "connection": true, "transfer-encoding": true, "content-length": true, "keep-alive": true, "proxy-connection": true, "upgrade": true, "te": true, "trailer": true}

func (c *converter) settable(name string, p *place) string {
	low := c.fieldName(name, p, false)
	if unsettable[low] {
		c.wrong(p, "a field that does not frame or route the message", name, "use the route's own settings, such as host_rewrite_literal")
	}
	return low
}

func (c *converter) headerAdds(list []*corev3.HeaderValueOption, p *place, name string) (out []config.HeaderAdd) {
	for i, o := range list {
		out = append(out, c.headerAdd(o, p.item(name, i)))
	}
	return out
}

func (c *converter) headerAdd(o *corev3.HeaderValueOption, p *place) config.HeaderAdd {
	h := config.HeaderAdd{KeepEmpty: o.GetKeepEmptyValue()}
	h.Name = c.settable(o.GetHeader().GetKey(), p.field("header").field("key"))
	h.Value = c.formatted(o.GetHeader().GetValue(), p.field("header").field("value"))
	switch o.GetAppendAction() {
	case corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD:
		h.Action = config.AppendOrAdd
	case corev3.HeaderValueOption_ADD_IF_ABSENT:
		h.Action = config.AddIfAbsent
	case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD:
		h.Action = config.OverwriteOrAdd
	case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
		h.Action = config.OverwriteIfExists
	default:
		c.unsupported(p.field("append_action"), "a known action", o.GetAppendAction(), "")
	}
	if a := o.GetAppend(); a != nil { // deprecated, of the same meaning
		if !a.Value {
			h.Action = config.OverwriteOrAdd
		}
		if o.GetAppendAction() != 0 {
			c.wrong(p.field("append"), "append_action alone", a.Value, "remove append")
		}
	}
	return h
}

// literalHeaders are headers without command operators.
func (c *converter) literalHeaders(list []*corev3.HeaderValue, p *place, name string) (out []config.HeaderAdd) {
	for i, v := range list {
		at := p.item(name, i)
		out = append(out, config.HeaderAdd{Name: c.settable(v.GetKey(), at.field("key")), Value: c.fieldValue(v.GetValue(), at.field("value")), Action: config.OverwriteOrAdd})
	}
	return out
}

func (c *converter) fieldValue(v string, p *place) string {
	if !message.ValidValue(v) {
		c.wrong(p, "a field value: no control characters, no space at its ends", v, "")
	}
	return v
}

// formatted is a field value that may hold command operators.
func (c *converter) formatted(v string, p *place) string {
	if strings.Contains(v, "%") {
		if _, err := logfmt.CompileValue(v); err != nil {
			c.failed(p, "known command operators; %% for a per cent sign", err, "")
		}
		return v
	}
	return c.fieldValue(v, p)
}

func (c *converter) removes(list []string, p *place, name string) (out []string) {
	for i, n := range list {
		out = append(out, c.settable(n, p.item(name, i)))
	}
	return out
}

type headerOps interface {
	GetRequestHeadersToAdd() []*corev3.HeaderValueOption
	GetRequestHeadersToRemove() []string
	GetResponseHeadersToAdd() []*corev3.HeaderValueOption
	GetResponseHeadersToRemove() []string
}

func (c *converter) headerOps(m headerOps, p *place) config.HeaderOps {
	return config.HeaderOps{
		RequestAdd: c.headerAdds(m.GetRequestHeadersToAdd(), p, "request_headers_to_add"), RequestRemove: c.removes(m.GetRequestHeadersToRemove(), p, "request_headers_to_remove"),
		ResponseAdd: c.headerAdds(m.GetResponseHeadersToAdd(), p, "response_headers_to_add"), ResponseRemove: c.removes(m.GetResponseHeadersToRemove(), p, "response_headers_to_remove"),
	}
}

func (c *converter) mutations(list []*mutationv3.HeaderMutation, p *place, name string) (out []config.Mutation) {
	for i, m := range list {
		at := p.item(name, i)
		switch x := m.GetAction().(type) {
		case *mutationv3.HeaderMutation_Remove:
			out = append(out, config.Mutation{Remove: c.settable(x.Remove, at.field("remove"))})
		case *mutationv3.HeaderMutation_Append:
			a := c.headerAdd(x.Append, at.field("append"))
			out = append(out, config.Mutation{Add: &a})
		case *mutationv3.HeaderMutation_RemoveOnMatch_:
			s := c.stringMatch(x.RemoveOnMatch.GetKeyMatcher(), at.field("remove_on_match").field("key_matcher"))
			out = append(out, config.Mutation{RemoveOnMatch: &s})
		default:
			c.wrong(at, "remove, append or remove_on_match", "none", "")
		}
	}
	return out
}

func (c *converter) rewrite(m *matcherv3.RegexMatchAndSubstitute, p *place) *config.RegexRewrite {
	if m == nil {
		return nil
	}
	re := c.expression(m.GetPattern().GetRegex(), p.field("pattern").field("regex"), false)
	c.substitution(m.GetSubstitution(), re, p.field("substitution"))
	return &config.RegexRewrite{Regex: re, Subst: m.GetSubstitution()}
}

// substitution checks that s refers to groups that re has.
func (c *converter) substitution(s string, re *regexp.Regexp, p *place) {
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			continue
		}
		i++
		switch {
		case i < len(s) && s[i] == '\\':
		case i < len(s) && '0' <= s[i] && s[i] <= '9' && (re == nil || int(s[i]-'0') <= re.NumSubexp()):
		default:
			c.wrong(p, `\ followed by the number of a group, or by \`, s, "")
			return
		}
	}
}

var denominators = map[typev3.FractionalPercent_DenominatorType]uint32{
	typev3.FractionalPercent_HUNDRED: 100, typev3.FractionalPercent_TEN_THOUSAND: 10_000, typev3.FractionalPercent_MILLION: 1_000_000,
}

func (c *converter) fractionOf(f *typev3.FractionalPercent, p *place) config.Fraction {
	den, ok := denominators[f.GetDenominator()]
	if !ok {
		c.unsupported(p.field("denominator"), "HUNDRED, TEN_THOUSAND or MILLION", f.GetDenominator(), "")
	}
	return config.Fraction{Num: min(f.GetNumerator(), den), Den: den}
}

// fraction gives the default; there is no runtime that could change it.
func (c *converter) fraction(f *corev3.RuntimeFractionalPercent, p *place) *config.Fraction {
	if f == nil {
		return nil
	}
	if f.GetDefaultValue() == nil {
		return &config.Fraction{Num: 100, Den: 100}
	}
	x := c.fractionOf(f.GetDefaultValue(), p.field("default_value"))
	return &x
}

// percent makes a fraction of millionths.
func (c *converter) percent(v *typev3.Percent, none uint32, p *place) config.Fraction {
	if v == nil {
		return config.Fraction{Num: none, Den: 100}
	}
	return config.Fraction{Num: uint32(math.Round(c.perCent(v, p) * 10_000)), Den: 1_000_000}
}

func (c *converter) perCent(v *typev3.Percent, p *place) float64 {
	if x := v.GetValue(); !(x >= 0 && x <= 100) {
		c.wrong(p, "0 to 100", x, "")
		return 0
	}
	return v.GetValue()
}

func (c *converter) enabled(f *corev3.RuntimeFeatureFlag, none bool) bool {
	if f.GetDefaultValue() == nil {
		return none
	}
	return f.GetDefaultValue().GetValue()
}

func (c *converter) metadataLB(m *corev3.Metadata, p *place) map[string]string {
	for _, name := range slices.Sorted(maps.Keys(m.GetFilterMetadata())) {
		if name != "envoy.lb" {
			c.unsupported(p.entry("filter_metadata", name), "envoy.lb only", name, "remove it")
		}
	}
	return c.stringMap(m.GetFilterMetadata()["envoy.lb"], p.entry("filter_metadata", "envoy.lb"))
}

// stringMap takes an object of scalars; numbers and truth values compare by
// their text.
func (c *converter) stringMap(s *structpb.Struct, p *place) map[string]string {
	if s == nil {
		return nil
	}
	out := make(map[string]string, len(s.GetFields()))
	for k, v := range s.GetFields() {
		switch v.GetKind().(type) {
		case *structpb.Value_StringValue:
			out[k] = v.GetStringValue()
		case *structpb.Value_BoolValue, *structpb.Value_NumberValue:
			out[k] = fmt.Sprint(v.AsInterface())
		default:
			c.unsupported(p.field(k), "a string, number or truth value", v.AsInterface(), "")
		}
	}
	return out
}

func (c *converter) tokenBucket(b *typev3.TokenBucket, p *place) *config.RateLimit {
	if b == nil {
		return nil
	}
	r := &config.RateLimit{Max: b.GetMaxTokens(), PerFill: 1, Interval: c.duration(b.GetFillInterval(), p.field("fill_interval"))}
	if b.GetTokensPerFill() != nil {
		r.PerFill = c.count(b.GetTokensPerFill(), p.field("tokens_per_fill"))
	}
	if r.Interval == 0 && b.GetFillInterval() == nil {
		c.wrong(p.field("fill_interval"), "a duration", "none", "")
	}
	return r
}
