// SPDX-License-Identifier: Apache-2.0

package load

import (
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
)

// Echo is the server behind the proxy: HTTP/1.1 and HTTP/2 (in clear, with
// prior knowledge) send a request's body back, TCP sends all bytes back.
type Echo struct {
	HTTP string // host:port
	TCP  string
}

// NewEcho serves until the test ends.
func NewEcho(t testing.TB) *Echo {
	t.Helper()
	var ls [2]net.Listener
	for i := range ls {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ls[i] = l
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Write(b)
	})}
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(ls[0]) })
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := ls[1].Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				io.Copy(c, c)
				c.Close()
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		srv.Close()
		ls[1].Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return &Echo{HTTP: ls[0].Addr().String(), TCP: ls[1].Addr().String()}
}
