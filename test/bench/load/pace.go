// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// maxHead bounds the head of a response.
const maxHead = 16 << 10

// pacer is one thread that keeps a timetable. Request k is due at
// start + k/rate, on connection k mod len(conns); a connection whose answer
// is late sends the next one when it can, and the wait counts.
type pacer struct {
	conns   []paced
	request []byte
	to      unix.SockaddrInet4
	start   time.Time
	every   float64 // nanoseconds between two requests
	closed  bool    // no timetable: a request is due when its connection is free
	from    time.Time
	until   time.Time
	hist    Hist
	result  Result
	buf     []byte
}

// paced is one connection.
type paced struct {
	fd   int
	sent time.Time
	k    int64 // the request it waits for, or will send next
	busy bool
	head []byte
	body int // bytes still to come; -1 while the head is read
}

// Pace sends GET requests at j.Rate over j.Conns connections. Without a rate
// each connection sends when it has its answer: so much this client can draw
// from the server, which is what a rate must be chosen by.
func Pace(ctx context.Context, j Job) (Result, error) {
	if j.Conns <= 0 || j.Rate < 0 || !j.Addr.Addr().Is4() {
		return Result{}, errors.New("load: pace needs connections, a rate and an IPv4 address")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p := &pacer{conns: make([]paced, j.Conns), closed: j.Rate == 0, every: 1e9 / max(j.Rate, 1), buf: make([]byte, 256<<10),
		request: fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", j.Path, j.Addr),
		to:      unix.SockaddrInet4{Port: int(j.Addr.Port()), Addr: j.Addr.Addr().As4()}}
	defer p.close()
	return p.run(ctx, j)
}

func (p *pacer) run(ctx context.Context, j Job) (Result, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return Result{}, err
	}
	defer unix.Close(ep)
	clock, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return Result{}, err
	}
	defer unix.Close(clock)
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, clock, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: -1}); err != nil {
		return Result{}, err
	}
	for i := range p.conns {
		p.conns[i].k = int64(i)
		if err := p.dial(ep, i); err != nil {
			return Result{}, fmt.Errorf("connect to %s: %w", j.Addr, err)
		}
	}
	p.start = time.Now()
	p.from = p.start.Add(j.Warm)
	p.until = p.from.Add(j.For)
	for i := range p.conns {
		if p.closed {
			p.send(&p.conns[i])
		}
	}
	next := int64(0) // the timetable's position
	events := make([]unix.EpollEvent, 512)
	// After the end it waits for what is under way: a proxy whose client leaves
	// early gives up the connection to the origin too, and pays for a new one
	// when the next turn begins.
	for late := p.until.Add(2 * time.Second); ctx.Err() == nil; {
		now := time.Now()
		if now.After(p.until) && !p.waiting() || now.After(late) {
			break
		}
		for ; !p.closed && now.Before(p.until) && !p.due(next).After(now); next++ {
			c := &p.conns[next%int64(len(p.conns))]
			if c.busy || c.k != next {
				continue // it sends when its answer has come
			}
			if now.Sub(p.due(next)) > time.Millisecond && now.After(p.from) {
				p.result.Behind++
			}
			p.send(c)
		}
		if !p.closed && now.Before(p.until) {
			spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(time.Until(p.due(next)), 1)))}
			if err := unix.TimerfdSettime(clock, 0, &spec, nil); err != nil {
				return Result{}, err
			}
		}
		n, err := unix.EpollWait(ep, events, 100)
		if err != nil && err != unix.EINTR {
			return Result{}, err
		}
		for _, e := range events[:max(n, 0)] {
			if e.Fd >= 0 { // else the clock, which is edge-triggered and needs no reading
				p.ready(ep, int(e.Fd))
			}
		}
	}
	p.result.P50, p.result.P99, p.result.P999 = p.hist.Quantile(0.5), p.hist.Quantile(0.99), p.hist.Quantile(0.999)
	p.result.Took = min(time.Since(p.from), j.For)
	return p.result, ctx.Err()
}

func (p *pacer) due(k int64) time.Time { return p.start.Add(time.Duration(float64(k) * p.every)) }

// dial connects and arms connection i. Blocking is right: it happens before
// the timetable starts, or after an error that is counted anyway.
func (p *pacer) dial(ep, i int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Connect(fd, &p.to), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1), unix.SetNonblock(fd, true),
		unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)})); err != nil {
		unix.Close(fd)
		return err
	}
	p.conns[i].fd, p.conns[i].busy, p.conns[i].body = fd, false, -1
	p.conns[i].head = p.conns[i].head[:0]
	return nil
}

// send writes the request. What fails here comes back as an event: the
// kernel takes a small request whole or has closed the connection.
func (p *pacer) send(c *paced) {
	c.busy, c.sent = true, time.Now()
	unix.Write(c.fd, p.request) //nolint:errcheck // seen by ready
}

// ready reads what came for connection i.
func (p *pacer) ready(ep, i int) {
	c := &p.conns[i]
	n, err := unix.Read(c.fd, p.buf)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return
	case err != nil || n == 0 || !c.busy:
		p.broken(ep, c)
		return
	}
	done, ok := c.feed(p.buf[:n])
	if !ok {
		p.broken(ep, c)
		return
	}
	if !done {
		return
	}
	now, due := time.Now(), p.due(c.k)
	if p.closed {
		due = c.sent
	}
	if due.After(p.from) && due.Before(p.until) {
		p.result.Done++
		p.hist.Add(now.Sub(due))
	}
	c.busy = false
	c.k += int64(len(p.conns))
	if now.Before(p.until) && (p.closed || !p.due(c.k).After(now)) {
		p.send(c)
	}
}

// waiting says whether an answer is still to come.
func (p *pacer) waiting() bool {
	return slices.ContainsFunc(p.conns, func(c paced) bool { return c.busy })
}

// broken counts an error and connects anew. The request is lost; its
// connection goes on with the next one that is not yet due.
func (p *pacer) broken(ep int, c *paced) {
	p.result.Errors++
	unix.Close(c.fd)
	for now := time.Now(); !p.closed && !p.due(c.k).After(now); c.k += int64(len(p.conns)) {
	}
	for i := range p.conns {
		if &p.conns[i] != c {
			continue
		}
		if p.dial(ep, i) != nil {
			c.fd = -1
		} else if p.closed {
			p.send(c)
		}
	}
}

func (p *pacer) close() {
	for i := range p.conns {
		if p.conns[i].fd > 0 {
			unix.Close(p.conns[i].fd)
		}
	}
}

// feed takes bytes of the one response that is awaited. It is done when the
// response is whole and not ok when it is not a 200 with a length.
func (c *paced) feed(b []byte) (done, ok bool) {
	if c.body < 0 {
		c.head = append(c.head, b...)
		end := bytes.Index(c.head, []byte("\r\n\r\n"))
		if end < 0 {
			return false, len(c.head) < maxHead
		}
		length, ok := parse(c.head[:end])
		if !ok {
			return false, false
		}
		c.body = length - (len(c.head) - end - 4)
		c.head = c.head[:0]
	} else {
		c.body -= len(b)
	}
	if c.body < 0 {
		return false, false // more than the one answer
	}
	if c.body > 0 {
		return false, true
	}
	c.body = -1
	return true, true
}

// parse finds the length of a 200 response.
func parse(head []byte) (int, bool) {
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 200")) {
		return 0, false
	}
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("content-length")) {
			n, err := strconv.Atoi(string(bytes.TrimSpace(value)))
			return n, err == nil && n >= 0
		}
	}
	return 0, false
}

// Addr4 is a loopback address with the port.
func Addr4(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}
