// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/exchange"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/secure"
)

// caller asks clusters off the loops, for filters that must: external
// authorisation, and the export of spans.
type caller struct {
	s *Server

	mu      sync.Mutex
	clients map[string]*outside
}

// maxCalls bounds requests under way to one cluster. Each has a bound of its
// own: a service that hangs must not keep the answers of others from listeners
// that have nothing to do with it.
const maxCalls = 1024

func newCaller(s *Server) *caller {
	return &caller{s: s, clients: map[string]*outside{}}
}

// HTTP implements filter.Caller. The cluster need not be there yet: it is
// looked for at each request.
func (c *caller) HTTP(cluster string) (filter.Doer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.clients[cluster]
	if o == nil {
		o = &outside{c: c, cluster: cluster, slots: make(chan struct{}, maxCalls)}
		c.clients[cluster] = o
	}
	return o, nil
}

func (c *caller) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.clients {
		o.drop()
	}
}

// outside is net/http's client for one cluster.
type outside struct {
	c       *caller
	cluster string
	slots   chan struct{} // requests under way

	mu     sync.Mutex
	cl     *exchange.Cluster // whose settings the transport has
	tr     *http.Transport
	picker *balance.Picker
}

var (
	errBusy  = &errs.Error{Kind: errs.Unavailable, Subject: "call to a cluster", Expected: "fewer at once"}
	errNoOne = errors.New("cluster has no host to ask")
)

// Do implements filter.Doer.
func (o *outside) Do(r *http.Request) (*http.Response, error) {
	select {
	case o.slots <- struct{}{}:
		defer func() { <-o.slots }()
	default:
		return nil, errBusy
	}
	tr, err := o.transport()
	if err != nil {
		return nil, err
	}
	return tr.RoundTrip(r)
}

// transport gives the one for the cluster in force.
func (o *outside) transport() (*http.Transport, error) {
	cl := (*o.c.s.clusters.Load())[o.cluster]
	if cl == nil {
		return nil, &errs.Error{Kind: errs.NotFound, Subject: "cluster", Seen: o.cluster}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cl == cl {
		return o.tr, nil
	}
	if o.tr != nil {
		o.tr.CloseIdleConnections()
	}
	p := new(http.Protocols)
	p.SetHTTP1(cl.Cfg.Upstream != config.UpHTTP2)
	p.SetUnencryptedHTTP2(cl.Cfg.Upstream == config.UpHTTP2)
	p.SetHTTP2(cl.Cfg.Upstream == config.UpHTTP2 || cl.Cfg.Upstream == config.UpAuto)
	o.cl, o.picker = cl, cl.Set.Picker(uint64(engine.Mono()))
	o.tr = &http.Transport{Protocols: p, MaxIdleConnsPerHost: 16, IdleConnTimeout: 50 * time.Second, DisableCompression: true,
		DialContext:    func(ctx context.Context, _, _ string) (net.Conn, error) { return o.dial(ctx, cl, false) },
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return o.dial(ctx, cl, true) },
	}
	return o.tr, nil
}

func (o *outside) dial(ctx context.Context, cl *exchange.Cluster, _ bool) (net.Conn, error) {
	o.mu.Lock()
	h, why := o.picker.Pick(&balance.Ask{Now: engine.Mono()})
	o.mu.Unlock()
	if why != balance.Found {
		return nil, errors.Join(errNoOne, why)
	}
	timeout := cl.Cfg.ConnectTimeout
	if timeout <= 0 {
		timeout = 5 * time.Second
	}
	network, addr := "tcp", h.Addr.String()
	if p := h.Endpoint().Pipe; p != "" {
		network, addr = "unix", p
	}
	d := net.Dialer{Timeout: timeout}
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil || cl.TLS == nil {
		return conn, err
	}
	t, ok := cl.TLS.(*secure.Client)
	if !ok {
		conn.Close()
		return nil, errNoOne
	}
	cfg := t.Config(secure.Target{Host: h.Name, Authority: h.Endpoint().Host, Identity: h.Endpoint().Identity, ALPN: []string{"h2", "http/1.1"}})
	if cfg == nil {
		conn.Close()
		return nil, errNoOne
	}
	secured := tls.Client(conn, cfg)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secured, nil
}

func (o *outside) drop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.tr != nil {
		o.tr.CloseIdleConnections()
	}
}
