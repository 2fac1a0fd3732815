// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/wire"
)

func snapshot() *wire.Snapshot {
	key := wire.SVID{ID: "spiffe://bank.example/ns/a/sa/b", Chain: [][]byte{{1}}, Key: wire.Secret("hunter2")}
	return &wire.Snapshot{Version: 7, TrustDomain: "bank.example", Roots: [][]byte{{1}},
		Pods:     []wire.Pod{{UID: "u", Addr: netip.MustParseAddr("10.0.0.1"), SVID: key, Inbound: wire.Authz{Ports: map[uint16]string{80: wire.MTLSStrict}}}},
		Gateways: []wire.Gateway{{Listen: netip.MustParseAddrPort("127.0.0.1:80"), SVID: key}}}
}

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	sent := []*wire.Frame{{Snapshot: snapshot()}, {Ack: &wire.Ack{Version: 7, Error: "no"}}, {}}
	for _, f := range sent {
		if err := wire.WriteFrame(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	r := iotest.OneByteReader(&b)
	for _, want := range sent {
		got, err := wire.ReadFrame(r)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
	if _, err := wire.ReadFrame(r); err != io.EOF {
		t.Errorf("at the end: %v, want io.EOF", err)
	}
}

func TestReadFrameRefuses(t *testing.T) {
	head := func(n uint32, body string) io.Reader {
		return strings.NewReader(string(binary.BigEndian.AppendUint32(nil, n)) + body)
	}
	for _, c := range []struct {
		name string
		r    io.Reader
		want error
	}{
		{"cut in the length", strings.NewReader("\x00\x00"), io.ErrUnexpectedEOF},
		{"cut before the body", head(5, ""), io.ErrUnexpectedEOF},
		{"cut in the body", head(5, "{}"), io.ErrUnexpectedEOF},
		{"a lie about a huge body costs nothing", head(wire.MaxFrame, "{}"), io.ErrUnexpectedEOF},
		{"above the bound", head(wire.MaxFrame+1, ""), errs.TooLarge},
		{"no JSON", head(2, "xx"), errs.Invalid},
		{"another type", head(2, "[]"), errs.Invalid},
		{"a failing reader", io.MultiReader(head(9, "{}"), iotest.ErrReader(os.ErrDeadlineExceeded)), os.ErrDeadlineExceeded},
	} {
		if f, err := wire.ReadFrame(c.r); !errors.Is(err, c.want) || f != nil {
			t.Errorf("%s: %v, %v; want %v", c.name, f, err, c.want)
		}
	}
}

func TestReadFrameBoundsMemory(t *testing.T) {
	lie := binary.BigEndian.AppendUint32(nil, wire.MaxFrame)
	if got := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			_, _ = wire.ReadFrame(bytes.NewReader(lie))
		}
	}).AllocedBytesPerOp(); got > 64<<10 {
		t.Errorf("four bytes cost %d", got)
	}
}

// No way of printing or logging shows a key.
func TestSecretsDoNotPrint(t *testing.T) {
	const key = "hunter2"
	leaks := []string{key, fmt.Sprintf("%x", key), fmt.Sprintf("%X", key), fmt.Sprint([]byte(key)), "aHVudGVyMg"}
	check := func(how, out string) {
		t.Helper()
		for _, l := range leaks {
			if strings.Contains(out, l) {
				t.Errorf("%s shows the key: %s", how, out)
			}
		}
	}
	s := snapshot()
	values := map[string]any{"secret": wire.Secret(key), "svid": s.Pods[0].SVID, "pod": s.Pods[0], "gateway": s.Gateways[0], "snapshot": *s, "pointer": s, "frame": wire.Frame{Snapshot: s}, "frame pointer": &wire.Frame{Snapshot: s}}
	for name, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%c", "%U", "%08b"} {
			check(name+" "+verb, fmt.Sprintf(verb, v))
		}
		var b bytes.Buffer
		slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "v", v)
		slog.New(slog.NewTextHandler(&b, nil)).Info("x", "v", v)
		check(name+" in a log", b.String())
	}
	check("an error", fmt.Errorf("key %v: %w", wire.Secret(key), io.EOF).Error())
}

func FuzzReadFrame(f *testing.F) {
	var b bytes.Buffer
	_ = wire.WriteFrame(&b, &wire.Frame{Snapshot: snapshot()})
	f.Add(b.Bytes())
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Add([]byte{4, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := wire.ReadFrame(bytes.NewReader(in))
		if (err == nil) == (got == nil) {
			t.Fatalf("%v, %v", got, err)
		}
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := wire.WriteFrame(&out, got); err != nil {
			t.Fatalf("write again: %v", err)
		}
		if again, err := wire.ReadFrame(&out); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%+v came back as %+v, %v", got, again, err)
		}
	})
}
