// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"

	"redoubt.dev/api/wire"
)

// Domain is the cluster's domain, which every pod's search list ends with.
const Domain = "cluster.local."

// TTL of answers in seconds: short, since endpoints come and go.
const TTL = 5

// Sizes of answers over UDP: without EDNS (RFC 1035, 4.2.1), and at most
// (the size that crosses networks unfragmented, as the DNS flag day chose).
const (
	minSize = 512
	maxSize = 1232
	// MaxQuery bounds a query; a name is at most 255 bytes.
	MaxQuery = 1024
)

// Zone holds the names of one snapshot. It is immutable.
type Zone struct {
	names map[string][]netip.Addr // lower case, with the final dot; nil addresses for names that only have children
}

// NewZone collects the names of the services.
func NewZone(services []wire.Service) *Zone {
	z := &Zone{names: map[string][]netip.Addr{Domain: nil, "svc." + Domain: nil}}
	for i := range services {
		s := &services[i]
		ns := strings.ToLower(s.Namespace) + ".svc." + Domain
		name := strings.ToLower(s.Name) + "." + ns
		z.parent(ns)
		z.parent(name)
		if s.VIP.IsValid() {
			z.add(name, s.VIP)
		} else {
			for _, p := range s.Ports {
				for _, b := range p.Endpoints {
					z.add(name, b.Addr.Addr())
				}
			}
			for _, h := range s.Hosts {
				z.add(name, h.Addr)
			}
		}
		for _, h := range s.Hosts {
			z.add(strings.ToLower(h.Host)+"."+name, h.Addr)
		}
	}
	return z
}

func (z *Zone) parent(name string) {
	if _, ok := z.names[name]; !ok {
		z.names[name] = nil
	}
}

func (z *Zone) add(name string, a netip.Addr) {
	for _, b := range z.names[name] {
		if a == b {
			return
		}
	}
	z.names[name] = append(z.names[name], a)
}

// Lookup gives the addresses of a name; ok is false when it does not exist.
func (z *Zone) Lookup(name string) (addrs []netip.Addr, ok bool) {
	addrs, ok = z.names[strings.ToLower(name)]
	return addrs, ok
}

// Answer appends the answer to a query to dst; stream lifts the bound on its
// size to what a TCP frame holds. A nil answer means that the query deserves
// none.
func (z *Zone) Answer(dst, query []byte, stream bool) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response {
		return nil // answering a response is how loops begin
	}
	r := dnsmessage.Header{ID: h.ID, Response: true, OpCode: h.OpCode, RecursionDesired: h.RecursionDesired}
	if h.OpCode != 0 {
		r.RCode = dnsmessage.RCodeNotImplemented
		return build(dst, r, nil, nil, 0, maxSize)
	}
	q, err := p.Question()
	if err != nil {
		r.RCode = dnsmessage.RCodeFormatError
		return build(dst, r, nil, nil, 0, maxSize)
	}
	if _, err := p.Question(); err != dnsmessage.ErrSectionDone {
		r.RCode = dnsmessage.RCodeFormatError
		return build(dst, r, nil, nil, 0, maxSize)
	}
	size, edns := sizeOf(&p)
	limit := min(max(size, minSize), maxSize)
	if stream {
		limit = 1<<16 - 1
	}
	addrs, code := z.decide(q)
	r.RCode = code
	r.Authoritative = code != dnsmessage.RCodeRefused
	return build(dst, r, &q, addrs, edns, limit)
}

func (z *Zone) decide(q dnsmessage.Question) ([]netip.Addr, dnsmessage.RCode) {
	name := strings.ToLower(q.Name.String())
	switch {
	case q.Class != dnsmessage.ClassINET:
		return nil, dnsmessage.RCodeRefused
	case strings.HasSuffix(name, ".in-addr.arpa.") || strings.HasSuffix(name, ".ip6.arpa."):
		return nil, dnsmessage.RCodeNameError // servers log clients by name: a quick no keeps them from waiting
	case name != Domain && !strings.HasSuffix(name, "."+Domain):
		return nil, dnsmessage.RCodeRefused
	}
	addrs, ok := z.names[name]
	if !ok {
		return nil, dnsmessage.RCodeNameError
	}
	if q.Type != dnsmessage.TypeA && q.Type != dnsmessage.TypeALL {
		return nil, dnsmessage.RCodeSuccess
	}
	return addrs, dnsmessage.RCodeSuccess
}

// sizeOf finds the EDNS payload size; edns is 0 without one.
func sizeOf(p *dnsmessage.Parser) (size int, edns uint16) {
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return 0, 0
	}
	for range 8 {
		h, err := p.AdditionalHeader()
		if err != nil {
			return 0, 0
		}
		if h.Type == dnsmessage.TypeOPT {
			return int(h.Class), max(uint16(h.Class), minSize)
		}
		if p.SkipAdditional() != nil {
			return 0, 0
		}
	}
	return 0, 0
}

// build writes the answer, or, when it exceeds limit, one without records
// that asks to come back over TCP.
func build(dst []byte, h dnsmessage.Header, q *dnsmessage.Question, addrs []netip.Addr, edns uint16, limit int) []byte {
	start := len(dst)
	b := dnsmessage.NewBuilder(dst, h)
	b.EnableCompression()
	err := b.StartQuestions()
	if q != nil && err == nil {
		err = b.Question(*q)
	}
	if len(addrs) > 0 && err == nil {
		err = b.StartAnswers()
		for _, a := range addrs {
			if !a.Is4() || err != nil {
				continue
			}
			err = b.AResource(dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: TTL}, dnsmessage.AResource{A: a.As4()})
		}
	}
	if edns > 0 && err == nil {
		var rh dnsmessage.ResourceHeader
		err = b.StartAdditionals()
		if e := rh.SetEDNS0(maxSize, dnsmessage.RCodeSuccess, false); err == nil {
			err = e
		}
		if err == nil {
			err = b.OPTResource(rh, dnsmessage.OPTResource{})
		}
	}
	out, e := b.Finish()
	if err != nil || e != nil {
		return nil // a question that came through the parser can be written
	}
	if len(out)-start > limit && len(addrs) > 0 {
		h.Truncated = true
		return build(dst[:start], h, q, nil, edns, limit)
	}
	return out
}
