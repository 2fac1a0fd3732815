// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"redoubt.dev/api/wire"
)

func hello(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Client-Cert", r.Header.Get("X-Forwarded-Client-Cert"))
	fmt.Fprintf(w, "hello %s %s %s", r.Method, r.URL.Path, r.Host)
}

func TestRequestCrossesTheMesh(t *testing.T) {
	w := newWorld(t, app(t, http.HandlerFunc(hello)))
	req, _ := http.NewRequest("GET", "http://"+w.vip.String()+"/x?y=1", nil)
	req.Header.Set("X-Forwarded-Client-Cert", "URI=spiffe://bank.example/ns/bank/sa/root")
	res, err := client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if want := "hello GET /x " + w.vip.String(); res.StatusCode != 200 || string(b) != want {
		t.Fatalf("got %d %q, want %q", res.StatusCode, b, want)
	}
	if got, want := res.Header.Get("X-Client-Cert"), "By=spiffe://bank.example/ns/bank/sa/b;URI=spiffe://bank.example/ns/shop/sa/a"; got != want {
		t.Errorf("application was told %q, want %q", got, want)
	}
	w.a.stop()
	w.b.stop()
	if s := w.a.records(t); !strings.Contains(s, `"action":"connect"`) || !strings.Contains(s, `"decision":"permit"`) {
		t.Errorf("no record of the connection at a:\n%s", s)
	}
	if s := w.b.records(t); !strings.Contains(s, `bank/shop[0]`) {
		t.Errorf("no record of the connection at b:\n%s", s)
	}
}

func TestThousandsOfRequests(t *testing.T) {
	w := newWorld(t, app(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(599)
			return
		}
		if r.URL.Query().Has("chunked") {
			w.(http.Flusher).Flush()
		}
		w.Write(b)
	})))
	const clients, each = 16, 200
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(c), 7))
			h := client(t)
			for i := range each {
				body := make([]byte, rng.IntN(1<<uint(rng.IntN(17))))
				for j := range body {
					body[j] = byte(rng.Uint32())
				}
				url := fmt.Sprintf("http://%s/%d/%d", w.vip, c, i)
				if rng.IntN(2) == 0 {
					url += "?chunked"
				}
				var r io.Reader = bytes.NewReader(body)
				if rng.IntN(2) == 0 {
					r = struct{ io.Reader }{r} // no length: chunked
				}
				res, err := h.Post(url, "application/octet-stream", r)
				if err != nil {
					t.Errorf("client %d request %d: %v", c, i, err)
					return
				}
				got, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != 200 || !bytes.Equal(got, body) {
					t.Errorf("client %d request %d: status %d, %d bytes of %d, %v", c, i, res.StatusCode, len(got), len(body), err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestLargeBodiesAreExact(t *testing.T) {
	w := newWorld(t, app(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	})))
	body := make([]byte, 24<<20)
	rand.NewChaCha8([32]byte{1}).Read(body)
	res, err := client(t).Post("http://"+w.vip.String()+"/", "application/octet-stream", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	h := sha256.New()
	if n, err := io.Copy(h, res.Body); err != nil || n != int64(len(body)) {
		t.Fatalf("%d bytes of %d: %v", n, len(body), err)
	}
	if want := sha256.Sum256(body); !bytes.Equal(h.Sum(nil), want[:]) {
		t.Fatal("body changed on the way")
	}
}

func TestStreamAndHalfClose(t *testing.T) {
	for _, proto := range []string{wire.ProtoAuto, wire.ProtoTCP} {
		t.Run(proto, func(t *testing.T) {
			w := newWorld(t, tcpApp(t, func(c *net.TCPConn) {
				defer c.Close()
				b, err := io.ReadAll(c) // until the client's end
				if err != nil {
					return
				}
				fmt.Fprintf(c, "%x", sha256.Sum256(b))
			}), func(w *world) { w.svc.Ports[0].Protocol = proto })
			c := dial(t, w.vip)
			body := make([]byte, 3<<20)
			rand.NewChaCha8([32]byte{2}).Read(body)
			if _, err := c.Write(body); err != nil {
				t.Fatal(err)
			}
			c.CloseWrite()
			got, err := io.ReadAll(c)
			if want := fmt.Sprintf("%x", sha256.Sum256(body)); err != nil || string(got) != want {
				t.Fatalf("got %q, %v, want %q", got, err, want)
			}
		})
	}
}

func TestServerSpeaksFirst(t *testing.T) {
	w := newWorld(t, tcpApp(t, func(c *net.TCPConn) {
		defer c.Close()
		io.WriteString(c, "220 mail ready\r\n")
		io.Copy(c, c)
	}))
	c := dial(t, w.vip)
	b := make([]byte, 16)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "220 mail ready\r\n" {
		t.Fatalf("got %q, %v", b, err)
	}
	io.WriteString(c, "QUIT\r\n")
	if _, err := io.ReadFull(c, b[:6]); err != nil || string(b[:6]) != "QUIT\r\n" {
		t.Fatalf("got %q, %v", b[:6], err)
	}
}
