// SPDX-License-Identifier: Apache-2.0

package load_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"redoubt.dev/test/bench/load"
)

func TestQuantilesAreWithinOnePercent(t *testing.T) {
	for _, unit := range []time.Duration{1, time.Microsecond, time.Millisecond, time.Second} {
		var h, rest load.Hist
		for i := range 1000 {
			[]*load.Hist{&h, &rest}[i%2].Add(time.Duration(i+1) * unit)
		}
		h.Merge(&rest)
		for _, q := range []float64{0, 0.5, 0.99, 0.999, 1} {
			want := time.Duration(int(q*999)+1) * unit
			if got := h.Quantile(q); got < want || float64(got) > 1.01*float64(want) {
				t.Errorf("%v: quantile %v is %v, want %v", unit, q, got, want)
			}
		}
	}
	var empty load.Hist
	if q := empty.Quantile(0.5); q != 0 {
		t.Errorf("an empty one says %v", q)
	}
}

func addr(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

// origin runs an origin until the test ends and waits for it to listen.
func origin(t *testing.T, k load.Kind) netip.AddrPort {
	t.Helper()
	at := addr(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := load.Run(ctx, load.Job{Kind: k, Addr: at})
		done <- err
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for {
		c, err := net.Dial("tcp", at.String())
		if err == nil {
			c.Close()
			return at
		}
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

func TestPaceKeepsItsRateAndCountsWaiting(t *testing.T) {
	stall := make(chan struct{}, 1)
	stall <- struct{}{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "5000")
		switch {
		case r.URL.Path == "/bad":
			w.WriteHeader(500)
		case r.URL.Path == "/stall":
			select {
			case <-stall:
				<-time.After(200 * time.Millisecond)
			default:
			}
		}
		fmt.Fprint(w, strings.Repeat("x", 5000))
	}))
	defer s.Close()
	j := load.Job{Kind: load.KindPace, Addr: netip.MustParseAddrPort(s.Listener.Addr().String()), Path: "/", Conns: 4, Rate: 1000, For: 500 * time.Millisecond}
	r, err := load.Run(t.Context(), j)
	if err != nil || r.Errors != 0 || r.Done < 400 || r.Done > 501 {
		t.Fatalf("%+v %v", r, err)
	}
	j.Path, j.Conns = "/stall", 1
	r, err = load.Run(t.Context(), j)
	if err != nil || r.P99 < 150*time.Millisecond || r.P50 < time.Microsecond {
		t.Fatalf("a stall of 200 ms is hidden: %+v %v", r, err)
	}
	j.Path, j.Conns = "/bad", 4
	r, err = load.Run(t.Context(), j)
	if err != nil || r.Errors < 100 || r.Done != 0 {
		t.Fatalf("errors are not counted: %+v %v", r, err)
	}
}

func TestEchoIsAGRPCOrigin(t *testing.T) {
	at := origin(t, load.KindEcho)
	for _, size := range []int{1, 100, 300_000} { // the last is larger than a peer's window
		if err := load.Call(t.Context(), load.Job{Addr: at, Path: "/bench.Echo/Call", Size: size}); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if err := load.Call(t.Context(), load.Job{Addr: at, Path: "/bench.Echo/Call"}); err != nil {
		t.Errorf("an empty message: %v", err)
	}
	r, err := load.Run(t.Context(), load.Job{Kind: load.KindStream, Addr: at, Path: "/bench.Echo/Stream", Conns: 2, Per: 8, Size: 1000, For: 300 * time.Millisecond})
	if err != nil || r.Errors != 0 || r.Done < 16 || r.P50 <= 0 {
		t.Errorf("%+v %v", r, err)
	}
}

func TestBulkReachesTheSink(t *testing.T) {
	at := origin(t, load.KindSink)
	r, err := load.Run(t.Context(), load.Job{Kind: load.KindBulk, Addr: at, Conns: 2, For: 200 * time.Millisecond})
	if err != nil || r.Errors != 0 || r.Done < 1<<20 {
		t.Errorf("%+v %v", r, err)
	}
}
