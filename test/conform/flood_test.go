// SPDX-License-Identifier: Apache-2.0

package conform

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"redoubt.dev/test/conform/load"
	"redoubt.dev/test/conform/rig"
)

// h2 is an attacker: it writes whatever frames it likes.
type h2 struct {
	*http2.Framer
	c    net.Conn
	enc  *hpack.Encoder
	buf  bytes.Buffer
	over chan h2end
}

// h2end is how the proxy ended the connection.
type h2end struct {
	code   http2.ErrCode // of GOAWAY
	goaway bool
	closed bool
	resets map[http2.ErrCode]int
	status map[string]int
}

func (e h2end) String() string {
	s := "connection left open"
	if e.closed {
		s = "closed without GOAWAY"
	}
	if e.goaway {
		s = "GOAWAY " + e.code.String()
	}
	return fmt.Sprintf("%s, resets %v, statuses %v", s, e.resets, e.status)
}

// dialH2 opens a connection. Unless deaf, what comes is read to its end.
func dialH2(addr string, deaf bool, settings ...http2.Setting) (*h2, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(2 * rig.Hang))
	h := &h2{c: c, over: make(chan h2end, 1)}
	h.Framer = http2.NewFramer(c, c)
	h.AllowIllegalWrites = true
	h.enc = hpack.NewEncoder(&h.buf)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		return nil, err
	}
	if err := h.WriteSettings(settings...); err != nil {
		return nil, err
	}
	if !deaf {
		go h.read()
	}
	return h, nil
}

func (h *h2) read() {
	e := h2end{resets: map[http2.ErrCode]int{}, status: map[string]int{}}
	dec := hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name == ":status" {
			e.status[f.Value]++
		}
	})
	for {
		f, err := h.ReadFrame()
		if err != nil {
			e.closed = !errors.Is(err, os.ErrDeadlineExceeded)
			h.over <- e
			return
		}
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			e.goaway, e.code = true, f.ErrCode
		case *http2.RSTStreamFrame:
			e.resets[f.ErrCode]++
		case *http2.HeadersFrame:
			dec.Write(f.HeaderBlockFragment())
		}
	}
}

// block encodes a request's head.
func (h *h2) block(method, path string, extra ...string) []byte {
	h.buf.Reset()
	all := append([]string{":method", method, ":scheme", "http", ":authority", "x", ":path", path}, extra...)
	for i := 0; i < len(all); i += 2 {
		h.enc.WriteField(hpack.HeaderField{Name: all[i], Value: all[i+1]})
	}
	return slices.Clone(h.buf.Bytes())
}

func (h *h2) open(stream uint32, end bool, method string, extra ...string) error {
	return h.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: h.block(method, "/h2", extra...), EndStream: end, EndHeaders: true})
}

// flood is one published attack, bounded in count.
type flood struct {
	name string
	deaf bool // the attacker does not read
	// attack writes until it is done or the proxy has hung up.
	attack func(h *h2) error
	// codes are the right ends; nil: the connection may live on, within its
	// memory.
	codes []http2.ErrCode
}

var calm = []http2.ErrCode{http2.ErrCodeEnhanceYourCalm}

// each calls f for each new stream of a client.
func each(n int, f func(stream uint32) error) error {
	for i := range n {
		if err := f(uint32(2*i + 1)); err != nil {
			return err
		}
	}
	return nil
}

