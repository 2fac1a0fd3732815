// SPDX-License-Identifier: Apache-2.0

package serve_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"redoubt.dev/proxy/serve"
	"redoubt.dev/proxy/xds"
)

// site is a bootstrap with one HTTP listener, in YAML. $a.b.C stands for the
// type of a filter.
type site struct {
	hosts     string   // virtual_hosts, a list
	routes    string   // instead: the routes of the only one, a list
	filters   string   // http_filters before the router, a list
	manager   string   // further fields of the connection manager, one a line
	chain     string   // further fields of the filter chain, one a line
	listener  string   // further fields of the listener, one a line
	clusters  []string // one line each
	listeners string   // further listeners, a list; {{name}} is a port of its own
	config    string   // further fields of the route configuration
	more      string   // further fields of the bootstrap
}

var short = regexp.MustCompile(`\$([a-z][\w.]+)`)

// full replaces the short names of types.
func full(s string) string {
	return short.ReplaceAllString(s, `"@type": type.googleapis.com/envoy.extensions.filters.$1`)
}

func indent(n int, s string) string {
	if s == "" {
		return ""
	}
	pad := strings.Repeat(" ", n)
	return pad + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n"+pad) + "\n"
}

func (s *site) yaml(ports func(name string) uint16) string {
	if s.hosts == "" {
		s.hosts = "- name: all\n  domains: [\"*\"]\n  routes:\n" + indent(2, s.routes)
	}
	var b strings.Builder
	b.WriteString(s.more + "\nstatic_resources:\n  clusters:\n")
	for _, c := range s.clusters {
		b.WriteString(indent(2, "- "+c))
	}
	fmt.Fprintf(&b, "  listeners:\n  - name: web\n    address: {socket_address: {address: 127.0.0.1, port_value: %d}}\n%s    filter_chains:\n    - filters:\n      - name: hcm\n        typed_config:\n          $network.http_connection_manager.v3.HttpConnectionManager\n          stat_prefix: web\n%s          http_filters:\n%s          - {name: router, typed_config: {$http.router.v3.Router}}\n          route_config:\n            name: r\n%s            virtual_hosts:\n%s%s",
		ports("web"), indent(4, s.listener), indent(10, s.manager), indent(10, s.filters), indent(12, s.config), indent(12, s.hosts), indent(6, s.chain))
	if s.listeners != "" {
		b.WriteString(regexp.MustCompile(`{{(\w+)}}`).ReplaceAllStringFunc(indent(2, s.listeners), func(m string) string { return fmt.Sprint(ports(m[2 : len(m)-2])) }))
	}
	return full(b.String())
}

// world is a proxy that serves a site.
type world struct {
	t    testing.TB
	s    *serve.Server
	url  string
	at   string
	port map[string]uint16
}

// freePort is one that nobody listens on, for a moment at least.
func freePort(t testing.TB) uint16 {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return netip.MustParseAddrPort(ln.Addr().String()).Port()
}

// until polls for what comes soon; what says what is missing, "" for nothing.
func until(t testing.TB, what func() string) {
	t.Helper()
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	late := time.After(20 * time.Second)
	for {
		missing := what()
		if missing == "" {
			return
		}
		select {
		case <-look.C:
		case <-late:
			t.Errorf("still after 20 s: %s", missing)
			return
		}
	}
}

func descriptors() int {
	ds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(ds)
}

// whole checks, when the test and all its parts have ended, that nothing is
// left of them. Call it first.
func whole(t testing.TB) {
	fds, gs := descriptors(), runtime.NumGoroutine()
	t.Cleanup(func() {
		until(t, func() string {
			if n, k := descriptors(), runtime.NumGoroutine(); n > fds || k > gs {
				runtime.GC() // io.Copy keeps pipes in a pool
				return fmt.Sprintf("%d descriptors, at first %d; %d goroutines, at first %d", n, fds, k, gs)
			}
			return ""
		})
		if t.Failed() && runtime.NumGoroutine() > gs {
			b := make([]byte, 64<<10)
			t.Logf("%s", b[:runtime.Stack(b, true)])
		}
	})
}

