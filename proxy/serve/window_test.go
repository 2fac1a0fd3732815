// SPDX-License-Identifier: Apache-2.0

package serve_test

import (
	"net/http"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"redoubt.dev/proxy/config"
)

// TestSilentReaderGetsAll has a client that gives all the window at once and
// says nothing more: what the proxy holds back for its own buffer's sake must
// leave without a frame of the client that would wake it.
func TestSilentReaderGetsAll(t *testing.T) {
	const size = 900 << 10
	at := origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, size)) }), true)
	s := start(t, conf([]*config.Listener{httpListener("web", &config.HTTPManager{Routes: routes(to("/one", "one"), to("/two", "two"))})},
		cluster("one", config.UpHTTP1, at), cluster("two", config.UpHTTP2, at)))
	for _, path := range []string{"/one", "/two"} {
		for range 20 {
			k := dialTo(t, s.Addr("web").String())
			k.say(http2.ClientPreface)
			f := http2.NewFramer(k, k.r)
			f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 2 * size})
			f.WriteWindowUpdate(0, 2*size)
			var head headBuffer
			e := hpack.NewEncoder(&head)
			for _, h := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "x"}, {":path", path}} {
				e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
			}
			f.WriteSettingsAck()
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head, EndHeaders: true, EndStream: true})
			n := 0
			for ended := false; !ended; {
				fr, err := f.ReadFrame()
				if err != nil {
					t.Fatalf("%s: %d bytes of %d: %v", path, n, size, err)
				}
				if d, ok := fr.(*http2.DataFrame); ok {
					n += len(d.Data())
					ended = d.StreamEnded()
				}
			}
			if n != size {
				t.Fatalf("%s: %d bytes of %d", path, n, size)
			}
			k.Close()
		}
	}
}

type headBuffer []byte

func (b *headBuffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}
