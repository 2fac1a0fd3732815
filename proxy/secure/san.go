// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"crypto/x509"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"redoubt.dev/proxy/config"
)

// sanMatch matches one subject alternative name.
type sanMatch struct {
	kind  string
	m     config.StringMatch
	whole *regexp.Regexp // the expression, for all of a name
}

func newSANMatch(s *config.SANMatch) (sanMatch, error) {
	m := sanMatch{kind: s.Type, m: s.Match}
	switch s.Type {
	case "", "DNS", "URI", "EMAIL", "IP":
	default:
		return m, fmt.Errorf("type %q", s.Type)
	}
	if m.m.Kind == config.MatchRegex {
		if m.m.Regex == nil {
			return m, fmt.Errorf("no expression")
		}
		// Half a name that matches is another name.
		var err error
		if m.whole, err = regexp.Compile(`\A(?:` + m.m.Regex.String() + `)\z`); err != nil {
			return m, err
		}
	}
	if m.m.IgnoreCase {
		m.m.Value = strings.ToLower(m.m.Value)
	}
	return m, nil
}

func (m *sanMatch) matches(c *x509.Certificate) bool {
	if m.kind == "" || m.kind == "DNS" {
		for _, s := range c.DNSNames {
			if m.text(s) || m.m.Kind == config.MatchExact && covers(strings.ToLower(s), strings.ToLower(m.m.Value)) {
				return true
			}
		}
	}
	if m.kind == "" || m.kind == "URI" {
		for _, u := range c.URIs {
			if m.text(u.String()) {
				return true
			}
		}
	}
	if m.kind == "" || m.kind == "EMAIL" {
		if slices.ContainsFunc(c.EmailAddresses, m.text) {
			return true
		}
	}
	if m.kind == "" || m.kind == "IP" {
		for _, ip := range c.IPAddresses {
			if m.text(ip.String()) {
				return true
			}
		}
	}
	return false
}

// covers tells whether a certificate's DNS name, perhaps with a wildcard for
// the first label, is for name. Both are lower case.
func covers(pattern, name string) bool {
	if suffix, ok := strings.CutPrefix(pattern, "*."); ok {
		_, rest, dot := strings.Cut(name, ".")
		return dot && rest == suffix && !strings.HasPrefix(name, ".")
	}
	return pattern == name
}

func (m *sanMatch) text(s string) bool {
	if m.m.IgnoreCase {
		s = strings.ToLower(s)
	}
	switch m.m.Kind {
	case config.MatchExact:
		return s == m.m.Value
	case config.MatchPrefix:
		return strings.HasPrefix(s, m.m.Value)
	case config.MatchSuffix:
		return strings.HasSuffix(s, m.m.Value)
	case config.MatchContains:
		return strings.Contains(s, m.m.Value)
	case config.MatchRegex:
		return m.whole.MatchString(s)
	}
	return false
}
