// SPDX-License-Identifier: Apache-2.0

package authz_test

import (
	"bytes"
	"errors"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"testing"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/wire"
	"redoubt.dev/proxy/authz"
)

const shop = "spiffe://bank.example/ns/shop/sa/web"

func in(change ...func(*authz.Input)) authz.Input {
	i := authz.Input{Peer: shop, Addr: netip.MustParseAddr("10.0.0.7"), Port: 8080, HTTP: true,
		Method: []byte("GET"), Path: []byte("/accounts/1"), Host: []byte("Ledger.bank:8080")}
	for _, f := range change {
		f(&i)
	}
	return i
}

func rule(name string, s wire.Source, o wire.Operation) wire.Rule {
	return wire.Rule{Policy: name, From: []wire.Source{s}, To: []wire.Operation{o}}
}

func prefixes(ss ...string) (out []netip.Prefix) {
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestDecide(t *testing.T) {
	all := wire.Rule{Policy: "ns/all"}
	unnamed := func(i *authz.Input) { i.Peer = "" }
	opaque := func(i *authz.Input) { i.HTTP, i.Method, i.Path, i.Host = false, nil, nil, nil }
	for name, c := range map[string]struct {
		a      wire.Authz
		in     authz.Input
		permit bool
		rule   string
	}{
		"nothing allows":               {wire.Authz{}, in(), false, ""},
		"empty rule allows all":        {wire.Authz{Allow: []wire.Rule{all}}, in(), true, "ns/all[0]"},
		"deny first":                   {wire.Authz{Deny: []wire.Rule{all}, Allow: []wire.Rule{all}}, in(), false, "ns/all[0]"},
		"principal":                    {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{Principals: []string{"bank.example/ns/shop/sa/web"}}, wire.Operation{})}}, in(), true, "a[0]"},
		"principal of another":         {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{Principals: []string{"bank.example/ns/shop/sa/we"}}, wire.Operation{})}}, in(), false, ""},
		"principal prefix":             {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{Principals: []string{"bank.example/ns/shop/*"}}, wire.Operation{})}}, in(), true, "a[0]"},
		"principal suffix":             {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{Principals: []string{"*/sa/web"}}, wire.Operation{})}}, in(), true, "a[0]"},
		"any principal":                {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{Principals: []string{"*"}}, wire.Operation{})}}, in(), true, "a[0]"},
		"any principal, unnamed":       {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{Principals: []string{"*"}}, wire.Operation{})}}, in(unnamed), false, ""},
		"not principal, unnamed deny":  {wire.Authz{Allow: []wire.Rule{all}, Deny: []wire.Rule{rule("d", wire.Source{NotPrincipals: []string{"*"}}, wire.Operation{})}}, in(unnamed), false, "d[0]"},
		"not principal":                {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{NotPrincipals: []string{"*/sa/web"}}, wire.Operation{})}}, in(), false, ""},
		"namespace":                    {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{Namespaces: []string{"shop"}}, wire.Operation{})}}, in(), true, "a[0]"},
		"namespace of another":         {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{Namespaces: []string{"sho"}}, wire.Operation{})}}, in(), false, ""},
		"namespace, unnamed":           {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{Namespaces: []string{"*"}}, wire.Operation{})}}, in(unnamed), false, ""},
		"namespace in a longer path":   {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{Namespaces: []string{"shop"}}, wire.Operation{})}}, in(func(i *authz.Input) { i.Peer = "spiffe://bank.example/ns/shop/sa/web/x" }), false, ""},
		"address":                      {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{IPBlocks: prefixes("10.0.0.0/24")}, wire.Operation{})}}, in(unnamed), true, "a[0]"},
		"address outside":              {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{IPBlocks: prefixes("10.1.0.0/24")}, wire.Operation{})}}, in(), false, ""},
		"address excepted":             {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{NotIPBlocks: prefixes("10.0.0.7/32")}, wire.Operation{})}}, in(), false, ""},
		"all lists of a source":        {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{Namespaces: []string{"shop"}, IPBlocks: prefixes("10.1.0.0/24")}, wire.Operation{})}}, in(), false, ""},
		"one of two sources":           {wire.Authz{Allow: []wire.Rule{{Policy: "a", From: []wire.Source{{Namespaces: []string{"x"}}, {Namespaces: []string{"shop"}}}}}}, in(), true, "a[0]"},
		"port":                         {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{}, wire.Operation{Ports: []uint16{8080}})}}, in(), true, "a[0]"},
		"other port":                   {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{}, wire.Operation{Ports: []uint16{80}})}}, in(), false, ""},
		"not port":                     {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{}, wire.Operation{NotPorts: []uint16{8080}})}}, in(), false, ""},
		"method and path":              {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{}, wire.Operation{Methods: []string{"GET"}, Paths: []string{"/accounts/*"}})}}, in(), true, "a[0]"},
		"method is case sensitive":     {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{}, wire.Operation{Methods: []string{"get"}})}}, in(), false, ""},
		"other path":                   {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{}, wire.Operation{Paths: []string{"/accounts"}})}}, in(), false, ""},
		"path suffix":                  {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{}, wire.Operation{Paths: []string{"*/1"}})}}, in(), true, "a[0]"},
		"not path":                     {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{}, wire.Operation{NotPaths: []string{"/accounts/*"}})}}, in(), false, ""},
		"host without its port":        {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{}, wire.Operation{Hosts: []string{"ledger.BANK"}})}}, in(), true, "a[0]"},
		"host with its port":           {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{}, wire.Operation{Hosts: []string{"ledger.bank:8080"}})}}, in(), true, "a[0]"},
		"host with another port":       {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{}, wire.Operation{Hosts: []string{"ledger.bank:80"}})}}, in(), false, ""},
		"denied host in capitals":      {wire.Authz{Allow: []wire.Rule{all}, Deny: []wire.Rule{rule("d", wire.Source{}, wire.Operation{Hosts: []string{"ledger.bank"}})}}, in(), false, "d[0]"},
		"opaque meets allow on path":   {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{}, wire.Operation{Paths: []string{"*"}})}}, in(opaque), false, ""},
		"opaque meets allow not path":  {wire.Authz{Allow: []wire.Rule{rule("a", wire.Source{}, wire.Operation{NotPaths: []string{"/x"}})}}, in(opaque), false, ""},
		"opaque meets deny on path":    {wire.Authz{Allow: []wire.Rule{all}, Deny: []wire.Rule{rule("d", wire.Source{}, wire.Operation{Paths: []string{"/x"}})}}, in(opaque), false, "d[0]"},
		"opaque, deny on another port": {wire.Authz{Allow: []wire.Rule{all}, Deny: []wire.Rule{rule("d", wire.Source{}, wire.Operation{Ports: []uint16{80}, Paths: []string{"/x"}})}}, in(opaque), true, "ns/all[0]"},
		"network keeps out":            {wire.Authz{Allow: []wire.Rule{all}, Network: wire.Network{Isolated: true}}, in(), false, ""},
		"network lets in":              {wire.Authz{Allow: []wire.Rule{all}, Network: wire.Network{Isolated: true, Rules: []wire.NetRule{{Peers: prefixes("10.0.0.0/8"), Ports: []wire.PortRange{{First: 8000, Last: 9000}}}}}}, in(), true, "ns/all[0]"},
		"network excepts":              {wire.Authz{Allow: []wire.Rule{all}, Network: wire.Network{Isolated: true, Rules: []wire.NetRule{{Peers: prefixes("10.0.0.0/8"), Except: prefixes("10.0.0.7/32")}}}}, in(), false, ""},
		"network, other port":          {wire.Authz{Allow: []wire.Rule{all}, Network: wire.Network{Isolated: true, Rules: []wire.NetRule{{Ports: []wire.PortRange{{First: 80, Last: 80}}}}}}, in(), false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := authz.Compile(&c.a)
			if err != nil {
				t.Fatal(err)
			}
			permit, d := p.Decide(&c.in)
			if permit.Valid() != c.permit || (d == nil) != c.permit {
				t.Fatalf("permit %v, denied %v", permit.Valid(), d)
			}
			got := permit.Rule()
			if d != nil {
				got = d.Rule
				if !errors.Is(d, errs.Denied) || d.Reason == "" {
					t.Errorf("denied without kind or reason: %v", d)
				}
			}
			if got != c.rule {
				t.Errorf("rule %q, want %q", got, c.rule)
			}
		})
	}
}