// bootstrap serves what yaml says and checks at the end that all accounts are
// settled.
func bootstrap(t testing.TB, yaml string) *serve.Server {
	t.Helper()
	b, err := xds.Parse([]byte(yaml), "test.yaml")
	if err != nil {
		t.Fatalf("%v\n%s", err, yaml)
	}
	s, err := serve.New(serve.Options{Loops: 2, Drain: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	up, done := make(chan error, 1), make(chan error, 1)
	go func() {
		done <- s.Run(ctx, func(context.Context) error { up <- s.Apply(b.Static); return nil })
	}()
	t.Cleanup(func() {
		until(t, s.Owing)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if left := s.Held(); left != "" {
			t.Error(left)
		}
		if n := s.Faults(); n > 0 {
			t.Errorf("%d handlers failed", n)
		}
	})
	if err := <-up; err != nil {
		t.Fatal(err)
	}
	return s
}

func open(t testing.TB, s site) *world {
	t.Helper()
	w := &world{t: t, port: map[string]uint16{}}
	yaml := s.yaml(func(name string) uint16 {
		if w.port[name] == 0 {
			w.port[name] = freePort(t)
		}
		return w.port[name]
	})
	w.s = bootstrap(t, yaml)
	w.at = w.s.Addr("web").String()
	w.url = "http://" + w.at
	return w
}

// host is a cluster in one line, with further fields.
func host(name, more string, at ...netip.AddrPort) string {
	var eps []string
	for _, a := range at {
		eps = append(eps, fmt.Sprintf("{endpoint: {address: {socket_address: {address: %s, port_value: %d}}}}", a.Addr(), a.Port()))
	}
	if more != "" {
		more += ", "
	}
	return fmt.Sprintf("{name: %s, connect_timeout: 1s, %sload_assignment: {cluster_name: %s, endpoints: [{lb_endpoints: [%s]}]}}", name, more, name, strings.Join(eps, ", "))
}

// speaks2 has a cluster speak HTTP/2.
const speaks2 = `typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}`

// answer is a response with its body read.
type answer struct {
	*http.Response
	body string
}

func (a *answer) String() string { return fmt.Sprint(a.Status, " ", a.Header, " ", a.body) }

// ask does one request. fields are names and values; the method may stand
// before the path.
func (w *world) ask(c *http.Client, target, body string, fields ...string) *answer {
	w.t.Helper()
	a, err := w.try(c, target, body, fields...)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

func (w *world) try(c *http.Client, target, body string, fields ...string) (*answer, error) {
	method := "GET"
	if m, path, ok := strings.Cut(target, " "); ok {
		method, target = m, path
	} else if body != "" {
		method = "POST"
	}
	var b io.Reader
	if body != "" {
		b = strings.NewReader(body)
	}
	r, err := http.NewRequest(method, w.url+target, b)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(fields); i += 2 {
		if fields[i] == "host" {
			r.Host = fields[i+1]
			continue
		}
		r.Header.Add(fields[i], fields[i+1])
	}
	resp, err := c.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return &answer{resp, string(got)}, err
}

// plain is a client that follows no redirects, adds nothing of its own and
// keeps no connection beyond the test.
func plain(t testing.TB, h2c bool) *http.Client {
	c := client(t, h2c)
	c.Transport.(*http.Transport).DisableCompression = true
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c
}

// wire is a connection spoken to by hand.
type wire struct {
	net.Conn
	r *bufio.Reader
	t testing.TB
}

func dialTo(t testing.TB, at string) *wire {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if errors.Is(err, syscall.ECONNRESET) { // refused faster than Dial looks: an end like any other
		var far net.Conn
		c, far = net.Pipe()
		far.Close()
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &wire{c, bufio.NewReader(c), t}
}

func (w *wire) say(s string) {
	w.t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		w.t.Fatal(err)
	}
}

// response reads the response to a request of that method.
func (w *wire) response(method string) *answer {
	w.t.Helper()
	r, err := http.ReadResponse(w.r, &http.Request{Method: method})
	if err != nil {
		w.t.Fatal(err)
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return &answer{r, string(b)}
}

// ended tells that the other side ended the connection, without another byte.
func (w *wire) ended() bool {
	w.t.Helper()
	n, _ := io.Copy(io.Discard, w.r)
	return n == 0
}

// script serves each connection with f, which has the head of each request.
func script(t testing.TB, f func(c net.Conn, r *bufio.Reader, head string)) netip.AddrPort {
	return tcpOrigin(t, func(c *net.TCPConn) {
		r := bufio.NewReader(c)
		for {
			var head bytes.Buffer
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				head.WriteString(line)
				if line == "\r\n" {
					break
				}
			}
			f(c, r, head.String())
		}
	})
}

// says is an origin that gives its name.
func says(t testing.TB, name string) netip.AddrPort {
	return origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Origin", name)
		io.WriteString(w, name)
	}), true)
}

// mirrorOf is an origin that answers with the request as it came.
func mirrorOf(t testing.TB) netip.AddrPort {
	return origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		fmt.Fprintf(w, "%s %s %s\n", r.Method, r.Host, r.URL.RequestURI())
		r.Header.Write(w)
		io.WriteString(w, "\n")
		w.Write(b)
	}), true)
}
