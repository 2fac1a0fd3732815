// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
)

func TestHeaderListTooLarge(t *testing.T) {
	r := newRaw(t, Server, Options{MaxList: 4096})
	r.headers(1, true, append(append([]string{}, plainGet...), "x", strings.Repeat("v", 4000))...)
	r.ok()
	if a := r.answers(); !strings.HasPrefix(a, "headers 1 :status=431") || r.o.refused != 1 {
		t.Fatal(a, r.o.log.String())
	}
	// With a body: refused, the rest of it let pass.
	r.headers(3, false, request("/", "x", strings.Repeat("v", 5000))...)
	r.fr.WriteData(3, false, make([]byte, 3000))
	r.ok()
	r.alive(5)
}

// TestDiscardKeepsNothing: heads that are decoded for nobody leave no memory.
func TestDiscardKeepsNothing(t *testing.T) {
	r := newRaw(t, Server, Options{MaxStreams: 1})
	r.headers(1, false, request("/hold")...)
	for i := range 3 {
		id := uint32(2*i + 3)
		b := r.encode(request("/", "x", strings.Repeat("v", 40_000))...)
		r.fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: b[:16000], EndStream: true})
		r.fr.WriteContinuation(id, false, b[16000:20000])
		r.fr.WriteContinuation(id, true, b[20000:])
	}
	r.ok()
	if a := r.answers(); strings.Count(a, "REFUSED_STREAM") != 3 {
		t.Error(a)
	}
	if n := cap(r.o.c.void.Buf) + cap(r.o.c.block.buf); n > 2*keepBlock {
		t.Errorf("%d bytes are kept", n)
	}
}

func TestFieldCount(t *testing.T) {
	r := newRaw(t, Server, Options{MaxFields: 10})
	kv := append([]string{}, plainGet...)
	for i := range 11 {
		kv = append(kv, fmt.Sprintf("x%d", i), "")
	}
	r.headers(1, true, kv[:len(kv)-2]...)
	r.headers(3, true, kv...)
	r.ok()
	if a := r.answers(); !strings.Contains(a, "headers 1 :status=200") || !strings.Contains(a, "headers 3 :status=431") {
		t.Fatal(a)
	}
}

func TestBombIsRefused(t *testing.T) {
	r := newRaw(t, Server, Options{})
	b := append([]byte{}, r.encode(append(append([]string{}, plainGet...), "x", strings.Repeat("v", 3900))...)...)
	b = append(b, bytes.Repeat([]byte{0xbe}, 10000)...)
	r.fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: b, EndStream: true, EndHeaders: true})
	r.ok()
	if a := r.answers(); !strings.HasPrefix(a, "headers 1 :status=431") {
		t.Fatal(a)
	}
	if n := cap(r.o.c.void.Buf); n > keepBlock {
		t.Errorf("%d bytes are held", n)
	}
	r.alive(3)
}

func TestContinuationFlood_CVE_2024_27316(t *testing.T) {
	t.Run("bytes", func(t *testing.T) {
		r := newRaw(t, Server, Options{})
		r.fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: r.encode(plainGet...)})
		piece := bytes.Repeat([]byte{0, 1, 'x', 1, 'y'}, 3200)
		f, n := r.until(1000, func(int) { r.fr.WriteContinuation(1, false, piece) })
		if n > 9 {
			t.Errorf("%d frames", n)
		}
		r.dies(f, EnhanceYourCalm)
	})
	t.Run("empty frames", func(t *testing.T) {
		r := newRaw(t, Server, Options{})
		r.fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: r.encode(plainGet...)})
		r.ok()
		if !r.o.c.Halfway() {
			t.Error("does not tell that a block is held back")
		}
		f, n := r.until(1000, func(int) { r.fr.WriteContinuation(1, false, nil) })
		if n != maxContinuations {
			t.Errorf("%d frames", n)
		}
		r.dies(f, EnhanceYourCalm)
	})
}

func TestRapidReset_CVE_2023_44487(t *testing.T) {
	r := newRaw(t, Server, Options{})
	f, n := r.until(100000, func(i int) {
		r.headers(uint32(2*i+1), true, request("/hold")...)
		r.fr.WriteRSTStream(uint32(2*i+1), xhttp2.ErrCodeCancel)
	})
	if n != 200 {
		t.Errorf("%d resets", n)
	}
	r.dies(f, EnhanceYourCalm)
}

