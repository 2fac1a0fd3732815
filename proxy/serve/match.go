// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"bytes"
	"net/netip"
	"strings"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/secure"
)

// seen is what is known of a connection when its chain is chosen.
type seen struct {
	local, source, peer netip.AddrPort
	tls                 bool
	hello               *secure.Hello // nil: not looked at, or not TLS
}

// criterion scores how well a chain fits: 0 not at all, 1 for a chain that
// does not care, more for a better fit.
type criterion func(m *config.ChainMatch, s *seen) int

// criteria stand in Envoy's order (FilterChainMatch): each keeps only the
// chains that fit best, and there is no way back.
var criteria = [...]criterion{
	func(m *config.ChainMatch, s *seen) int {
		return exact(m.DestinationPort == 0, m.DestinationPort == s.local.Port())
	},
	func(m *config.ChainMatch, s *seen) int { return prefixes(m.PrefixRanges, s.local.Addr()) },
	serverName,
	func(m *config.ChainMatch, s *seen) int {
		switch m.TransportProtocol {
		case "":
			return 1
		case "tls":
			return exact(false, s.tls)
		}
		return exact(false, !s.tls)
	},
	func(m *config.ChainMatch, s *seen) int {
		if len(m.ALPN) == 0 {
			return 1
		}
		for _, p := range m.ALPN {
			if s.hello != nil && s.hello.Offers(p) {
				return 2
			}
		}
		return 0
	},
	func(m *config.ChainMatch, s *seen) int { return prefixes(m.DirectSource, s.peer.Addr()) },
	func(m *config.ChainMatch, s *seen) int { return prefixes(m.SourcePrefixes, s.source.Addr()) },
	func(m *config.ChainMatch, s *seen) int {
		if len(m.SourcePorts) == 0 {
			return 1
		}
		for _, p := range m.SourcePorts {
			if p == s.source.Port() {
				return 2
			}
		}
		return 0
	},
}

func exact(any, is bool) int {
	switch {
	case any:
		return 1
	case is:
		return 2
	}
	return 0
}

func prefixes(ps []netip.Prefix, a netip.Addr) int {
	if len(ps) == 0 {
		return 1
	}
	best := 0
	for _, p := range ps {
		if p.Contains(a) {
			best = max(best, 2+p.Bits())
		}
	}
	return best
}

// serverName prefers the exact name, then the longest wildcard.
func serverName(m *config.ChainMatch, s *seen) int {
	if len(m.ServerNames) == 0 {
		return 1
	}
	if s.hello == nil {
		return 0
	}
	name := s.hello.SNI()
	best := 0
	for _, n := range m.ServerNames {
		if suffix, wild := strings.CutPrefix(n, "*"); wild {
			if len(name) > len(suffix) && bytes.HasSuffix(name, []byte(suffix)) {
				best = max(best, 1+len(suffix))
			}
		} else if string(name) == n {
			best = 1 << 16
		}
	}
	return best
}

// choose finds the chain for a connection; nil when none takes it.
func (st *listening) choose(s *seen) *chain {
	if len(st.chains) == 1 && st.chains[0].matchAll {
		return st.chains[0]
	}
	var left [64]*chain
	n := copy(left[:], st.chains)
	for _, c := range criteria {
		best, k := 1, 0
		for _, ch := range left[:n] {
			score := c(&ch.cfg.Match, s)
			if score == 0 || score < best {
				continue
			}
			if score > best {
				best, k = score, 0
			}
			left[k] = ch
			k++
		}
		n = k
	}
	if n == 0 {
		return st.def
	}
	return left[0]
}

// maxChains bounds a listener's filter chains.
const maxChains = len([64]*chain{})