func floods() []flood {
	protocol := append(calm, http2.ErrCodeProtocol, http2.ErrCodeStreamClosed, http2.ErrCodeFlowControl, http2.ErrCodeCompression, http2.ErrCodeFrameSize)
	return []flood{
		{"rapid reset CVE-2023-44487", false, func(h *h2) error {
			return each(20000, func(s uint32) error {
				return errors.Join(h.open(s, true, "GET"), h.WriteRSTStream(s, http2.ErrCodeCancel))
			})
		}, calm},
		{"rapid reset of uploads", false, func(h *h2) error {
			return each(20000, func(s uint32) error {
				return errors.Join(h.open(s, false, "POST"), h.WriteRSTStream(s, http2.ErrCodeCancel))
			})
		}, calm},
		{"MadeYouReset CVE-2025-8671, window update of zero", false, func(h *h2) error {
			return each(20000, func(s uint32) error {
				return errors.Join(h.open(s, true, "GET"), h.WriteWindowUpdate(s, 0))
			})
		}, protocol},
		{"MadeYouReset CVE-2025-8671, window overflow", false, func(h *h2) error {
			return each(20000, func(s uint32) error {
				return errors.Join(h.open(s, true, "GET"), h.WriteWindowUpdate(s, 1<<31-1))
			})
		}, protocol},
		{"MadeYouReset CVE-2025-8671, data behind the end", false, func(h *h2) error {
			return each(20000, func(s uint32) error {
				return errors.Join(h.open(s, true, "GET"), h.WriteData(s, false, []byte("x")))
			})
		}, protocol},
		{"MadeYouReset CVE-2025-8671, length against data", false, func(h *h2) error {
			return each(20000, func(s uint32) error {
				return errors.Join(h.open(s, false, "POST", "content-length", "1"), h.WriteData(s, true, []byte("xyz")))
			})
		}, protocol},
		{"MadeYouReset CVE-2025-8671, own parent", false, func(h *h2) error {
			return each(20000, func(s uint32) error {
				return errors.Join(h.open(s, true, "GET"), h.WritePriority(s, http2.PriorityParam{StreamDep: s}))
			})
		}, nil},
		{"malformed requests", false, func(h *h2) error {
			return each(20000, func(s uint32) error { return h.open(s, true, "GET", "Upper-Case", "x") })
		}, protocol},
		{"CONTINUATION flood CVE-2024-27316", false, func(h *h2) error {
			if err := h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h.block("GET", "/h2")}); err != nil {
				return err
			}
			one := h.field("x-a", strings.Repeat("v", 100))
			return each(50000, func(uint32) error { return h.WriteContinuation(1, false, one) })
		}, protocol},
		{"empty CONTINUATION flood CVE-2023-45288", false, func(h *h2) error {
			if err := h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h.block("GET", "/h2")}); err != nil {
				return err
			}
			return each(100000, func(uint32) error { return h.WriteContinuation(1, false, nil) })
		}, protocol},
		{"CONTINUATION on a reset stream CVE-2024-27983", false, func(h *h2) error {
			return errors.Join(h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h.block("GET", "/h2")}), h.WriteRSTStream(1, http2.ErrCodeCancel))
		}, protocol},
		{"ping flood CVE-2019-9512", true, func(h *h2) error {
			return each(200000, func(uint32) error { return h.WritePing(false, [8]byte{1}) })
		}, calm},
		{"settings flood CVE-2019-9515", true, func(h *h2) error {
			return each(200000, func(uint32) error { return h.WriteSettings() })
		}, calm},
		{"empty DATA flood CVE-2019-9518", false, func(h *h2) error {
			if err := h.open(1, false, "POST"); err != nil {
				return err
			}
			return each(200000, func(uint32) error { return h.WriteData(1, false, nil) })
		}, calm},
		{"priority flood CVE-2019-9513", false, func(h *h2) error {
			return each(200000, func(s uint32) error { return h.WritePriority(s, http2.PriorityParam{StreamDep: 0, Weight: 1}) })
		}, nil},
		{"window update flood", false, func(h *h2) error {
			return each(200000, func(uint32) error { return h.WriteWindowUpdate(0, 1) })
		}, nil},
		{"unknown frames", false, func(h *h2) error {
			return each(100000, func(uint32) error { return h.WriteRawFrame(0xfa, 0, 0, nil) })
		}, nil},
		{"HPACK bomb CVE-2016-6581", false, func(h *h2) error {
			big := h.block("GET", "/h2", "x-b", strings.Repeat("v", 3900))
			bomb := append(big, bytes.Repeat([]byte{0x80 | 62}, 12000)...) // the newest entry of the table, again and again
			return each(200, func(s uint32) error {
				return h.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: bomb, EndStream: true, EndHeaders: true})
			})
		}, nil},
		{"HPACK table resized without end", false, func(h *h2) error {
			return h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: append(bytes.Repeat([]byte{0x20, 0x3f, 0xe1, 0x1f}, 3000), h.block("GET", "/h2")...), EndStream: true, EndHeaders: true})
		}, protocol},
		{"answers that nobody reads CVE-2019-9517", true, func(h *h2) error {
			return each(20000, func(s uint32) error { return h.open(s, true, "GET", "x-big", "1") })
		}, nil},
	}
}