// TestResetsOfAnsweredStreams: to end a stream that was answered is normal.
func TestResetsOfAnsweredStreams(t *testing.T) {
	r := newRaw(t, Server, Options{})
	f, _ := r.until(3000, func(i int) {
		r.headers(uint32(2*i+1), false, request("/echo")...)
		r.fr.WriteRSTStream(uint32(2*i+1), xhttp2.ErrCodeCancel)
	})
	if f != nil {
		t.Fatal(f)
	}
}

func TestMadeYouReset_CVE_2025_8671(t *testing.T) {
	for name, provoke := range map[string]func(r *raw, id uint32){
		"window update of 0": func(r *raw, id uint32) {
			r.headers(id, true, request("/hold")...)
			r.fr.WriteWindowUpdate(id, 0)
		},
		"window overflow": func(r *raw, id uint32) {
			r.headers(id, true, request("/hold")...)
			r.fr.WriteWindowUpdate(id, maxWindow)
		},
		"data after the end": func(r *raw, id uint32) {
			r.headers(id, true, request("/hold")...)
			r.fr.WriteData(id, true, []byte("x"))
		},
		"headers after the end": func(r *raw, id uint32) {
			r.headers(id, true, request("/hold")...)
			r.headers(id, true, "x", "y")
		},
		"length mismatch": func(r *raw, id uint32) {
			r.headers(id, false, request("/hold", "content-length", "3")...)
			r.fr.WriteData(id, true, []byte("x"))
		},
		"priority of the wrong size": func(r *raw, id uint32) {
			r.headers(id, true, request("/hold")...)
			r.fr.WriteRawFrame(xhttp2.FramePriority, 0, id, []byte("x"))
		},
		"malformed request": func(r *raw, id uint32) { r.headers(id, true, request("nopath")...) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRaw(t, Server, Options{})
			f, n := r.until(100000, func(i int) { provoke(r, uint32(2*i+1)) })
			if n != 200 {
				t.Errorf("%d resets", n)
			}
			r.dies(f, EnhanceYourCalm)
		})
	}
	t.Run("too many streams", func(t *testing.T) {
		r := newRaw(t, Server, Options{MaxStreams: 3})
		f, n := r.until(100000, func(i int) { r.headers(uint32(2*i+1), true, request("/hold")...) })
		if n != 203 {
			t.Errorf("%d streams", n)
		}
		r.dies(f, EnhanceYourCalm)
	})
}

func TestFloods(t *testing.T) {
	for name, frame := range map[string]func(r *raw){
		"ping":                 func(r *raw) { r.fr.WritePing(false, [8]byte{}) },
		"ping ack":             func(r *raw) { r.fr.WritePing(true, [8]byte{}) },
		"settings":             func(r *raw) { r.fr.WriteSettings() },
		"settings of 60":       func(r *raw) { r.fr.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingHeaderTableSize}) },
		"priority":             func(r *raw) { r.fr.WritePriority(7, xhttp2.PriorityParam{}) },
		"priority update":      func(r *raw) { r.fr.WriteRawFrame(framePriorityUpdate, 0, 0, []byte("\x00\x00\x00\x01u=1")) },
		"unknown":              func(r *raw) { r.fr.WriteRawFrame(99, 0, 0, nil) },
		"empty data":           func(r *raw) { r.fr.WriteData(1, false, nil) },
		"padding only":         func(r *raw) { r.fr.WriteDataPadded(1, false, nil, make([]byte, 9)) },
		"connection window":    func(r *raw) { r.fr.WriteWindowUpdate(0, 1) },
		"stream window":        func(r *raw) { r.fr.WriteWindowUpdate(1, 1) },
		"window of the gone":   func(r *raw) { r.fr.WriteWindowUpdate(3, 1) },
		"reset of the gone":    func(r *raw) { r.fr.WriteRSTStream(3, 0) },
		"goaway":               func(r *raw) { r.fr.WriteGoAway(0, 0, nil) },
		"headers of the gone":  func(r *raw) { r.headers(3, true, "x", "y") },
		"data of the gone":     func(r *raw) { r.fr.WriteData(3, false, []byte("x")) },
		"empty data, the gone": func(r *raw) { r.fr.WriteData(3, false, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRaw(t, Server, Options{})
			r.headers(1, false, request("/hold")...)
			r.headers(3, false, request("/hold")...)
			r.ok()
			r.o.c.ResetStream(r.o.held[1].s, Cancel)
			f, n := r.until(100000, func(int) { frame(r) })
			if n > 1003 {
				t.Errorf("%d frames", n)
			}
			r.dies(f, EnhanceYourCalm)
		})
	}
}

