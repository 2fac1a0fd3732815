// SPDX-License-Identifier: Apache-2.0

package serve_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/serve"
)

// origin is a server behind the proxy.
func origin(t testing.TB, h http.Handler, h2c bool) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(h2c)
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return netip.MustParseAddrPort(ln.Addr().String())
}

func cluster(name string, proto config.UpstreamProto, at ...netip.AddrPort) *config.Cluster {
	l := &config.Locality{}
	for _, a := range at {
		l.Hosts = append(l.Hosts, &config.Endpoint{Addr: a})
	}
	return &config.Cluster{Name: name, Upstream: proto, Endpoints: &config.Endpoints{Localities: []*config.Locality{l}}}
}

func routes(rs ...*config.Route) *config.RouteConfig {
	return &config.RouteConfig{Name: "routes", Hosts: []*config.VirtualHost{{Name: "all", Domains: []string{"*"}, Routes: rs}}}
}

func to(prefix, cluster string) *config.Route {
	return &config.Route{Match: config.Match{Path: prefix}, To: &config.Forward{Cluster: cluster}}
}

func httpListener(name string, m *config.HTTPManager) *config.Listener {
	m.Filters = append(m.Filters, &config.HTTPFilter{Name: "router", Config: &config.RouterFilter{}})
	return &config.Listener{Name: name, Addr: netip.MustParseAddrPort("127.0.0.1:0"), Chains: []*config.FilterChain{{HTTP: m}}}
}

func conf(ls []*config.Listener, cs ...*config.Cluster) *config.Config {
	c := &config.Config{Listeners: map[string]*config.Listener{}, Clusters: map[string]*config.Cluster{}}
	for _, l := range ls {
		c.Listeners[l.Name] = l
	}
	for _, k := range cs {
		c.Clusters[k.Name] = k
	}
	return c
}

// start serves cfg until the test ends.
func start(t testing.TB, cfg *config.Config) *serve.Server {
	t.Helper()
	s, err := serve.New(serve.Options{Loops: 2, Drain: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	up, done := make(chan error, 1), make(chan error, 1)
	go func() {
		done <- s.Run(ctx, func(context.Context) error { up <- s.Apply(cfg); return nil })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if err := <-up; err != nil {
		t.Fatal(err)
	}
	return s
}

func echo(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Trailer", "X-Sum")
	b, err := io.ReadAll(r.Body) // before it answers: net/http reads no more of a body once it does
	n := len(b)
	if err != nil {
		return
	}
	w.Write(b)
	if n == 0 {
		fmt.Fprintf(w, "%s %s %s", r.Method, r.Host, r.URL)
	}
	w.Header().Set("X-Sum", fmt.Sprint(n))
}

func client(t testing.TB, h2c bool) *http.Client {
	p := new(http.Protocols)
	p.SetHTTP1(!h2c)
	p.SetUnencryptedHTTP2(h2c)
	tr := &http.Transport{Protocols: p}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func TestEveryPairOfVersions(t *testing.T) {
	at := origin(t, http.HandlerFunc(echo), true)
	s := start(t, conf([]*config.Listener{httpListener("web", &config.HTTPManager{Routes: routes(to("/one", "one"), to("/two", "two"))})},
		cluster("one", config.UpHTTP1, at), cluster("two", config.UpHTTP2, at)))
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for _, down := range []bool{false, true} {
		c := client(t, down)
		for _, up := range []string{"/one", "/two"} {
			t.Run(fmt.Sprintf("h2=%v%s", down, up), func(t *testing.T) {
				for i := range 20 {
					r, err := c.Get("http://" + s.Addr("web").String() + up + "/x?q=1")
					if err != nil {
						t.Fatal(i, err)
					}
					b, err := io.ReadAll(r.Body)
					r.Body.Close()
					if err != nil || r.StatusCode != 200 || !strings.HasSuffix(string(b), up+"/x?q=1") {
						t.Fatalf("%d %v %q %v", i, r.Status, b, err)
					}
				}
				for _, body := range []io.Reader{bytes.NewReader(big), io.MultiReader(bytes.NewReader(big))} {
					r, err := c.Post("http://"+s.Addr("web").String()+up, "application/octet-stream", body)
					if err != nil {
						t.Fatal(err)
					}
					b, err := io.ReadAll(r.Body)
					r.Body.Close()
					if err != nil || !bytes.Equal(b, big) {
						t.Fatalf("%d bytes of %d, %v", len(b), len(big), err)
					}
					if got := r.Trailer.Get("X-Sum"); got != fmt.Sprint(len(big)) {
						t.Errorf("trailer %q", got)
					}
				}
			})
		}
	}
}
