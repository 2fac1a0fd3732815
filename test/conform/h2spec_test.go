// SPDX-License-Identifier: Apache-2.0

package conform

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	spec2 "github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"

	"redoubt.dev/test/conform/rig"
)

// TestH2spec runs all of h2spec, strict cases included, against the whole
// proxy: in clear and over TLS, before an origin of HTTP/1.1 and of HTTP/2.
// The codec alone meets the same cases in proxy/http2.
func TestH2spec(t *testing.T) {
	certs := rig.NewCerts(t)
	origin := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "hello from the origin\n")
	}))
	origin.Config.Protocols = new(http.Protocols)
	origin.Config.Protocols.SetHTTP1(true)
	origin.Config.Protocols.SetUnencryptedHTTP2(true)
	origin.Start()
	defer origin.Close()
	to := origin.Listener.Addr().String()
	p := rig.Start(t, rig.Redoubt, rig.Setup{Listeners: []rig.Listener{{To: to}, {To: to, ToHTTP2: true}, {To: to, TLS: certs}}})
	for i, name := range []string{"clear to HTTP/1.1", "clear to HTTP/2", "TLS to HTTP/1.1"} {
		t.Run(name, func(t *testing.T) {
			addr, err := net.ResolveTCPAddr("tcp", p.Addrs[i])
			if err != nil {
				t.Fatal(err)
			}
			cfg := &config.Config{Host: "127.0.0.1", Port: addr.Port, Path: "/", Timeout: 2 * time.Second, MaxHeaderLen: 4000,
				Strict: true, TLS: i == 2, Insecure: true}
			for _, g := range []*spec.TestGroup{generic.Spec(), spec2.Spec(), hpack.Spec()} {
				g.Test(cfg)
				specReport(t, g, i != 2)
			}
		})
	}
}

// notPreface is not asked of a listener that tells protocols apart by their
// first bytes: what is not HTTP/2's preface is a bad request of HTTP/1.1 there,
// and is answered in that language before the connection ends.
const notPreface = "Sends invalid connection preface"

func specReport(t *testing.T, g *spec.TestGroup, detects bool) {
	for _, sub := range g.Groups {
		specReport(t, sub, detects)
	}
	for _, tc := range g.Tests {
		switch r := tc.Result; {
		case detects && tc.Desc == notPreface:
		case r == nil:
			t.Errorf("%s: %s: not run", g.ID(), tc.Desc)
		case r.Failed:
			t.Errorf("%s: %s: %v", g.ID(), tc.Desc, r.Error)
		case r.Skipped:
			t.Errorf("%s: %s: skipped", g.ID(), tc.Desc)
		}
	}
}
