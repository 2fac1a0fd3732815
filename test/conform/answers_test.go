// SPDX-License-Identifier: Apache-2.0

package conform

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"redoubt.dev/test/conform/rig"
)

// reply is one way in which an origin's answer can go wrong, or be of a kind
// that is easily taken wrongly.
type reply struct {
	name   string
	method string // "" GET
	script rig.Script
	// status lists what the client may get; 0 is an end without a whole
	// answer.
	status []int
	body   string // of a 200; "" any
}

func replies() []reply {
	raw := func(s string) rig.Script { return rig.Script{Raw: m(s)} }
	gone := []int{0, 502}
	return []reply{
		{"plain", "", raw("HTTP/1.1 200 OK\nContent-Length: 2\n\nok"), []int{200}, "ok"},
		{"chunked", "", raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n"), []int{200}, "ok"},
		{"until close", "", rig.Script{Raw: m("HTTP/1.1 200 OK\n\nok"), Close: true}, []int{200}, "ok"},
		{"HTTP/1.0", "", rig.Script{Raw: m("HTTP/1.0 200 OK\n\nok"), Close: true}, []int{200}, "ok"},
		{"split by bare LF", "", rig.Script{Raw: "HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: evil=1\r\nContent-Length: 2\r\n\r\nok"}, gone, ""},
		{"split by bare CR", "", rig.Script{Raw: "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: evil=1\r\nContent-Length: 2\r\n\r\nok"}, gone, ""},
		{"NUL in a field", "", rig.Script{Raw: "HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\nok"}, gone, ""},
		{"folded field", "", raw("HTTP/1.1 200 OK\nX: a\n b\nContent-Length: 2\n\nok"), gone, ""},
		{"space before colon", "", raw("HTTP/1.1 200 OK\nContent-Length : 2\n\nok"), gone, ""},
		{"both lengths", "", raw("HTTP/1.1 200 OK\nContent-Length: 2\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n"), gone, ""},
		{"two lengths", "", raw("HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 3\n\nokk"), gone, ""},
		{"length with plus", "", raw("HTTP/1.1 200 OK\nContent-Length: +2\n\nok"), gone, ""},
		{"unknown coding", "", raw("HTTP/1.1 200 OK\nTransfer-Encoding: gzip\n\nok"), gone, ""},
		{"status of two digits", "", raw("HTTP/1.1 20 OK\nContent-Length: 2\n\nok"), gone, ""},
		{"other version", "", raw("HTTP/2.0 200 OK\nContent-Length: 2\n\nok"), gone, ""},
		{"no HTTP", "", raw("SSH-2.0-OpenSSH_9.2\n\n"), gone, ""},
		{"huge head", "", raw("HTTP/1.1 200 OK\nX: " + strings.Repeat("a", 1<<20) + "\nContent-Length: 2\n\nok"), gone, ""},
		{"10000 fields", "", raw("HTTP/1.1 200 OK\n" + strings.Repeat("X: y\n", 10000) + "Content-Length: 2\n\nok"), gone, ""},
		{"body cut short", "", rig.Script{Raw: m("HTTP/1.1 200 OK\nContent-Length: 200\n\nok"), Close: true}, gone, ""},
		{"chunk cut short", "", rig.Script{Raw: m("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n20\nok"), Close: true}, gone, ""},
		{"no last chunk", "", rig.Script{Raw: m("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n"), Close: true}, gone, ""},
		{"bad chunk", "", raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\nzz\n"), gone, ""},
		{"trailer that frames", "", raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\nContent-Length: 3\n\n"), gone, ""},
		{"HEAD with body", "HEAD", raw("HTTP/1.1 200 OK\nContent-Length: 9\n\nsmuggled!"), []int{200}, ""},
		{"HEAD with a whole answer as body", "HEAD", raw("HTTP/1.1 200 OK\nContent-Length: 45\n\nHTTP/1.1 200 OK\nContent-Length: 5\n\nevil!"), []int{200}, ""},
		{"204 with body", "", raw("HTTP/1.1 204 No Content\n\nHTTP/1.1 200 OK\nContent-Length: 5\n\nevil!"), []int{204}, ""},
		{"204 with length", "", raw("HTTP/1.1 204 No Content\nContent-Length: 5\n\nevil!"), []int{204, 502}, ""},
		{"304 with body", "", raw("HTTP/1.1 304 Not Modified\nContent-Length: 5\n\nevil!"), []int{304}, ""},
		{"two answers", "", raw("HTTP/1.1 200 OK\nContent-Length: 2\n\nokHTTP/1.1 200 OK\nContent-Length: 5\n\nevil!"), []int{200}, "ok"},
		{"a second answer later", "", rig.Script{Raw: m("HTTP/1.1 200 OK\nContent-Length: 2\n\nok"), Then: m("HTTP/1.1 200 OK\nContent-Length: 5\n\nevil!")}, []int{200}, "ok"},
		{"bytes behind the end", "", raw("HTTP/1.1 200 OK\nContent-Length: 2\n\nokevil!"), []int{200}, "ok"},
		{"bytes behind the last chunk", "", raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\n\nevil!"), []int{200}, "ok"},
		{"early hints", "", raw("HTTP/1.1 103 Early Hints\nLink: x\n\nHTTP/1.1 200 OK\nContent-Length: 2\n\nok"), []int{200}, "ok"},
		{"flood of interim answers", "", raw(strings.Repeat("HTTP/1.1 103 Early Hints\nLink: x\n\n", 20000) + "HTTP/1.1 200 OK\nContent-Length: 2\n\nok"), []int{0, 200, 502}, ""},
		{"switch that nobody asked for", "", raw("HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: evil\n\nevil!"), gone, ""},
		{"early answer", "POST", rig.Script{Early: true, Raw: m("HTTP/1.1 413 Too Large\nContent-Length: 2\n\nno")}, []int{413}, ""},
		{"early answer and close", "POST", rig.Script{Early: true, Close: true, Raw: m("HTTP/1.1 413 Too Large\nContent-Length: 2\nConnection: close\n\nno")}, []int{413, 502, 0}, ""},
	}
}

// TestAnswers: whatever an origin answers, a client gets that answer or none,
// and nobody gets what belongs to another request.
func TestAnswers(t *testing.T) {
	for _, kind := range []rig.Kind{rig.Redoubt, rig.Haproxy} {
		t.Run(string(kind), func(t *testing.T) { answers(t, kind) })
	}
}

func answers(t *testing.T, kind rig.Kind) {
	o := rig.NewOrigin(t)
	all := replies()
	o.On = func(s *rig.Seen) rig.Script {
		var i int
		if n, _ := fmt.Sscanf(s.Target, "/reply/%d", &i); n == 1 {
			return all[i].script
		}
		return rig.Script{}
	}
	p := rig.Start(t, kind, rig.Setup{Listeners: []rig.Listener{{To: o.Addr}}, Patience: time.Second})
	o.Fence(p.Addrs[0])
	rss := p.RSS()
	var other []string
	for i, r := range all {
		t.Run(r.name, func(t *testing.T) {
			wrong := r.run(p.Addrs[0], i)
			if !o.Fence(p.Addrs[0]) {
				wrong = append(wrong, "the next client was not served its own answer")
			}
			if kind == rig.Redoubt || i < 4 {
				for _, w := range wrong {
					t.Error(w)
				}
			} else if len(wrong) > 0 {
				other = append(other, r.name)
			}
		})
	}
	if kind != rig.Redoubt {
		t.Logf("of %d otherwise: %s", len(all), strings.Join(other, ", "))
	} else if grown := p.RSS() - rss; grown > growth {
		t.Errorf("memory grew by %d MB", grown>>20)
	}
}

func (r *reply) run(addr string, i int) (wrong []string) {
	say := func(f string, args ...any) { wrong = append(wrong, fmt.Sprintf(f, args...)) }
	method, body := r.method, ""
	if method == "" {
		method = "GET"
	}
	if method == "POST" {
		body = strings.Repeat("p", 20000)
	}
	c, err := rig.Dial(addr)
	if err != nil {
		return []string{err.Error()}
	}
	defer c.Close()
	a, err := c.Ask(method, fmt.Sprintf("%s /reply/%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", method, i, len(body), body))
	if err != nil {
		a.Status = 0
	}
	ok := false
	for _, s := range r.status {
		ok = ok || s == a.Status
	}
	switch {
	case !ok:
		say("the client got %d (%v), want one of %v", a.Status, err, r.status)
	case a.Status == 200 && r.body != "" && a.Body != r.body:
		say("the client got %q", a.Body)
	case a.Header.Get("Set-Cookie") != "":
		say("a field was split off")
	}
	if err != nil {
		return wrong
	}
	// The next request on the same connection: its own answer, or none.
	b, err := c.Ask("GET", "GET /victim HTTP/1.1\r\nHost: x\r\n\r\n")
	if err == nil && (b.Status != 200 || b.Body != "GET /victim 0\n") && b.Status != 502 && b.Status != 503 {
		say("the next request was answered %d %q", b.Status, b.Body)
	}
	return wrong
}

// TestExpectPoisoning: an origin that answers without "100" leaves the
// connection where nobody knows whether the body follows; it must not be used
// again (CVE-2024-24791).
func TestExpectPoisoning(t *testing.T) {
	for _, kind := range []rig.Kind{rig.Redoubt, rig.Haproxy} {
		t.Run(string(kind), func(t *testing.T) {
			o := rig.NewOrigin(t)
			o.On = func(s *rig.Seen) rig.Script {
				if s.Get("expect") != "" || s.Target == "/upload" {
					return rig.Script{Early: true, Raw: m("HTTP/1.1 403 No\nContent-Length: 0\n\n")}
				}
				return rig.Script{}
			}
			p := rig.Start(t, kind, rig.Setup{Listeners: []rig.Listener{{To: o.Addr}}, Patience: time.Second})
			for range 5 {
				c, err := rig.Dial(p.Addrs[0])
				if err != nil {
					t.Fatal(err)
				}
				a, err := c.Ask("POST", "POST /upload HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 40\r\n\r\n")
				if err != nil || a.Status != 403 {
					t.Errorf("got %d, %v", a.Status, err)
				}
				if !o.Fence(p.Addrs[0]) { // by way of what may be the same connection
					t.Error("the next client was not served")
				}
				// The client either sends its body or goes on; both are seen for
				// what they are, or the connection ends.
				b, err := c.Ask("GET", "GET /victim HTTP/1.1\r\nHost: x\r\n\r\n")
				if err == nil && b.Status == 200 && b.Body != "GET /victim 0\n" {
					t.Errorf("answered %q", b.Body)
				}
				c.Close()
			}
			for _, s := range o.Take() {
				// Its own next request may: a client that announced a body and
				// sends something else has itself to thank.
				if strings.Contains(s.Body, "GET /fence") {
					t.Errorf("another's request became the body of %s: %q", s.Target, s.Body)
				}
			}
		})
	}
}

// TestGreeting: bytes that an origin sends before it was asked belong to no
// request (response queue poisoning).
func TestGreeting(t *testing.T) {
	o := rig.NewOrigin(t)
	o.Greet = m("HTTP/1.1 200 OK\nContent-Length: 5\n\nevil!")
	p := rig.Start(t, rig.Redoubt, rig.Setup{Listeners: []rig.Listener{{To: o.Addr}}, Patience: time.Second})
	for i := range 10 {
		c, err := rig.Dial(p.Addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		target := fmt.Sprintf("/own/%d", i)
		before := o.Answered()
		a, err := c.Ask("GET", "GET "+target+" HTTP/1.1\r\nHost: x\r\n\r\n")
		// The first answer on a fresh connection cannot be told from a quick
		// one; what follows it can, and must not reach anybody.
		if err == nil && a.Status == 200 && a.Body != "evil!" && a.Body != "GET "+target+" 0\n" {
			t.Errorf("%s was answered %q", target, a.Body)
		}
		// The true answer lies in the proxy's socket before it is asked again.
		if !rig.Eventually(rig.Hang, func() bool { return o.Answered() > before }) && err == nil && a.Body != "evil!" {
			t.Errorf("%s did not reach the origin", target)
		}
		b, err := c.Ask("GET", "GET /next HTTP/1.1\r\nHost: x\r\n\r\n")
		if err == nil && b.Status == 200 && strings.Contains(b.Body, target) {
			t.Errorf("/next got the answer to %s", target)
		}
		if o.Answered() == before+1 && err == nil && b.Body == "evil!" {
			rig.Eventually(time.Second, func() bool { return o.Answered() > before+1 })
		}
		c.Close()
	}
}

// TestPipelining: a thousand requests in one write are answered in order; ten
// thousand from a client that does not read cost bounded memory.
func TestPipelining(t *testing.T) {
	for _, kind := range []rig.Kind{rig.Redoubt, rig.Nginx} {
		t.Run(string(kind), func(t *testing.T) {
			o := rig.NewOrigin(t)
			p := rig.Start(t, kind, rig.Setup{Listeners: []rig.Listener{{To: o.Addr}}, Patience: 10 * time.Second})
			o.Fence(p.Addrs[0])
			rss := p.RSS()
			const n = 10000
			c, err := rig.Dial(p.Addrs[0])
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(4 * rig.Hang))
			sent := make(chan error, 1)
			go func() {
				var b strings.Builder
				for i := range n {
					fmt.Fprintf(&b, "GET /p/%d HTTP/1.1\r\nHost: x\r\n\r\n", i)
				}
				_, err := io.WriteString(c, b.String())
				sent <- err
			}()
			for i := range n {
				a, err := c.Answer("GET")
				if want := fmt.Sprintf("GET /p/%d 0\n", i); err != nil || a.Body != want {
					t.Fatalf("answer %d: %q, %v", i, a.Body, err)
				}
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
			if seen := o.Take(); len(seen) != n {
				t.Errorf("the origin saw %d requests", len(seen))
			}
			if grown := p.RSS() - rss; kind == rig.Redoubt && grown > 32<<20 {
				t.Errorf("memory grew by %d MB", grown>>20)
			}
		})
	}
}

// TestSlowLoris: a head that drips ends at a deadline, though bytes arrive.
func TestSlowLoris(t *testing.T) {
	o := rig.NewOrigin(t)
	p := rig.Start(t, rig.Redoubt, rig.Setup{Listeners: []rig.Listener{{To: o.Addr}}, Patience: time.Second})
	o.Fence(p.Addrs[0])
	base := p.FDs()
	const n = 200
	ended := make(chan error, n)
	for range n {
		go func() {
			c, err := rig.Dial(p.Addrs[0])
			if err != nil {
				ended <- err
				return
			}
			defer c.Close()
			over := make(chan struct{})
			go func() {
				io.Copy(io.Discard, c)
				close(over)
			}()
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			io.WriteString(c, "GET / HTTP/1.1\r\n")
			for i := 0; ; i++ {
				select {
				case <-over:
					ended <- nil
					return
				case <-tick.C:
					io.WriteString(c, "X: y\r\n"[i%6:i%6+1])
				}
				if i > int(rig.Hang/(50*time.Millisecond)) {
					ended <- fmt.Errorf("still open after %v", rig.Hang)
					return
				}
			}
		}()
	}
	if !o.Fence(p.Addrs[0]) {
		t.Error("others are not served meanwhile")
	}
	for range n {
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	if s := o.Take(); len(s) != 0 {
		t.Errorf("the origin saw %v", s)
	}
	p.Settle(t, base)
}