// field encodes one field without the table.
func (h *h2) field(name, value string) []byte {
	h.buf.Reset()
	h.enc.WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: true})
	return slices.Clone(h.buf.Bytes())
}

// growth is what a proxy may take in memory under any of the floods.
const growth = 96 << 20

func runFloods(t *testing.T, kind rig.Kind) {
	o := rig.NewOrigin(t)
	big := "HTTP/1.1 200 OK\r\nContent-Length: 262144\r\n\r\n" + strings.Repeat("b", 262144)
	o.On = func(s *rig.Seen) rig.Script {
		if s.Has("x-big") {
			return rig.Script{Raw: big}
		}
		return rig.Script{}
	}
	e := load.NewEcho(t)
	p := rig.Start(t, kind, rig.Setup{Listeners: []rig.Listener{{To: o.Addr}, {To: e.HTTP}}, Patience: 3 * time.Second})
	o.Fence(p.Addrs[0])
	base, rss := p.FDs(), p.RSS()
	for _, f := range floods() {
		t.Run(f.name, func(t *testing.T) {
			victims := load.Start(load.Group{Name: "other clients, h1", Proto: load.HTTP1, Addr: p.Addrs[1], Clients: 2, Every: 5 * time.Millisecond},
				load.Group{Name: "other clients, h2", Proto: load.HTTP2, Addr: p.Addrs[1], Clients: 2, Every: 5 * time.Millisecond})
			h, err := dialH2(p.Addrs[0], f.deaf)
			if err != nil {
				t.Fatal(err)
			}
			stopped := f.attack(h)
			peak := p.RSS()
			if f.deaf {
				go h.read() // what was sent before the end is still there
			}
			h.WriteGoAway(0, http2.ErrCodeNo, nil) // a connection that lives on ends by this
			var end h2end
			if f.codes == nil {
				h.c.SetDeadline(time.Now().Add(2 * time.Second))
			}
			end = <-h.over
			h.c.Close()
			peak = max(peak, p.RSS())
			t.Logf("%v; write ended by %v; memory %d → %d KB", end, stopped, rss>>10, peak>>10)
			for _, r := range victims.Stop() {
				t.Log(r)
				if kind == rig.Redoubt && r.Failed+r.Closed+r.Refused > 0 {
					t.Errorf("others were hurt: %v", r)
				}
			}
			if kind != rig.Redoubt {
				return
			}
			if f.codes != nil && (!end.goaway || !slices.Contains(f.codes, end.code)) {
				// A deaf peer's GOAWAY may have been lost behind a reset.
				if !(f.deaf && end.closed && !end.goaway) {
					t.Errorf("%v, want GOAWAY %v", end, f.codes)
				}
			}
			if peak > rss+growth {
				t.Errorf("memory grew by %d MB", (peak-rss)>>20)
			}
			if !o.Fence(p.Addrs[0]) {
				t.Error("the proxy does not serve any more")
			}
			o.Take()
		})
	}
	o.Drop()
	if kind == rig.Redoubt {
		p.Settle(t, base+4) // the echo's pooled connections
	}
}

// TestFlood runs the published HTTP/2 floods against the proxy.
func TestFlood(t *testing.T) { runFloods(t, rig.Redoubt) }

// TestFloodRivals shows what haproxy does with them; nothing is asserted but
// that the harness comes to its end.
func TestFloodRivals(t *testing.T) { runFloods(t, rig.Haproxy) }