// TestConnect: a connection is refused exactly when no request on it could
// pass.
func TestConnect(t *testing.T) {
	p, err := authz.Compile(&wire.Authz{
		Deny:  []wire.Rule{rule("d", wire.Source{}, wire.Operation{Paths: []string{"/admin"}}), rule("e", wire.Source{Namespaces: []string{"evil"}}, wire.Operation{})},
		Allow: []wire.Rule{rule("a", wire.Source{Namespaces: []string{"shop", "evil"}}, wire.Operation{Paths: []string{"/accounts/*"}})},
	})
	if err != nil {
		t.Fatal(err)
	}
	for peer, ok := range map[string]bool{shop: true, "spiffe://bank.example/ns/evil/sa/web": false, "spiffe://bank.example/ns/other/sa/web": false, "": false} {
		i := in(func(i *authz.Input) { i.Peer, i.HTTP = peer, false })
		if permit, _ := p.Connect(&i); permit.Valid() != ok {
			t.Errorf("%q: %v", peer, permit.Valid())
		}
	}
	if (authz.Permit{}).Valid() {
		t.Error("the zero permit is valid")
	}
	if !p.Paths() {
		t.Error("rules look at paths")
	}
}

func TestCompileRefuses(t *testing.T) {
	for name, a := range map[string]wire.Authz{
		"zero prefix":       {Allow: []wire.Rule{{From: []wire.Source{{IPBlocks: []netip.Prefix{{}}}}}}},
		"zero network peer": {Network: wire.Network{Rules: []wire.NetRule{{Peers: []netip.Prefix{{}}}}}},
		"ports reversed":    {Network: wire.Network{Rules: []wire.NetRule{{Ports: []wire.PortRange{{First: 2, Last: 1}}}}}},
	} {
		if _, err := authz.Compile(&a); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestDecideDoesNotAllocate(t *testing.T) {
	p, err := authz.Compile(&wire.Authz{
		Deny:    []wire.Rule{rule("d", wire.Source{Principals: []string{"x/*"}}, wire.Operation{Hosts: []string{"*.x"}})},
		Allow:   []wire.Rule{rule("a", wire.Source{Namespaces: []string{"shop"}, IPBlocks: prefixes("10.0.0.0/8")}, wire.Operation{Methods: []string{"GET"}, Paths: []string{"/accounts/*"}, Hosts: []string{"ledger.bank"}})},
		Network: wire.Network{Isolated: true, Rules: []wire.NetRule{{Peers: prefixes("10.0.0.0/8")}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	i := in()
	if n := testing.AllocsPerRun(100, func() {
		if permit, _ := p.Decide(&i); !permit.Valid() {
			t.Fatal("denied")
		}
	}); n != 0 {
		t.Errorf("%v allocations per decision", n)
	}
}

func TestNormalise(t *testing.T) {
	for target, want := range map[string]string{
		"/":               "/",
		"/a":              "/a",
		"/a/b?c=/../d":    "/a/b",
		"//a///b/":        "/a/b/",
		"/a/./b":          "/a/b",
		"/a/../b":         "/b",
		"/a/b/..":         "/a/",
		"/a/b/../":        "/a/",
		"/a/b/.":          "/a/b/",
		"/a//../b":        "/b",
		"/%61dmin":        "/admin",
		"/a%2e%2e/b":      "/a../b",
		"/a/%2e%2E/b":     "/b",
		"/a/.%2e/b":       "/b",
		"/%7euser":        "/~user",
		"/a%20b":          "/a%20b",
		"/a%c3%a9":        "/a%C3%A9",
		"/a;b=c/d":        "/a;b=c/d",
		"/.hidden":        "/.hidden",
		"/...":            "/...",
		"/a%252fb":        "/a%252fb",
		"/x/..a":          "/x/..a",
		"*":               "*",
		"/a%2fb":          "",
		"/a%5cb":          "",
		`/a\b`:            "",
		"/a%00":           "",
		"/a%":             "",
		"/a%4":            "",
		"/a%zz":           "",
		"/..":             "",
		"/../a":           "",
		"/a/../../b":      "",
		"/%2e%2e/a":       "",
		"/a/..;/b":        "",
		"/a/.;x/b":        "",
		"/a\x80":          "",
		"a":               "",
		"":                "",
		"?x":              "",
		"/public/..;/x":   "",
		"/a/%2e%2e%3bb/c": "",
	} {
		p, _, ok := authz.Normalise(nil, []byte(target))
		if ok != (want != "") || ok && string(p) != want {
			t.Errorf("%q: %q %v, want %q", target, p, ok, want)
		}
	}
	if _, q, _ := authz.Normalise(nil, []byte("/a?b?c")); string(q) != "?b?c" {
		t.Errorf("query %q", q)
	}
}

// FuzzNormalise: the normal form is its own normal form, keeps what the path
// package makes of the decoded path, and holds nothing ambiguous.
func FuzzNormalise(f *testing.F) {
	for _, s := range []string{"/a/b", "/a/../b", "/%2e/x", "//", "/a//.//..//b", "/a%20b?x=y"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, target []byte) {
		p, q, ok := authz.Normalise([]byte("kept"), target)
		if !ok {
			return
		}
		p = p[len("kept"):]
		again, _, ok := authz.Normalise(nil, p)
		if !ok || !bytes.Equal(again, p) {
			t.Fatalf("%q → %q → %q %v", target, p, again, ok)
		}
		if string(p) == "*" {
			return
		}
		raw := string(target[:len(target)-len(q)])
		dec, err := url.PathUnescape(raw)
		if err != nil {
			t.Fatalf("%q was taken: %v", target, err)
		}
		got, err := url.PathUnescape(string(p))
		if err != nil {
			t.Fatalf("%q: %v", p, err)
		}
		want := path.Clean(dec)
		if strings.TrimSuffix(got, "/") != strings.TrimSuffix(want, "/") {
			t.Fatalf("%q: %q, path.Clean %q", target, got, want)
		}
	})
}
