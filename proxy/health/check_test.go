// SPDX-License-Identifier: Apache-2.0

package health_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/health"
)

// ward runs the checks of one cluster and hears of changes.
type ward struct {
	*testing.T
	s    *balance.Set
	said chan string
}

func (w *ward) Ejected(*balance.Host, balance.Cause, bool) {}
func (w *ward) Returned(*balance.Host)                     {}
func (w *ward) Health(_ *balance.Host, healthy bool, why string) {
	w.said <- fmt.Sprintf("%v: %s", healthy, why)
}

func begin(t *testing.T, hc config.HealthCheck, tlsOf func(*config.Cluster, *config.Endpoint) *tls.Config, eps ...*config.Endpoint) *ward {
	t.Helper()
	w := &ward{T: t, said: make(chan string, 100)}
	hc.Interval, hc.NoTraffic = 2*time.Millisecond, 2*time.Millisecond
	c := &config.Cluster{Name: "ledger", Health: []*config.HealthCheck{&hc}, Endpoints: &config.Endpoints{Localities: []*config.Locality{{Hosts: eps}}}}
	if tlsOf != nil {
		c.TLS = &config.ClientTLS{}
	}
	var err error
	if w.s, err = balance.New(c, balance.Options{Events: w}, nil); err != nil {
		t.Fatal(err)
	}
	ck, err := health.New(w.s, health.Options{TLS: tlsOf})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ck.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return w
}

// hears waits for the next change.
func (w *ward) hears(want string) {
	w.Helper()
	select {
	case got := <-w.said:
		if !strings.HasPrefix(got, want) {
			w.Fatalf("heard %q, want %q", got, want)
		}
	case <-time.After(20 * time.Second):
		w.Fatalf("heard nothing, want %q", want)
	}
}

func endpoint(addr net.Addr) *config.Endpoint {
	return &config.Endpoint{Addr: netip.MustParseAddrPort(addr.String())}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestTCP(t *testing.T) {
	l := listen(t)
	var answer atomic.Value
	answer.Store("+PONG\r\n")
	var conns atomic.Int32
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Add(1)
			wg.Go(func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					line, err := r.ReadString('\n')
					if err != nil || line != "PING\r\n" {
						return
					}
					io.WriteString(c, answer.Load().(string))
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	w := begin(t, config.HealthCheck{UnhealthyAfter: 2, HealthyAfter: 2, Timeout: 200 * time.Millisecond,
		TCP: &config.TCPCheck{Send: []byte("PING\r\n"), Receive: [][]byte{[]byte("PO"), []byte("G")}}}, nil, endpoint(l.Addr()))
	w.hears("true: received")
	answer.Store("-LOADING\r\n")
	w.hears("false: ")
	answer.Store("PONG\r\n")
	w.hears("true: received")
	before := conns.Load()
	for range 2 { // a change there and back takes several checks
		answer.Store("no")
		w.hears("false")
		answer.Store("xPOxGx")
		w.hears("true")
	}
	if n := conns.Load() - before; n > 40 {
		t.Errorf("%d connections for a few failures: the kept connection is not used", n)
	}
}

func TestTCPRefused(t *testing.T) {
	path := t.TempDir() + "/s" // nobody else takes it meanwhile, as a port might be
	w := begin(t, config.HealthCheck{TCP: &config.TCPCheck{}}, nil, &config.Endpoint{Pipe: path})
	w.hears("false: dial unix")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w.hears("true: connected")
}

// TestHung: a server that accepts and says nothing is found at the timeout,
// and hangs nobody else.
func TestHung(t *testing.T) {
	hung, well := listen(t), listen(t)
	w := begin(t, config.HealthCheck{Timeout: 20 * time.Millisecond, HTTP: &config.HTTPCheck{Path: "/"}}, nil, endpoint(hung.Addr()))
	w.hears("false: ")
	go http.Serve(well, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	w.s.Update(&config.Endpoints{Localities: []*config.Locality{{Hosts: []*config.Endpoint{endpoint(hung.Addr()), endpoint(well.Addr())}}}})
	w.hears("true: status 200")
}

// web is a server whose answer can be changed.
type web struct {
	status atomic.Int32
	header atomic.Pointer[[2]string]
	body   atomic.Pointer[string]
	seen   atomic.Pointer[http.Request]
}

func (s *web) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.seen.Store(r)
	if h := s.header.Load(); h != nil {
		w.Header().Set(h[0], h[1])
	}
	w.WriteHeader(int(s.status.Load()))
	if b := s.body.Load(); b != nil {
		io.WriteString(w, *b)
	}
}

func TestHTTP(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("h2 %v, TLS %v", h2, secure), func(t *testing.T) {
				h := &web{}
				h.status.Store(200)
				srv := httptest.NewUnstartedServer(h)
				srv.Config.Protocols = new(http.Protocols)
				srv.Config.Protocols.SetHTTP1(!h2)
				srv.Config.Protocols.SetHTTP2(h2)
				srv.Config.Protocols.SetUnencryptedHTTP2(h2)
				srv.EnableHTTP2 = h2
				var conns atomic.Int32
				srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
					if s == http.StateNew {
						conns.Add(1)
					}
				}
				var tlsOf func(*config.Cluster, *config.Endpoint) *tls.Config
				if secure {
					srv.StartTLS()
					roots := x509.NewCertPool()
					roots.AddCert(srv.Certificate())
					tlsOf = func(*config.Cluster, *config.Endpoint) *tls.Config {
						return &tls.Config{RootCAs: roots, ServerName: "example.com"}
					}
				} else {
					srv.Start()
				}
				defer srv.Close()
				w := begin(t, config.HealthCheck{UnhealthyAfter: 2, HealthyAfter: 1, HTTP: &config.HTTPCheck{HTTP2: h2, Path: "/live?x=1", Host: "ledger.bank", Method: "GET",
					Expected: [][2]int{{200, 300}}, Retriable: [][2]int{{503, 504}}, Receive: nil,
					Add: []config.HeaderAdd{{Name: "x-probe", Value: "yes"}}, Remove: []string{"user-agent"}}}, tlsOf, endpoint(srv.Listener.Addr()))
				w.hears("true: status 200")
				r := h.seen.Load()
				if r.Host != "ledger.bank" || r.URL.String() != "/live?x=1" || r.Header.Get("x-probe") != "yes" || r.ProtoMajor != map[bool]int{false: 1, true: 2}[h2] || r.Header.Get("User-Agent") != "" {
					t.Errorf("the server saw %s %s %s %v", r.Proto, r.Host, r.URL, r.Header)
				}
				h.status.Store(404)
				w.hears("false: status 404")
				h.status.Store(204)
				w.hears("true: status 204")
				h.status.Store(503)
				w.hears("false: status 503")
				h.status.Store(200)
				w.hears("true: status 200")
				h.header.Store(&[2]string{"x-envoy-immediate-health-check-fail", "true"})
				w.hears("false: asks to be left out")
				h.header.Store(&[2]string{"x-envoy-degraded", "true"})
				w.hears("true: status 200")
				if got := w.s.Hosts()[0].Health(); got != "degraded_active_hc" {
					t.Errorf("health %q", got)
				}
				if n := conns.Load(); n > 2 {
					t.Errorf("%d connections: they are not kept", n)
				}
			})
		}
	}
}

