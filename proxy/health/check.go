// SPDX-License-Identifier: Apache-2.0

package health

import (
	"container/heap"
	"context"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/base/run"
	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
)

// Options are what a Checker needs beside the set. The zero value checks
// clusters in clear.
type Options struct {
	// TLS makes the configuration for one connection to a host of a cluster
	// with TLS. It may be called concurrently; nil from it means in clear.
	TLS func(*config.Cluster, *config.Endpoint) *tls.Config
	// Parallel bounds how many checks are under way; 0: 512. More wait.
	Parallel int
	// AgentName is the user-agent of checks by HTTP; "": "redoubt/HC".
	AgentName string
	// Failed hears of each failed check whose configuration says that all are
	// logged (always_log_health_check_failures), one at a time; it must not
	// block. Changes of mind are told to the set's Events. nil: nobody listens.
	Failed func(h *balance.Host, why string)
}

// Checker asks the hosts of one set how they are. When another set takes over,
// another checker does: it begins with what this one knew of the hosts.
type Checker struct {
	set    *balance.Set
	c      *config.Cluster
	o      Options
	probes []probe // of c.Health
	jobs   queue
	hosts  map[*balance.Host]*patient
	under  int
	busy   bool // the cluster has had traffic
	done   chan answer
}

// probe asks one host once. ctx ends at the timeout.
type probe interface {
	ask(ctx context.Context, t *target) finding
	close()
}

// finding is what a probe found.
type finding struct {
	verdict
	degraded bool
	why      string // for logs
}

// patient is one host with its checks.
type patient struct {
	h       *balance.Host
	targets []*target
}

// target is one check of one host.
type target struct {
	p        *patient
	i        int // of the check
	judge    judge
	degraded bool
	due      time.Time
	asked    bool     // a check is under way
	gone     bool     // the host has left
	conn     net.Conn // kept open by a check by TCP; belongs to the check under way
}

type answer struct {
	t *target
	f finding
}

// New makes the checker of s's cluster, which may have no checks. It starts
// nothing.
func New(s *balance.Set, o Options) (*Checker, error) {
	if o.Parallel <= 0 {
		o.Parallel = 512
	}
	if o.AgentName == "" {
		o.AgentName = "redoubt/HC"
	}
	c := &Checker{set: s, c: s.Cluster(), o: o, hosts: map[*balance.Host]*patient{}, done: make(chan answer, o.Parallel)}
	for i, hc := range c.c.Health {
		p, err := c.probe(hc)
		if err != nil {
			return nil, &errs.Error{Kind: errs.Invalid, Subject: "cluster " + c.c.Name, Field: "health_checks[" + strconv.Itoa(i) + "]",
				Expected: "one of http_health_check, tcp_health_check and grpc_health_check", Err: err}
		}
		c.probes = append(c.probes, p)
	}
	return c, nil
}

func (c *Checker) probe(hc *config.HealthCheck) (probe, error) {
	switch {
	case hc.HTTP != nil && hc.TCP == nil && hc.GRPC == nil:
		return newHTTP(c, hc, hc.HTTP.HTTP2), nil
	case hc.TCP != nil && hc.HTTP == nil && hc.GRPC == nil:
		return &tcp{c: c, hc: hc}, nil
	case hc.GRPC != nil && hc.HTTP == nil && hc.TCP == nil:
		return &grpc{newHTTP(c, hc, true)}, nil
	}
	return nil, errs.Invalid
}

// Run checks until ctx ends, and returns when all its checks have.
func (c *Checker) Run(ctx context.Context) error {
	if len(c.probes) == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	defer func() {
		for _, p := range c.probes {
			p.close()
		}
	}()
	g := run.New(ctx)
	g.Go("checks", func(ctx context.Context) error { return c.loop(ctx, g) })
	err := g.Wait()
	for _, p := range c.hosts {
		for _, t := range p.targets {
			t.hangUp()
		}
	}
	if err == nil {
		err = ctx.Err()
	}
	return err
}

// loop owns the state of all checks.
func (c *Checker) loop(ctx context.Context, g *run.Group) error {
	changed := make(chan struct{}, 1)
	defer c.set.Watch(func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})()
	timer := time.NewTimer(0)
	defer timer.Stop()
	stale, membersAt := true, time.Now()
	for {
		now := time.Now()
		wait := time.Hour
		if stale {
			if wait = membersAt.Sub(now); wait <= 0 {
				c.members(now)
				// When hosts come and go faster than they can be looked through, a
				// tenth of the time goes into it.
				done := time.Now()
				stale, membersAt, wait = false, done.Add(10*done.Sub(now)), time.Hour
			}
		}
		wait = min(wait, c.start(g))
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		case <-changed:
			stale = true
		case a := <-c.done:
			c.under--
			c.weigh(a)
		}
	}
}

