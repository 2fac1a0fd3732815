// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	spec2 "github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"
)

// TestH2spec runs all of h2spec, strict cases included, against the codec over
// TCP.
func TestH2spec(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serveConn(nc, Options{}) })
		}
	})
	cfg := &config.Config{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, Path: "/", Timeout: 2 * time.Second, MaxHeaderLen: 4000, Strict: true}
	for _, g := range []*spec.TestGroup{generic.Spec(), spec2.Spec(), hpack.Spec()} {
		g.Test(cfg)
		report(t, g)
	}
	l.Close()
	wg.Wait()
}

func report(t *testing.T, g *spec.TestGroup) {
	for _, sub := range g.Groups {
		report(t, sub)
	}
	for _, tc := range g.Tests {
		switch r := tc.Result; {
		case r == nil:
			t.Errorf("%s: %s: not run", g.ID(), tc.Desc)
		case r.Failed:
			t.Errorf("%s: %s: %v", g.ID(), tc.Desc, r.Error)
		case r.Skipped:
			t.Errorf("%s: %s: skipped", g.ID(), tc.Desc)
		}
	}
}
