// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"redoubt.dev/proxy/handover/wire"
)

func TestRoundTrip(t *testing.T) {
	var w wire.Writer
	at, now := netip.MustParseAddrPort("[::1]:80"), time.Unix(1700000000, 0)
	w.U8(1)
	w.Bool(true)
	w.U32(2)
	w.I64(-3)
	w.Bytes([]byte("four"))
	w.Strings([]string{"five", ""})
	w.Addr(at)
	w.Addr(netip.AddrPort{})
	w.IP(at.Addr())
	w.Wall(now)
	w.Wall(time.Time{})
	hole := w.Hole()
	w.String("six")
	w.Fill(hole)
	r := wire.NewReader(w.B)
	if r.U8() != 1 || !r.Bool() || r.U32() != 2 || r.I64() != -3 || string(r.Bytes()) != "four" || !slices.Equal(r.Strings(), []string{"five", ""}) ||
		r.Addr() != at || r.Addr().IsValid() || r.IP() != at.Addr() || !r.Wall().Equal(now) || !r.Wall().IsZero() {
		t.Error("other values")
	}
	p := r.Part()
	if p.String() != "six" || p.Done() != nil || r.Done() != nil {
		t.Error(p.Err(), r.Err())
	}
	for n := range w.B { // cut anywhere
		r := wire.NewReader(w.B[:n])
		r.U8()
		r.Bool()
		r.U32()
		r.I64()
		r.Bytes()
		r.Strings()
		r.Addr()
		r.Addr()
		r.IP()
		r.Wall()
		r.Wall()
		r.Part()
		if r.Done() == nil {
			t.Errorf("cut at %d was not seen", n)
		}
	}
}

func TestFaults(t *testing.T) {
	for name, f := range map[string]func(r *wire.Reader){
		"flag":   func(r *wire.Reader) { r.Bool() },
		"count":  func(r *wire.Reader) { r.Count(4) },
		"length": func(r *wire.Reader) { r.Bytes() },
		"range":  func(r *wire.Reader) { r.Span("x", 10) },
		"rest":   func(r *wire.Reader) { r.U8() },
	} {
		r := wire.NewReader(bytes.Repeat([]byte{7}, 12))
		f(r)
		if r.Done() == nil {
			t.Errorf("%s was not seen", name)
		}
		if r.U64() != 0 {
			t.Errorf("%s: a value after the fault", name)
		}
	}
}