func TestHTTPContent(t *testing.T) {
	h := &web{}
	h.status.Store(200)
	body := "all is well"
	h.body.Store(&body)
	h.header.Store(&[2]string{"x-envoy-upstream-healthchecked-cluster", "ledger-v1"})
	srv := httptest.NewServer(h)
	defer srv.Close()
	w := begin(t, config.HealthCheck{NoReuse: true, HTTP: &config.HTTPCheck{Path: "/", Service: &config.StringMatch{Kind: config.MatchPrefix, Value: "ledger"}, Receive: [][]byte{[]byte("well")}}}, nil, endpoint(srv.Listener.Addr()))
	w.hears("true: status 200")
	if got := h.seen.Load(); got.Host != "ledger" || got.UserAgent() != "redoubt/HC" {
		t.Errorf("host %q, agent %q", got.Host, got.UserAgent())
	}
	ill := "all is ill"
	h.body.Store(&ill)
	w.hears("false: the body is not")
	h.body.Store(&body)
	w.hears("true")
	h.header.Store(&[2]string{"x-envoy-upstream-healthchecked-cluster", "payments"})
	w.hears(`false: another service answers: "payments"`)
}

func TestGRPC(t *testing.T) {
	l := listen(t)
	srv, hs := grpc.NewServer(), grpchealth.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, hs)
	go srv.Serve(l)
	defer srv.Stop()
	hs.SetServingStatus("bank.Ledger", grpc_health_v1.HealthCheckResponse_SERVING)
	w := begin(t, config.HealthCheck{GRPC: &config.GRPCCheck{Service: "bank.Ledger"}}, nil, endpoint(l.Addr()))
	w.hears("true: serving")
	hs.SetServingStatus("bank.Ledger", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	w.hears("false: not serving")
	hs.SetServingStatus("bank.Ledger", grpc_health_v1.HealthCheckResponse_SERVING)
	w.hears("true: serving")
	other := begin(t, config.HealthCheck{GRPC: &config.GRPCCheck{Service: "bank.Unknown"}}, nil, endpoint(l.Addr()))
	other.hears("false: grpc-status 5")
	srv.Stop()
	w.hears("false: ")
}

