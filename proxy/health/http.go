// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"redoubt.dev/proxy/config"
)

// web asks for a path, by HTTP/1.1 or HTTP/2.
type web struct {
	c     *Checker
	hc    *config.HealthCheck
	h2    bool
	rt    *http.Transport
	hosts sync.Map // target's name in URLs → *config.Endpoint, while a check is under way
}

func newHTTP(c *Checker, hc *config.HealthCheck, h2 bool) *web {
	p := &web{c: c, hc: hc, h2: h2}
	protos := new(http.Protocols)
	alpn := []string{"http/1.1"}
	if h2 {
		protos.SetHTTP2(true)
		protos.SetUnencryptedHTTP2(true)
		alpn = []string{"h2"}
	} else {
		protos.SetHTTP1(true)
	}
	dial := func(ctx context.Context, _, addr string) (net.Conn, error) {
		name, _, _ := net.SplitHostPort(addr)
		ep, ok := p.hosts.Load(name)
		if !ok {
			return nil, net.ErrClosed // the check that asked has ended
		}
		return c.dial(ctx, ep.(*config.Endpoint), alpn)
	}
	p.rt = &http.Transport{
		DialContext: dial, DialTLSContext: dial, Protocols: protos, DisableCompression: true, DisableKeepAlives: hc.NoReuse,
		MaxResponseHeaderBytes: 64 << 10, MaxIdleConnsPerHost: 1, MaxIdleConns: 0,
		IdleConnTimeout: 2*or(hc.Interval, stdInterval) + time.Minute,
	}
	return p
}

func (p *web) close() { p.rt.CloseIdleConnections() }

// send does one request to the target. Whatever the URL says, it goes to the
// host's address; the name in it keeps connections of hosts apart.
func (p *web) send(ctx context.Context, t *target, req *http.Request, host string) (*http.Response, error) {
	ep := t.p.h.Endpoint()
	name := "h" + strconv.FormatUint(t.p.h.ID, 10) + "-" + strconv.Itoa(int(ep.HealthPort))
	p.hosts.Store(name, ep)
	defer p.hosts.Delete(name)
	req.URL.Scheme, req.URL.Host = "http", name
	if p.c.c.TLS != nil && p.c.o.TLS != nil {
		req.URL.Scheme = "https"
	}
	if req.Host = ep.HealthHost; req.Host == "" {
		req.Host = host
	}
	if req.Host == "" {
		req.Host = p.c.c.Name
	}
	return p.rt.RoundTrip(req.WithContext(ctx))
}

func (p *web) ask(ctx context.Context, t *target) finding {
	c := p.hc.HTTP
	method := c.Method
	if method == "" {
		method = http.MethodGet
	}
	u, err := url.ParseRequestURI(c.Path)
	if err != nil {
		return finding{verdict: lost, why: err.Error()}
	}
	req := &http.Request{Method: method, URL: u, Header: http.Header{"User-Agent": {p.c.o.AgentName}}}
	for _, a := range c.Add {
		if a.Action == config.AppendOrAdd {
			req.Header.Add(a.Name, a.Value)
		} else {
			req.Header.Set(a.Name, a.Value)
		}
	}
	for _, name := range c.Remove {
		if strings.EqualFold(name, "user-agent") {
			req.Header["User-Agent"] = []string{""} // net/http's way to send none
			continue
		}
		req.Header.Del(name)
	}
	resp, err := p.send(ctx, t, req, c.Host)
	if err != nil {
		return finding{verdict: lost, why: err.Error()}
	}
	defer resp.Body.Close()
	return p.judge(resp)
}

// judge looks at a response.
func (p *web) judge(resp *http.Response) finding {
	c := p.hc.HTTP
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReceive))
	f := finding{why: "status " + strconv.Itoa(resp.StatusCode)}
	expected := c.Expected
	if len(expected) == 0 {
		expected = [][2]int{{200, 201}}
	}
	switch {
	case !in(resp.StatusCode, expected) && in(resp.StatusCode, c.Retriable):
		f.verdict = lost
	case !in(resp.StatusCode, expected):
		f.verdict = bad
	case resp.Header.Get("X-Envoy-Immediate-Health-Check-Fail") != "":
		f.verdict, f.why = bad, "asks to be left out"
	case c.Service != nil && !match(c.Service, resp.Header.Get("X-Envoy-Upstream-Healthchecked-Cluster")):
		f.verdict, f.why = bad, fmt.Sprintf("another service answers: %.64q", resp.Header.Get("X-Envoy-Upstream-Healthchecked-Cluster"))
	case err != nil:
		f.verdict, f.why = lost, err.Error()
	case !contains(body, c.Receive):
		f.verdict, f.why = bad, "the body is not what is expected"
	}
	f.degraded = f.verdict == good && resp.Header.Get("X-Envoy-Degraded") != ""
	return f
}

func in(status int, ranges [][2]int) bool {
	for _, r := range ranges {
		if r[0] <= status && status < r[1] {
			return true
		}
	}
	return false
}

// match compares a string as a StringMatcher does.
func match(m *config.StringMatch, s string) bool {
	if m.Kind == config.MatchRegex {
		return m.Regex != nil && m.Regex.MatchString(s)
	}
	want := m.Value
	if m.IgnoreCase {
		s, want = strings.ToLower(s), strings.ToLower(want)
	}
	switch m.Kind {
	case config.MatchPrefix:
		return strings.HasPrefix(s, want)
	case config.MatchSuffix:
		return strings.HasSuffix(s, want)
	case config.MatchContains:
		return strings.Contains(s, want)
	}
	return s == want
}
