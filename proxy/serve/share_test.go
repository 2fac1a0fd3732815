// SPDX-License-Identifier: Apache-2.0

package serve_test

import (
	"fmt"
	"io"
	"net/http"
	"testing"

	"redoubt.dev/proxy/config"
)

// TestLoopsShareConnections has many short client connections, which meet any
// loop, one request at a time: the host needs to see one connection.
func TestLoopsShareConnections(t *testing.T) {
	seen := map[string]bool{}
	at := origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RemoteAddr) }), false)
	s := start(t, conf([]*config.Listener{httpListener("web", &config.HTTPManager{Routes: routes(to("/", "one"))})}, cluster("one", config.UpHTTP1, at)))
	// Two that hold one loop each, so that the others are spread.
	for range 200 {
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		r, err := c.Get("http://" + s.Addr("web").String())
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || r.StatusCode != 200 {
			t.Fatal(r.Status, err)
		}
		seen[string(b)] = true
	}
	if len(seen) > 2 {
		t.Errorf("%d connections for one request at a time", len(seen))
	}
}