// TestTimeForgives: a keep-alive PING a second for a day is no flood.
func TestTimeForgives(t *testing.T) {
	r := newRaw(t, Server, Options{MaxIdle: 100})
	f, _ := r.until(86400, func(int) {
		r.o.c.Elapse(999 * time.Millisecond)
		r.fr.WritePing(false, [8]byte{})
	})
	if f != nil {
		t.Fatal(f)
	}
}

// TestDribble_CVE_2019_9511: windows opened byte by byte do not pay for
// themselves.
func TestDribble_CVE_2019_9511(t *testing.T) {
	r := newRaw(t, Server, Options{})
	r.fr.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 0})
	r.headers(1, true, request("/hold")...)
	r.ok()
	e := r.o.held[0]
	e.respond(200, -1, false)
	e.write(make([]byte, 1<<20), false)
	f, n := r.until(100000, func(int) { r.fr.WriteWindowUpdate(1, 1) })
	if n > 1003 {
		t.Errorf("%d windows of a byte", n)
	}
	r.dies(f, EnhanceYourCalm)
}

// TestHonestDownload: two WINDOW_UPDATE and a PING for each frame are taken,
// for as long as it lasts.
func TestHonestDownload(t *testing.T) {
	r := newRaw(t, Server, Options{MaxIdle: 50})
	r.headers(1, true, request("/hold")...)
	r.ok()
	e := r.o.held[0]
	e.respond(200, -1, false)
	f, _ := r.until(5000, func(int) {
		e.write(make([]byte, 16<<10), false)
		r.fr.WriteWindowUpdate(1, 16<<10)
		r.fr.WriteWindowUpdate(0, 16<<10)
		r.fr.WritePing(false, [8]byte{})
	})
	if f != nil {
		t.Fatal(f)
	}
}

// TestStaleFrames: what crosses our RST_STREAM is let pass, its window given
// back; more costs credit.
func TestStaleFrames(t *testing.T) {
	r := newRaw(t, Server, Options{StreamWindow: 100_000, ConnWindow: 200_000})
	for i := range 50 {
		id := uint32(2*i + 1)
		r.headers(id, false, request("/hold")...)
		r.ok()
		r.o.c.ResetStream(r.o.held[i].s, Cancel)
		for range 6 {
			r.fr.WriteData(id, false, make([]byte, 16<<10))
		}
		r.headers(id, true, "x-trailer", "y")
		r.ok()
	}
	if a := r.answers(); strings.Contains(a, "STREAM_CLOSED") || strings.Count(a, "window 0") < 40 {
		t.Fatal(a)
	}
	if b := r.o.c.budget; b.idle != b.maxIdle || b.provoked != b.maxResets {
		t.Errorf("honest crossing cost credit: %+v", b)
	}
	r.alive(201)
}