// start begins the checks that are due, and gives the time until the next is.
func (c *Checker) start(g *run.Group) time.Duration {
	for c.under < c.o.Parallel && len(c.jobs) > 0 {
		t := c.jobs[0]
		if wait := time.Until(t.due); wait > 0 && !t.gone {
			return wait
		}
		heap.Pop(&c.jobs)
		if t.gone {
			continue
		}
		c.under++
		t.asked = true
		g.Go("check", func(ctx context.Context) error { c.done <- answer{t, c.ask(ctx, t)}; return nil })
	}
	return time.Hour
}

// members begins with hosts that came and forgets those that went.
func (c *Checker) members(now time.Time) {
	for h, p := range c.hosts {
		if h.Removed() {
			delete(c.hosts, h)
			p.leave()
		}
	}
	for _, h := range c.set.Members() {
		if c.hosts[h] != nil || h.Removed() {
			continue
		}
		p := &patient{h: h}
		c.hosts[h] = p
		for i, hc := range c.c.Health {
			t := &target{p: p, i: i, judge: trusting(h.Checked()), due: now.Add(upTo(hc.InitialJitter, rand.Uint64()))}
			p.targets = append(p.targets, t)
			heap.Push(&c.jobs, t)
		}
	}
}

// leave ends what is idle of p; a check under way ends by itself.
func (p *patient) leave() {
	for _, t := range p.targets {
		t.gone = true
		if !t.asked {
			t.hangUp()
		}
	}
}

// ask runs one check, off the loop.
func (c *Checker) ask(ctx context.Context, t *target) finding {
	ctx, cancel := context.WithTimeout(ctx, or(c.c.Health[t.i].Timeout, stdTimeout))
	defer cancel()
	return c.probes[t.i].ask(ctx, t)
}

// weigh takes an answer in: a host is healthy when all its checks say so.
func (c *Checker) weigh(a answer) {
	t := a.t
	t.asked = false
	if t.gone {
		t.hangUp()
		return
	}
	hc := c.c.Health[t.i]
	changed := t.judge.weigh(a.f.verdict, hc)
	t.degraded = a.f.degraded
	if a.f.verdict != good && hc.AlwaysLogFailures && c.o.Failed != nil {
		c.o.Failed(t.p.h, a.f.why)
	}
	c.busy = c.busy || t.p.h.Requests.Load() > 0 || t.p.h.Conns.Load() > 0
	t.due = time.Now().Add(t.judge.wait(hc, changed, c.busy, rand.Uint64()))
	heap.Push(&c.jobs, t)
	healthy, degraded := true, false
	for _, o := range t.p.targets {
		if !o.judge.seen {
			return // pending until every check has answered
		}
		healthy, degraded = healthy && o.judge.healthy, degraded || o.degraded
	}
	c.set.Checked(t.p.h, healthy, degraded, a.f.why)
}

// hangUp closes a connection that was kept for the next check.
func (t *target) hangUp() {
	if t.conn != nil {
		t.conn.Close()
		t.conn = nil
	}
}

// maxDial bounds a connection attempt that the HTTP client goes on with after
// its check has ended.
const maxDial = 30 * time.Second

// dial connects to the host's address for checks, with TLS where the cluster
// has it.
func (c *Checker) dial(ctx context.Context, ep *config.Endpoint, protos []string) (net.Conn, error) {
	d := net.Dialer{Timeout: maxDial}
	network, addr := "tcp", ep.Addr.String()
	switch {
	case ep.Pipe != "":
		network, addr = "unix", ep.Pipe
	case ep.HealthPort != 0:
		addr = netip.AddrPortFrom(ep.Addr.Addr(), ep.HealthPort).String()
	}
	if c.c.SourceAddr.IsValid() && ep.Pipe == "" {
		d.LocalAddr = &net.TCPAddr{IP: c.c.SourceAddr.AsSlice()}
	}
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil || c.c.TLS == nil || c.o.TLS == nil {
		return conn, err
	}
	tc := c.o.TLS(c.c, ep)
	if tc == nil {
		return conn, nil
	}
	tc = tc.Clone()
	if protos != nil {
		tc.NextProtos = protos
	}
	s := tls.Client(conn, tc)
	if err := s.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

// queue is a heap of targets by when they are due.
type queue []*target

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)        { *q = append(*q, x.(*target)) }
func (q *queue) Pop() any {
	old := *q
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return t
}