// TestElsewhere: the port and name for checks, a host that goes, and a unix
// socket.
func TestElsewhere(t *testing.T) {
	h := &web{}
	h.status.Store(200)
	srv := httptest.NewServer(h)
	defer srv.Close()
	at := netip.MustParseAddrPort(srv.Listener.Addr().String())
	ep := &config.Endpoint{Addr: netip.AddrPortFrom(at.Addr(), 1), HealthPort: at.Port(), HealthHost: "own.name"}
	w := begin(t, config.HealthCheck{HTTP: &config.HTTPCheck{Path: "/", Host: "other"}}, nil, ep)
	w.hears("true: status 200")
	if got := h.seen.Load().Host; got != "own.name" {
		t.Errorf("asked for %q", got)
	}
	path := t.TempDir() + "/s"
	ul, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go http.Serve(ul, h)
	defer ul.Close()
	w.s.Update(&config.Endpoints{Localities: []*config.Locality{{Hosts: []*config.Endpoint{{Pipe: path}}}}})
	w.hears("true: status 200")
}

func TestRefusesChecks(t *testing.T) {
	s, err := balance.New(&config.Cluster{Name: "c", Health: []*config.HealthCheck{{}}}, balance.Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := health.New(s, health.Options{}); err == nil || !strings.Contains(err.Error(), "health_checks[0]") {
		t.Error(err)
	}
}

// TestHandOver: a checker that follows another does not condemn a host for its
// first bad answer, and tells of each when asked to.
func TestHandOver(t *testing.T) {
	h := &web{}
	h.status.Store(200)
	srv := httptest.NewServer(h)
	defer srv.Close()
	w := begin(t, config.HealthCheck{HTTP: &config.HTTPCheck{Path: "/"}}, nil, endpoint(srv.Listener.Addr()))
	w.hears("true")
	host := w.s.Hosts()[0]
	old := w.s.Cluster()
	next := *old
	hc := *old.Health[0]
	hc.UnhealthyAfter, hc.AlwaysLogFailures = 1<<30, true
	hc.HTTP = &config.HTTPCheck{Path: "/", Retriable: [][2]int{{503, 504}}}
	next.Health = []*config.HealthCheck{&hc}
	s, err := balance.New(&next, balance.Options{Events: w}, w.s)
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan string)
	ck, err := health.New(s, health.Options{Failed: func(_ *balance.Host, why string) { failed <- why }})
	if err != nil {
		t.Fatal(err)
	}
	h.status.Store(503)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- ck.Run(ctx) }()
	for range 3 {
		select {
		case why := <-failed:
			if why != "status 503" {
				t.Error(why)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("no failure was told of")
		}
	}
	if s.Hosts()[0] != host || !host.Healthy() {
		t.Errorf("the host is %s", host.Health())
	}
	cancel()
	for {
		select {
		case <-failed:
		case <-done:
			return
		}
	}
}

// TestParallelBound: many hosts that hang, and never more checks than allowed.
func TestParallelBound(t *testing.T) {
	l := listen(t)
	var open, most atomic.Int32
	go http.Serve(l, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if n := open.Add(1); n > most.Load() {
			most.Store(n)
		}
		<-r.Context().Done()
		open.Add(-1)
	}))
	var eps []*config.Endpoint
	for i := range 50 {
		ep := endpoint(l.Addr())
		ep.Host = fmt.Sprint("h", i) // distinct hosts at one address
		eps = append(eps, ep)
	}
	hc := &config.HealthCheck{Timeout: 30 * time.Millisecond, HTTP: &config.HTTPCheck{Path: "/"}}
	w := &ward{T: t, said: make(chan string, 100)}
	s, err := balance.New(&config.Cluster{Health: []*config.HealthCheck{hc}, Endpoints: &config.Endpoints{Localities: []*config.Locality{{Hosts: eps}}}}, balance.Options{Events: w}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ck, err := health.New(s, health.Options{Parallel: 4})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- ck.Run(ctx) }()
	for range eps {
		w.hears("false")
	}
	cancel()
	<-done
	// A handler learns of an end a little later than the check that ended.
	if n := most.Load(); n == 0 || n > 12 {
		t.Errorf("up to %d checks were under way at the server, with 4 allowed", n)
	}
}