func TestConnectionRules(t *testing.T) {
	frame := func(typ xhttp2.FrameType, flags xhttp2.Flags, id uint32, p ...byte) func(r *raw) {
		return func(r *raw) { r.fr.WriteRawFrame(typ, flags, id, p) }
	}
	u32 := func(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
	setting := func(id xhttp2.SettingID, v uint32) func(r *raw) {
		return func(r *raw) { r.fr.WriteSettings(xhttp2.Setting{ID: id, Val: v}) }
	}
	for _, c := range []struct {
		name string
		role Role
		code Code
		do   func(r *raw)
	}{
		{"even stream from a client", Server, ProtocolError, func(r *raw) { r.headers(2, true, plainGet...) }},
		{"stream zero", Server, ProtocolError, func(r *raw) { r.headers(0, true, plainGet...) }},
		{"lower stream", Server, ProtocolError, func(r *raw) { r.headers(5, true, plainGet...); r.headers(3, true, plainGet...) }},
		{"stream used again", Server, StreamClosed, func(r *raw) { r.headers(5, true, plainGet...); r.headers(5, true, plainGet...) }},
		{"headers after the peer's reset", Server, StreamClosed, func(r *raw) {
			r.headers(1, true, request("/hold")...)
			r.fr.WriteRSTStream(1, 0)
			r.headers(1, true, plainGet...)
		}},
		{"data on an idle stream", Server, ProtocolError, func(r *raw) { r.fr.WriteData(1, true, nil) }},
		{"data on stream 0", Server, ProtocolError, func(r *raw) { r.fr.WriteData(0, true, nil) }},
		{"window on an idle stream", Server, ProtocolError, func(r *raw) { r.fr.WriteWindowUpdate(1, 1) }},
		{"reset of an idle stream", Server, ProtocolError, func(r *raw) { r.fr.WriteRSTStream(1, 0) }},
		{"reset of stream 0", Server, ProtocolError, func(r *raw) { r.fr.WriteRSTStream(0, 0) }},
		{"reset of the wrong size", Server, FrameSizeError, frame(xhttp2.FrameRSTStream, 0, 1, 1)},
		{"idle stream depends on itself", Server, ProtocolError, func(r *raw) { r.fr.WritePriority(1, xhttp2.PriorityParam{StreamDep: 1}) }},
		{"frame too large", Server, FrameSizeError, func(r *raw) { r.fr.WriteRawFrame(99, 0, 0, make([]byte, 16385)) }},
		{"continuation alone", Server, ProtocolError, frame(xhttp2.FrameContinuation, 4, 1)},
		{"frame inside a block", Server, ProtocolError, func(r *raw) {
			r.fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: r.encode(plainGet...)})
			r.fr.WritePing(false, [8]byte{})
		}},
		{"continuation of another", Server, ProtocolError, func(r *raw) {
			r.fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: r.encode(plainGet...)})
			r.fr.WriteContinuation(3, true, nil)
		}},
		{"padding too long, data", Server, ProtocolError, func(r *raw) { r.headers(1, false, request("/hold")...); frame(xhttp2.FrameData, 8, 1, 3, 0, 0)(r) }},
		{"padding too long, headers", Server, ProtocolError, frame(xhttp2.FrameHeaders, 8|4, 1, 3, 0, 0)},
		{"padding without length", Server, FrameSizeError, frame(xhttp2.FrameHeaders, 8|4, 1)},
		{"priority cut short", Server, FrameSizeError, frame(xhttp2.FrameHeaders, 32|4, 1, 1, 2)},
		{"block that does not decode", Server, CompressionError, frame(xhttp2.FrameHeaders, 4, 1, 0xff, 0xff)},
		{"push", Server, ProtocolError, frame(xhttp2.FramePushPromise, 4, 1, 0, 0, 0, 2)},
		{"push to a client", Client, ProtocolError, frame(xhttp2.FramePushPromise, 4, 1, 0, 0, 0, 2)},
		{"ping of the wrong size", Server, FrameSizeError, frame(xhttp2.FramePing, 0, 0, 1)},
		{"ping on a stream", Server, ProtocolError, frame(xhttp2.FramePing, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8)},
		{"goaway on a stream", Server, ProtocolError, frame(xhttp2.FrameGoAway, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0)},
		{"goaway cut short", Server, FrameSizeError, frame(xhttp2.FrameGoAway, 0, 0, 0, 0, 0, 0)},
		{"settings on a stream", Server, ProtocolError, frame(xhttp2.FrameSettings, 0, 1)},
		{"settings of the wrong size", Server, FrameSizeError, frame(xhttp2.FrameSettings, 0, 0, 1)},
		{"settings ack with payload", Server, FrameSizeError, frame(xhttp2.FrameSettings, 1, 0, 0, 1, 0, 0, 0, 0)},
		{"settings ack too many", Server, ProtocolError, func(r *raw) { r.fr.WriteSettingsAck() }},
		{"push setting", Server, ProtocolError, setting(xhttp2.SettingEnablePush, 2)},
		{"push setting from a server", Client, ProtocolError, setting(xhttp2.SettingEnablePush, 1)},
		{"frame setting too small", Server, ProtocolError, setting(xhttp2.SettingMaxFrameSize, 16383)},
		{"frame setting too large", Server, ProtocolError, setting(xhttp2.SettingMaxFrameSize, 1<<24)},
		{"window setting too large", Server, FlowControlError, setting(xhttp2.SettingInitialWindowSize, 1<<31)},
		{"connect setting", Server, ProtocolError, setting(8, 2)},
		{"connect setting taken back", Client, ProtocolError, func(r *raw) { setting(8, 1)(r); setting(8, 0)(r) }},
		{"window setting overflows a stream", Server, FlowControlError, func(r *raw) {
			r.headers(1, true, request("/hold")...)
			r.fr.WriteWindowUpdate(1, maxWindow-65535)
			setting(xhttp2.SettingInitialWindowSize, 65536)(r)
		}},
		{"connection window overflow", Server, FlowControlError, func(r *raw) { r.fr.WriteWindowUpdate(0, maxWindow) }},
		{"connection window of 0", Server, ProtocolError, func(r *raw) { r.fr.WriteWindowUpdate(0, 0) }},
		{"window of the wrong size", Server, FrameSizeError, frame(xhttp2.FrameWindowUpdate, 0, 0, 1)},
		{"priority update of stream 0", Server, ProtocolError, frame(framePriorityUpdate, 0, 0, u32(0)...)},
		{"priority update on a stream", Server, ProtocolError, frame(framePriorityUpdate, 0, 1, u32(1)...)},
		{"priority update from a server", Client, ProtocolError, frame(framePriorityUpdate, 0, 0, u32(1)...)},
		{"response on an idle stream", Client, ProtocolError, func(r *raw) { r.headers(1, true, ":status", "200") }},
		{"response on an even stream", Client, ProtocolError, func(r *raw) { r.headers(2, true, ":status", "200") }},
		{"more data than the connection's window", Server, FlowControlError, func(r *raw) {
			r.o.holding = true
			for i := range 70 {
				r.headers(uint32(2*i+1), false, request("/hold")...)
				r.fr.WriteData(uint32(2*i+1), false, make([]byte, 16384))
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRaw(t, c.role, Options{})
			c.do(r)
			r.dies(r.feed(), c.code)
		})
	}
	t.Run("no preface", func(t *testing.T) {
		o := &owner{}
		w := &out{}
		o.c = New(Server, Options{}, o, w)
		if _, err := o.c.Feed([]byte("GET / HTTP/1.1\r\n")); err != error(errPreface) {
			t.Error(err)
		}
	})
	t.Run("first frame is not settings", func(t *testing.T) {
		o := &owner{}
		o.c = New(Server, Options{}, o, &out{})
		if _, err := o.c.Feed([]byte(preface + "\x00\x00\x00\x00\x00\x00\x00\x00\x01")); err != error(errFirst) {
			t.Error(err)
		}
	})
}

// TestNarrowWindowBeforeAck: until it acknowledges a smaller window, the peer
// may use the protocol's.
func TestNarrowWindowBeforeAck(t *testing.T) {
	o := &owner{holding: true}
	var w out
	o.c = New(Server, Options{StreamWindow: 1000}, o, &w)
	o.c.Start()
	r := &raw{t: t, o: o}
	r.fr = xhttp2.NewFramer(&r.in, nil)
	r.enc = newRaw(t, Server, Options{}).enc
	x := newRaw(t, Server, Options{})
	r.in.WriteString(xhttp2.ClientPreface)
	r.fr.WriteSettings()
	r.fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: x.encode(request("/hold")...), EndHeaders: true})
	r.fr.WriteData(1, false, make([]byte, 10000))
	r.fr.WriteSettingsAck()
	r.ok()
	if s := o.held[0].s; s.recvWin != 1000-10000 {
		t.Errorf("window is %d", s.recvWin)
	}
	r.fr.WriteData(1, false, []byte("x"))
	r.ok()
	if len(o.resets) != 1 || o.resets[0] != FlowControlError {
		t.Error(o.resets)
	}
}
