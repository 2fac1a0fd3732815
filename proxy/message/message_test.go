// SPDX-License-Identifier: Apache-2.0

package message_test

import (
	"strings"
	"testing"

	"redoubt.dev/proxy/message"
)

func TestLookup(t *testing.T) {
	for name, k := range map[string]message.Known{
		"host": message.Host, "content-length": message.ContentLength, "transfer-encoding": message.TransferEncoding, "connection": message.Connection,
		"keep-alive": message.KeepAlive, "proxy-connection": message.ProxyConnection, "te": message.TE, "trailer": message.Trailer, "upgrade": message.Upgrade,
		"expect": message.Expect, "x-forwarded-client-cert": message.ClientCert, "x-forwarded-for": message.ForwardedFor, "authorization": message.Authorization,
		"cookie": message.Cookie, "content-type": message.ContentType, "content-encoding": message.ContentEncoding, "content-range": message.ContentRange,
		"set-cookie": message.SetCookie, "http2-settings": message.HTTP2Settings,
	} {
		for _, n := range []string{name, strings.ToUpper(name), strings.ToUpper(name[:1]) + name[1:]} {
			if got := message.Lookup([]byte(n)); got != k {
				t.Errorf("%s: %d, want %d", n, got, k)
			}
		}
		for _, n := range []string{name + "x", name[1:], "y" + name[1:], strings.Replace(name, "-", "_", 1) + "_"} {
			if got := message.Lookup([]byte(n)); got == k {
				t.Errorf("%q taken for %s", n, name)
			}
		}
	}
	if message.Lookup(nil) != message.Other {
		t.Error("the empty name is known")
	}
}

func TestHead(t *testing.T) {
	var h message.Head
	for range 2 {
		h.Reset()
		h.AddString("X-A", "1")
		h.Add([]byte("x-b"), []byte("2"))
		h.AddString("x-a", "3")
		if v, _ := h.Find("x-a"); string(v) != "1" {
			t.Errorf("first x-a is %q", v)
		}
		h.Set("x-a", []byte("4"))
		if i := h.Index("x-a", 0); i < 0 || string(h.In(h.Fields[i].Value)) != "4" || h.Index("x-a", i+1) >= 0 {
			t.Error("set left more than one, or another")
		}
		h.Remove("x-b")
		if _, ok := h.Find("x-b"); ok {
			t.Error("removed, and still there")
		}
	}
	var a, b message.Head
	a.AddString("cookie", "c")
	b.CopyFields(&a)
	a.Buf[len(a.Buf)-1] = 'x'
	if v, ok := b.Get(message.Cookie); !ok || string(v) != "c" {
		t.Error("a copy shares its memory")
	}
}

func TestNamesAndValues(t *testing.T) {
	for v, ok := range map[string]bool{"": true, "a b": true, "a\tb": true, "\x80": true, " a": false, "a ": false, "a\r": false, "a\x00b": false, "\x7f": false} {
		if message.ValidValue(v) != ok {
			t.Errorf("value %q: %v", v, !ok)
		}
	}
	for n, ok := range map[string]bool{"a": true, "A-b_1!": true, "": false, "a b": false, "a:": false, "ä": false} {
		if message.ValidName(n) != ok {
			t.Errorf("name %q: %v", n, !ok)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	var h message.Head
	n := testing.AllocsPerRun(1000, func() {
		h.Reset()
		h.AddString("content-type", "text/plain")
		h.Set("server", []byte("s"))
		h.RemoveKnown(message.ContentType)
	})
	if n > 0 {
		t.Errorf("%v allocations", n)
	}
}
