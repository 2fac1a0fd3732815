// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// Proto is what a client speaks.
type Proto string

// The protocols.
const (
	HTTP1 Proto = "http/1.1"
	HTTP2 Proto = "h2"  // in clear with prior knowledge, or over TLS by ALPN
	TCP   Proto = "tcp" // blocks that come back as they are
)

// Group is a number of clients of one kind.
type Group struct {
	Name    string
	Proto   Proto
	Addr    string
	Clients int
	TLS     *tls.Config   // nil in clear; with a certificate it is mTLS
	Every   time.Duration // between a client's requests; 0: one after the other
	Body    int           // bytes sent and expected back per request; 0: 64
}

// Report is what the clients of one group saw.
type Report struct {
	Name     string
	Requests int64         // answered in full and right
	Failed   int64         // answered wrongly, with an error status, or not at all
	Closed   int64         // connections that ended, or announced their end, before Stop
	Refused  int64         // connections that could not be opened again
	Max      time.Duration // the longest, from due to answered
	P50, P99 time.Duration // to the next power of √2
	First    string        // the first failure's words; "" without one
}

func (r Report) String() string {
	s := fmt.Sprintf("%s: %d requests, %d failed, %d closed, %d refused; p50 %v, p99 %v, longest %v", r.Name, r.Requests, r.Failed, r.Closed, r.Refused, r.P50, r.P99, r.Max)
	if r.First != "" {
		s += "; first: " + r.First
	}
	return s
}

// Load is running clients.
type Load struct {
	groups []*group
	stop   chan struct{}
	once   sync.Once
	wg     sync.WaitGroup
	ready  sync.WaitGroup
}

type group struct {
	Group
	requests, failed, closed, refused atomic.Int64
	max                               atomic.Int64
	hist                              [128]atomic.Int64 // two buckets per power of two, in ns
	first                             atomic.Pointer[string]
}

// Start connects all clients, each of which has had its first answer, or has
// failed to get one, when Start returns.
func Start(groups ...Group) *Load {
	l := &Load{stop: make(chan struct{})}
	serial := uint64(0)
	for _, g := range groups {
		if g.Body == 0 {
			g.Body = 64
		}
		gr := &group{Group: g}
		l.groups = append(l.groups, gr)
		for i := range g.Clients {
			serial++
			id := serial
			l.ready.Add(1)
			l.wg.Go(func() { l.client(gr, id, time.Duration(i)*g.Every/time.Duration(g.Clients)) })
		}
	}
	l.ready.Wait()
	return l
}

// client runs until Stop. offset spreads the clients over the period.
func (l *Load) client(g *group, id uint64, offset time.Duration) {
	ready := sync.OnceFunc(l.ready.Done)
	defer ready()
	ctx := context.Background()
	var c client
	defer func() {
		if c != nil {
			c.close()
		}
	}()
	body := make([]byte, g.Body)
	due := time.Now().Add(offset)
	for n := uint64(0); ; n++ {
		if !l.until(due) {
			return
		}
		if c == nil {
			var err error
			if c, err = g.dial(ctx); err != nil {
				g.refused.Add(1)
				g.note(err)
				ready()
				due = time.Now().Add(50 * time.Millisecond)
				continue
			}
		}
		fill(body, id, n)
		err := c.do(ctx, body)
		g.count(time.Since(due), err)
		if err != nil {
			c.close()
			c = nil
		}
		ready()
		if due = due.Add(g.Every); g.Every == 0 {
			due = time.Now()
		}
	}
}

// until waits for due; false means that the load ends.
func (l *Load) until(due time.Time) bool {
	wait := time.Until(due)
	if wait <= 0 {
		select {
		case <-l.stop:
			return false
		default:
			return true
		}
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-l.stop:
		return false
	case <-t.C:
		return true
	}
}

// count books one exchange. An announced end is a closed connection, but its
// request was answered.
func (g *group) count(d time.Duration, err error) {
	if err != nil {
		g.closed.Add(1)
		g.note(err)
		if !errors.Is(err, errClosing) {
			g.failed.Add(1)
			return
		}
	}
	g.requests.Add(1)
	for old := g.max.Load(); int64(d) > old && !g.max.CompareAndSwap(old, int64(d)); old = g.max.Load() {
	}
	g.hist[bucket(d)].Add(1)
}

func (g *group) note(err error) {
	s := err.Error()
	g.first.CompareAndSwap(nil, &s)
}

// bucket is twice the logarithm, plus one in the upper half.
func bucket(d time.Duration) int {
	n := uint64(max(d, 1))
	e := bits.Len64(n) - 1
	b := 2 * e
	if e > 0 && n&(1<<(e-1)) != 0 {
		b++
	}
	return b
}

// upper is a bucket's upper bound.
func upper(b int) time.Duration {
	d := time.Duration(1) << (b / 2)
	if b%2 == 0 {
		return d + d/2
	}
	return 2 * d
}

// Requests is how many have been answered so far, in all groups.
func (l *Load) Requests() (n int64) {
	for _, g := range l.groups {
		n += g.requests.Load()
	}
	return n
}

// Now reports without stopping.
func (l *Load) Now() []Report {
	var all []Report
	for _, g := range l.groups {
		all = append(all, g.report())
	}
	return all
}

// Stop lets each client finish its exchange, ends all, and reports in the
// order of the groups. It is safe to repeat.
func (l *Load) Stop() []Report {
	l.once.Do(func() { close(l.stop) })
	l.wg.Wait()
	return l.Now()
}

func (g *group) report() Report {
	r := Report{Name: g.Name, Requests: g.requests.Load(), Failed: g.failed.Load(), Closed: g.closed.Load(), Refused: g.refused.Load(), Max: time.Duration(g.max.Load())}
	if s := g.first.Load(); s != nil {
		r.First = *s
	}
	total := int64(0)
	for i := range g.hist {
		total += g.hist[i].Load()
	}
	sum := int64(0)
	for i := range g.hist {
		n := g.hist[i].Load()
		for p, d := range map[int64]*time.Duration{50: &r.P50, 99: &r.P99} {
			if rank := total * p / 100; sum <= rank && sum+n > rank {
				*d = min(upper(i), r.Max)
			}
		}
		sum += n
	}
	return r
}
