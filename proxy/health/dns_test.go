// SPDX-License-Identifier: Apache-2.0

package health_test

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/health"
)

// zone is a small DNS server.
type zone struct {
	mu    sync.Mutex
	addrs map[string][]string // by name with the final dot; missing: NXDOMAIN, empty: server failure
	conn  net.PacketConn
}

func serveDNS(t *testing.T, addrs map[string][]string) (*zone, *net.Resolver) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{addrs: addrs, conn: conn}
	done := make(chan struct{})
	go func() { defer close(done); z.serve() }()
	t.Cleanup(func() { conn.Close(); <-done })
	return z, &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func (z *zone) set(name string, addrs ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.addrs[name] = addrs
}

func (z *zone) serve() {
	buf := make([]byte, 1500)
	for {
		n, from, err := z.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		q := m.Questions[0]
		r := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionAvailable: true}, Questions: m.Questions}
		z.mu.Lock()
		addrs, ok := z.addrs[strings.ToLower(q.Name.String())]
		z.mu.Unlock()
		switch {
		case !ok:
			r.RCode = dnsmessage.RCodeNameError
		case len(addrs) == 0:
			r.RCode = dnsmessage.RCodeServerFailure
		}
		for _, a := range addrs {
			h := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1}
			switch ip := netip.MustParseAddr(a); {
			case ip.Is4() && q.Type == dnsmessage.TypeA:
				r.Answers = append(r.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: ip.As4()}})
			case ip.Is6() && q.Type == dnsmessage.TypeAAAA:
				r.Answers = append(r.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: ip.As16()}})
			}
		}
		if b, err := r.Pack(); err == nil {
			z.conn.WriteTo(b, from)
		}
	}
}

// follow resolves c until the test ends, and gives what tells of changes.
func follow(t *testing.T, c *config.Cluster, lookup *net.Resolver) (s *balance.Set, changed, failed chan struct{}) {
	t.Helper()
	s, err := balance.New(c, balance.Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	changed, failed = make(chan struct{}, 1), make(chan struct{}, 1)
	tell := func(c chan struct{}) {
		select {
		case c <- struct{}{}:
		default:
		}
	}
	s.Watch(func() { tell(changed) })
	r, err := health.NewResolver(s, lookup, func(string, error) { tell(failed) })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return s, changed, failed
}

func named(hosts ...string) *config.Endpoints {
	l := &config.Locality{}
	for _, h := range hosts {
		l.Hosts = append(l.Hosts, &config.Endpoint{Host: h, Port: 80})
	}
	return &config.Endpoints{Localities: []*config.Locality{l}}
}

func addrs(s *balance.Set) []string {
	var out []string
	for _, h := range s.Members() {
		out = append(out, h.Name)
	}
	slices.Sort(out)
	return out
}

// until waits for the set to have these hosts.
func until(t *testing.T, s *balance.Set, changed chan struct{}, want ...string) {
	t.Helper()
	late := time.After(20 * time.Second)
	for !slices.Equal(addrs(s), want) {
		select {
		case <-changed:
		case <-late:
			t.Fatalf("hosts %v, want %v", addrs(s), want)
		}
	}
}

func TestStrictDNS(t *testing.T) {
	z, lookup := serveDNS(t, map[string][]string{"a.bank.": {"10.0.0.1", "10.0.0.2"}, "b.bank.": {"10.0.1.1"}})
	s, changed, failed := follow(t, &config.Cluster{Discovery: config.StrictDNS, DNSRefresh: time.Millisecond, DNSFamily: "V4_ONLY", Endpoints: named("a.bank", "b.bank")}, lookup)
	until(t, s, changed, "10.0.0.1:80", "10.0.0.2:80", "10.0.1.1:80")
	kept := s.Members()[1]
	z.set("a.bank.", "10.0.0.3", "10.0.0.2")
	until(t, s, changed, "10.0.0.2:80", "10.0.0.3:80", "10.0.1.1:80")
	if kept.Removed() {
		t.Error("an address that stayed is another host now")
	}
	z.set("b.bank.") // its server fails: the last answer counts
	<-failed
	z.set("a.bank.", "10.0.0.3")
	until(t, s, changed, "10.0.0.3:80", "10.0.1.1:80")
}

func TestFamilies(t *testing.T) {
	_, lookup := serveDNS(t, map[string][]string{"both.": {"10.0.0.1", "fd00::1"}, "four.": {"10.0.0.4"}, "six.": {"fd00::6"}})
	for _, c := range []struct {
		family, host string
		want         []string
	}{
		{"V4_ONLY", "both", []string{"10.0.0.1:80"}},
		{"V6_ONLY", "both", []string{"[fd00::1]:80"}},
		{"AUTO", "both", []string{"[fd00::1]:80"}},
		{"", "four", []string{"10.0.0.4:80"}},
		{"V4_PREFERRED", "both", []string{"10.0.0.1:80"}},
		{"V4_PREFERRED", "six", []string{"[fd00::6]:80"}},
		{"ALL", "both", []string{"10.0.0.1:80", "[fd00::1]:80"}},
		{"V4_ONLY", "192.0.2.7", []string{"192.0.2.7:80"}},
	} {
		t.Run(c.family+" "+c.host, func(t *testing.T) {
			host := c.host
			if _, err := netip.ParseAddr(host); err != nil {
				host += "." // rooted: no search list of this machine
			}
			s, changed, _ := follow(t, &config.Cluster{Discovery: config.StrictDNS, DNSFamily: c.family, Endpoints: named(host)}, lookup)
			until(t, s, changed, c.want...)
		})
	}
}

func TestLogicalDNS(t *testing.T) {
	z, lookup := serveDNS(t, map[string][]string{"a.bank.": {"10.0.0.2"}})
	s, changed, _ := follow(t, &config.Cluster{Discovery: config.LogicalDNS, DNSRefresh: time.Millisecond, DNSFamily: "V4_ONLY", Endpoints: named("a.bank")}, lookup)
	until(t, s, changed, "10.0.0.2:80")
	z.set("a.bank.", "10.0.0.1", "10.0.0.2", "10.0.0.3") // still among them
	z.set("a.bank.", "10.0.0.9", "10.0.0.8")
	until(t, s, changed, "10.0.0.8:80")
}

func TestResolverRefuses(t *testing.T) {
	for _, c := range []config.Cluster{
		{Discovery: config.LogicalDNS, Endpoints: named("a", "b")},
		{Discovery: config.StrictDNS, DNSFamily: "V5", Endpoints: named("a")},
	} {
		s, err := balance.New(&c, balance.Options{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := health.NewResolver(s, nil, nil); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}
