// SPDX-License-Identifier: Apache-2.0

package dns_test

import (
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"redoubt.dev/api/wire"
	"redoubt.dev/proxy/dns"
)

func zone(pods int) *dns.Zone {
	ip := netip.MustParseAddr
	var many []wire.Backend
	for i := range pods {
		many = append(many, wire.Backend{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)}), 80)})
	}
	return dns.NewZone([]wire.Service{
		{Namespace: "bank", Name: "ledger", VIP: ip("10.96.0.1"), Ports: []wire.ServicePort{{Port: 80}}},
		{Namespace: "bank", Name: "db", Ports: []wire.ServicePort{{Port: 5432, Endpoints: []wire.Backend{{Addr: netip.MustParseAddrPort("10.1.0.1:5432")}, {Addr: netip.MustParseAddrPort("10.1.0.2:5432")}}}},
			Hosts: []wire.HostAddr{{Host: "db-0", Addr: ip("10.1.0.1")}, {Host: "db-1", Addr: ip("10.1.0.2")}}},
		{Namespace: "bank", Name: "none"},
		{Namespace: "bank", Name: "many", Ports: []wire.ServicePort{{Port: 80, Endpoints: many}}},
	})
}

func query(t testing.TB, name string, typ dnsmessage.Type, edns int) []byte {
	t.Helper()
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 7, RecursionDesired: true})
	b.StartQuestions()
	if err := b.Question(dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}); err != nil {
		t.Fatal(err)
	}
	if edns > 0 {
		b.StartAdditionals()
		var h dnsmessage.ResourceHeader
		h.SetEDNS0(edns, 0, false)
		b.OPTResource(h, dnsmessage.OPTResource{})
	}
	q, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestAnswers(t *testing.T) {
	z := zone(0)
	for _, c := range []struct {
		name  string
		typ   dnsmessage.Type
		code  dnsmessage.RCode
		addrs string
	}{
		{"ledger.bank.svc.cluster.local.", dnsmessage.TypeA, 0, "[10.96.0.1]"},
		{"LEDGER.Bank.svc.cluster.local.", dnsmessage.TypeA, 0, "[10.96.0.1]"},
		{"ledger.bank.svc.cluster.local.", dnsmessage.TypeAAAA, 0, "[]"},
		{"ledger.bank.svc.cluster.local.", dnsmessage.TypeMX, 0, "[]"},
		{"db.bank.svc.cluster.local.", dnsmessage.TypeA, 0, "[10.1.0.1 10.1.0.2]"},
		{"db-1.db.bank.svc.cluster.local.", dnsmessage.TypeA, 0, "[10.1.0.2]"},
		{"db-2.db.bank.svc.cluster.local.", dnsmessage.TypeA, dnsmessage.RCodeNameError, "[]"},
		{"none.bank.svc.cluster.local.", dnsmessage.TypeA, 0, "[]"},
		{"bank.svc.cluster.local.", dnsmessage.TypeA, 0, "[]"},
		{"svc.cluster.local.", dnsmessage.TypeA, 0, "[]"},
		{"ledger.shop.svc.cluster.local.", dnsmessage.TypeA, dnsmessage.RCodeNameError, "[]"},
		{"example.com.bank.svc.cluster.local.", dnsmessage.TypeA, dnsmessage.RCodeNameError, "[]"},
		{"example.com.", dnsmessage.TypeA, dnsmessage.RCodeRefused, "[]"},
		{"evilcluster.local.", dnsmessage.TypeA, dnsmessage.RCodeRefused, "[]"},
		{"ledger.", dnsmessage.TypeA, dnsmessage.RCodeRefused, "[]"},
		{"1.0.0.10.in-addr.arpa.", dnsmessage.TypePTR, dnsmessage.RCodeNameError, "[]"},
	} {
		t.Run(c.name+c.typ.String(), func(t *testing.T) {
			var m dnsmessage.Message
			if err := m.Unpack(z.Answer(nil, query(t, c.name, c.typ, 0), false)); err != nil {
				t.Fatal(err)
			}
			got := []netip.Addr{}
			for _, r := range m.Answers {
				got = append(got, netip.AddrFrom4(r.Body.(*dnsmessage.AResource).A))
			}
			if m.ID != 7 || !m.Response || m.RCode != c.code || fmt.Sprint(got) != c.addrs || len(m.Questions) != 1 {
				t.Fatalf("got %v %v", m.RCode, got)
			}
		})
	}
}

func TestSizes(t *testing.T) {
	z := zone(200)
	for _, c := range []struct {
		edns, limit int
		stream      bool
	}{{0, 512, false}, {4096, 1232, false}, {0, 65535, true}} {
		out := z.Answer(nil, query(t, "many.bank.svc.cluster.local.", dnsmessage.TypeA, c.edns), c.stream)
		var m dnsmessage.Message
		if err := m.Unpack(out); err != nil {
			t.Fatal(err)
		}
		if len(out) > c.limit || m.Truncated == c.stream || c.stream && len(m.Answers) != 200 {
			t.Errorf("edns %d stream %v: %d bytes, truncated %v, %d answers", c.edns, c.stream, len(out), m.Truncated, len(m.Answers))
		}
		if (c.edns > 0) != (len(m.Additionals) == 1) {
			t.Errorf("edns %d: %d additional records", c.edns, len(m.Additionals))
		}
	}
}

func TestOddQueries(t *testing.T) {
	z := zone(0)
	q := query(t, "ledger.bank.svc.cluster.local.", dnsmessage.TypeA, 0)
	response := append([]byte(nil), q...)
	response[2] |= 0x80
	if z.Answer(nil, response, false) != nil {
		t.Error("a response was answered")
	}
	if z.Answer(nil, q[:5], false) != nil {
		t.Error("half a header was answered")
	}
	update := append([]byte(nil), q...)
	update[2] |= 5 << 3
	var m dnsmessage.Message
	if err := m.Unpack(z.Answer(nil, update, false)); err != nil || m.RCode != dnsmessage.RCodeNotImplemented {
		t.Errorf("update: %v %v", m.RCode, err)
	}
	two := append(append([]byte(nil), q...), q[12:]...)
	two[5] = 2
	if err := m.Unpack(z.Answer(nil, two, false)); err != nil || m.RCode != dnsmessage.RCodeFormatError {
		t.Errorf("two questions: %v %v", m.RCode, err)
	}
}

// FuzzAnswer: no answer without a question, none larger than allowed.
func FuzzAnswer(f *testing.F) {
	z := zone(100)
	f.Add(query(f, "many.bank.svc.cluster.local.", dnsmessage.TypeA, 4096))
	f.Add(query(f, "x.", dnsmessage.TypeALL, 0))
	f.Fuzz(func(t *testing.T, q []byte) {
		out := z.Answer(nil, q, false)
		if len(out) == 0 {
			return
		}
		if len(out) > 1232 {
			t.Fatalf("%d bytes", len(out))
		}
		var m dnsmessage.Message
		if err := m.Unpack(out); err != nil || !m.Response {
			t.Fatalf("%v", err)
		}
	})
}
