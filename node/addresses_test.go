// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"redoubt.dev/api/errs"
)

func TestNext(t *testing.T) {
	p := netip.MustParsePrefix("10.0.0.0/29") // .2 to .6 for use
	taken := map[netip.Addr]bool{}
	last := netip.Addr{}
	for _, want := range []string{"10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"} {
		a, err := next(p, last, taken)
		if err != nil || a.String() != want {
			t.Fatalf("%v, %v; want %s", a, err, want)
		}
		taken[a], last = true, a
	}
	if a, err := next(p, last, taken); !errors.Is(err, errs.Unavailable) {
		t.Errorf("all taken: %v, %v", a, err)
	}
	delete(taken, netip.MustParseAddr("10.0.0.3"))
	if a, err := next(p, last, taken); err != nil || a.String() != "10.0.0.3" {
		t.Errorf("one free: %v, %v", a, err)
	}
	// Not at once again: the one after the last comes first.
	if a, err := next(p, netip.MustParseAddr("10.0.0.4"), nil); err != nil || a.String() != "10.0.0.5" {
		t.Errorf("%v, %v", a, err)
	}
	for _, last := range []string{"10.0.0.6", "10.0.0.7", "10.9.9.9", "10.0.0.0", "::1"} {
		if a, err := next(p, netip.MustParseAddr(last), nil); err != nil || a.String() != "10.0.0.2" && last != "10.0.0.0" || !p.Contains(a) || a == p.Addr() {
			t.Errorf("after %s: %v, %v", last, a, err)
		}
	}
}

func TestServiceAddresses(t *testing.T) {
	p := netip.MustParsePrefix("10.0.0.0/28")
	a := addresses{Services: map[string]netip.Addr{}, NodePorts: map[string]uint16{}}
	seen := map[netip.Addr]string{}
	for i := range 13 {
		name := fmt.Sprint("bank/", i)
		v, err := a.service(p, name)
		if err != nil || seen[v] != "" {
			t.Fatalf("%s: %v (of %q), %v", name, v, seen[v], err)
		}
		seen[v] = name
		if again, err := a.service(p, name); err != nil || again != v {
			t.Errorf("%s moved from %v to %v", name, v, again)
		}
	}
	if _, err := a.service(p, "bank/more"); !errors.Is(err, errs.Unavailable) {
		t.Errorf("more than there are: %v", err)
	}
	a.keep(map[string]bool{"bank/3": true}, nil)
	if len(a.Services) != 1 || !a.Services["bank/3"].IsValid() {
		t.Errorf("kept %v", a.Services)
	}
}

func TestNodePorts(t *testing.T) {
	a := addresses{NodePorts: map[string]uint16{}}
	step := func(name string, want int32, port uint16) {
		t.Helper()
		if got, err := a.nodePort(name, want); err != nil || got != port {
			t.Errorf("%s wants %d: %d, %v; want %d", name, want, got, err, port)
		}
	}
	step("x/a/80", 0, 30000)
	step("x/b/80", 0, 30001)
	step("x/a/80", 0, 30000)
	step("x/a/80", 31000, 31000)
	step("x/c/80", 0, 30000)
	step("x/d/80", 30001, 30001) // b had been given it, and did not ask
	step("x/b/80", 0, 30002)
	step("x/d/80", 0, 30001)
	a.keep(nil, map[string]bool{"x/d/80": true})
	if len(a.NodePorts) != 1 {
		t.Errorf("kept %v", a.NodePorts)
	}
	for i := range lastNodePort - firstNodePort {
		if _, err := a.nodePort(fmt.Sprint(i), 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.nodePort("more", 0); !errors.Is(err, errs.Unavailable) {
		t.Errorf("more than there are: %v", err)
	}
}
