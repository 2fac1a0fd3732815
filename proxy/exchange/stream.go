// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"redoubt.dev/proxy/authz"
	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/filter/trace"
	"redoubt.dev/proxy/message"
	"redoubt.dev/proxy/router"
)

// source is where a body comes from.
type source interface {
	// peek gives the next run of the body, nil while there is none. last says
	// that nothing follows it; a body with trailers ends with an empty run.
	peek() (p []byte, last bool, err error)
	// consume says that n bytes of the run were passed on.
	consume(n int)
	// trailers are those that came with the body's end, or nil.
	trailers() *message.Head
}

// sink is where a body goes.
type sink interface {
	// send takes what fits of p; with last, the body ends when all was taken.
	send(p []byte, last bool) int
	// finish ends the body; t may be nil.
	finish(t *message.Head)
}

// downstream is the side that asked.
type downstream interface {
	source
	sink
	// interim and head pass on a response's head. With end no body follows.
	interim(m *message.Response)
	head(m *message.Response, end bool)
	// tunnel says that after this response bytes pass both ways, unframed.
	tunnel()
	// over says that x's exchange has ended. whole means that the response
	// was complete; without it the client must see that it was not.
	over(x *Stream, whole bool)
	// broken tells that the client has gone.
	broken() bool
	// again has the stream pumped in the next turn.
	again()
}

// upstream is the side that answers.
type upstream interface {
	source
	sink
	// start sends the request's head. With end no body follows.
	start(m *message.Request, end bool)
	// response gives the next response head, as soon as there is one.
	// With end no body follows.
	response(m *message.Response) (ok, end bool, err error)
	tunnel()
	// switches2xx tells that 2xx, not 101, says yes to an upgrade.
	switches2xx() bool
	// release gives the connection back. With whole it may be used again,
	// without it the host must see that nobody waits any more.
	release(whole bool)
	// unheard tells that the request cannot have been acted on.
	unheard() bool
	// fresh tells that the connection was made for this request.
	fresh() bool
}

// phase is what a stream is doing.
type phase uint8

const (
	judging   phase = iota // filters have it
	gathering              // a filter wants the whole body first
	delayed                // a fault delays it
	seeking                // no host yet: it waits for a connection, or to try again
	forwarding
	answering // with a response of the proxy's own; what is left of the request is dropped
	ended
)

// Stream is one request and its response. It is reused.
type Stream struct {
	c     filter.Context
	w     *Worker
	m     *Manager
	down  downstream
	up    upstream
	phase phase

	lead   Lead         // nil: filters and routes
	Permit authz.Permit // set by the Lead; without one nothing is forwarded

	req   message.Request
	resp  message.Response
	reqT  message.Head // trailers
	respT message.Head

	next, prev *Stream // ring of the worker's streams
	poolNext   *Stream // queue of those that wait for a connection
	pool       *pool   // whose queue

	isHead    bool // the method is HEAD
	isGRPC    bool
	sent      bool // the request's head, on this attempt
	reqDone   bool // all of the request has been passed on
	stopped   bool // the host takes no more of the body; its response may still come
	headDone  bool // the response's head has been passed on
	respDone  bool
	tunnelled bool
	unborn    bool // its head is not whole yet
	shadow    bool // a mirror's copy
	noFilters bool // filters have not seen it: it was refused before

	filterAt   int
	holding    bool   // a filter will call Resume
	endConn    bool   // the client's connection ends after it, HTTP/2 too
	closeAfter bool   // the connection cannot go on after the response
	localAt    int    // bytes of local that were sent
	gen        uint32 // changes with each use, so that a late Resume meets nobody

	routes    *Routing
	fwd       *config.Forward
	retry     router.Retry
	limits    router.Timeouts
	sticky    router.Hashed
	parent    trace.Parent
	cluster   *Cluster
	host      *balance.Host
	ask       balance.Ask
	tried     []*balance.Host
	conns     int  // connect attempts of this try
	retries   int  // by policy
	replays   int  // without policy, since the request was not heard
	retryable bool // retry says something
	avoiding  bool // of hosts that were tried, whatever retry says
	admitted  bool // counted by the circuit breakers
	retrying  bool // the same, as a retry

	kept     []byte // the body's first bytes, to be sent again
	replayAt int    // how many of them were sent on this attempt
	keeping  bool
	keptAll  bool // kept ends with the body
	lost     bool // bytes were sent that are not in kept: there is no second time
	reqOut   held // what a request transform has made and nobody has taken
	respOut  held
	toUp     way
	toDown   way
	local    []byte // body of a local reply
	own      filter.LocalReply

	t        engine.Timer
	timeout  int64 // of the response, ns, from the request's end; 0 for none
	most     int64 // deadline of the stream, whatever it does
	rateFrom int64
	total    int64 // deadlines by Mono; 0 for none
	try      int64
	tryBegan int64
	again    int64 // when a retry, or a delayed request, goes on
	lastByte int64
	idle     int64 // longest silence, ns; 0 for none
	mirrors  []*mirror
	interims int
	h1       *h1server
	peer     *PeerCount // of the identity of the client; nil without one
	h2d      h2side
	h2u      h2call
}

// held is a transform's output that waits.
type held struct {
	b    []byte
	done bool // the last of it
	off  int
}

// Bounds.
const (
	turnBytes  = 512 << 10 // moved for one stream before others have their turn
	readAhead  = 128 << 10
	keepMax    = 64 << 10 // of a request's body, to send it again
	maxInterim = 16       // 1xx responses per request
	maxReplays = 3
)

// begin starts the exchange whose head is in x.req.
func (x *Stream) begin() {
	w := x.w
	x.gen++
	x.phase = judging
	x.c.Req = &x.req
	x.c.Began = w.l.Now()
	x.lastByte = x.c.Began
	method := x.req.In(x.req.Method)
	x.isHead = string(method) == "HEAD"
	if t, ok := x.req.Get(message.ContentType); ok {
		x.isGRPC = isGRPC(t)
	}
	x.m.count(w).Requests++
	x.m.count(w).Active++
	x.idle = x.m.streamIdle
	if x.req.Length == 0 && !x.tunnels() {
		x.whole()
	} else if d := x.m.cfg.RequestTimeout; d > 0 {
		x.total = x.c.Began + int64(d)
	}
	gen := x.gen
	if x.m.holds {
		x.c.Resume = func(v filter.Verdict) {
			if x.gen == gen {
				x.resume(v)
			}
		}
	}
	x.arm()
	if x.lead != nil {
		x.follow()
	} else if x.enter() {
		x.filterFrom(0)
	}
	if x.gen == gen && x.phase == forwarding {
		x.pump() // the body's first bytes may be there, and will raise no event
	}
}

// filterFrom has the filters from i on look at the request.
func (x *Stream) filterFrom(i int) {
	x.phase = judging
	v := x.m.chain.Request(&x.c, i)
	switch {
	case x.phase == ended:
	case v == filter.Hold:
		x.holding = true
	case v == filter.Reply && x.c.Delay > 0:
		x.wait()
	case v == filter.Reply:
		x.answerFilter()
	case v == filter.NeedBody:
		x.filterAt = x.c.At
		x.gather()
	case x.c.BufferRequest > 0 && !x.keptAll:
		x.filterAt = x.m.chain.Len()
		x.gather()
	case x.c.Delay > 0:
		x.wait()
	default:
		x.route()
	}
}

// wait goes on after the delay that a filter asked for.
func (x *Stream) wait() {
	x.phase = delayed
	x.again = x.w.l.Now() + int64(x.c.Delay)
	x.c.Delay = 0
	x.arm()
}

// resume goes on after a filter that answered Hold.
func (x *Stream) resume(v filter.Verdict) {
	if !x.holding {
		return
	}
	x.holding = false
	gen := x.gen
	switch v {
	case filter.Reply:
		x.answerFilter()
	case filter.NeedBody:
		x.filterAt = x.c.At
		x.gather()
	default:
		x.filterFrom(x.c.At + 1)
	}
	if x.gen == gen {
		x.pump()
	}
}

func (x *Stream) answerFilter() {
	l := x.c.Local
	if l == nil {
		l = &replyNoAnswer
	}
	x.answer(l)
}

// gather holds the request until its body is whole, or as much of it as a
// filter wants to see.
func (x *Stream) gather() {
	x.phase = gathering
	if x.req.Continue {
		x.req.Continue = false
		x.resp.Reset()
		x.resp.Status = 100
		x.down.interim(&x.resp)
		x.resp.Reset()
	}
	x.pumpGather()
}

func (x *Stream) pumpGather() {
	bound := x.c.BufferRequest
	for !x.keptAll {
		p, last, err := x.down.peek()
		if err != nil {
			x.badRequest(err)
			return
		}
		if room := bound - len(x.kept); len(p) > room {
			if !x.c.BufferPartial {
				x.reply(413, "request_payload_too_large")
				return
			}
			p, last = p[:room], false
			if room == 0 {
				break
			}
		}
		if len(p) > 0 {
			x.kept = append(x.kept, p...)
			x.c.BytesIn += uint64(len(p))
			x.lastByte = x.w.l.Now()
			x.down.consume(len(p))
		}
		if last {
			x.keptAll = true
			x.whole()
			break
		}
		if len(p) == 0 {
			return
		}
	}
	if x.keptAll && !x.c.BufferPartial {
		x.req.Length = int64(len(x.kept))
	}
	x.c.Body, x.c.BodyWhole = x.kept, x.keptAll
	x.c.BufferRequest, x.c.BufferPartial = 0, false
	x.filterFrom(x.filterAt)
}

// pump moves what can be moved.
func (x *Stream) pump() {
	switch x.phase {
	case gathering:
		if x.gone() {
			return
		}
		x.pumpGather()
		if x.phase == forwarding {
			x.pump()
		}
		return
	case judging, delayed, seeking:
		x.gone()
		return
	case answering:
		x.pumpAnswer()
		return
	case ended:
		return
	}
	if x.gone() {
		return
	}
	gen := x.gen
	for spent := 0; spent < turnBytes; {
		n := x.pumpRequest()
		if x.gen != gen || x.phase != forwarding {
			return
		}
		m := x.pumpResponse()
		if x.gen != gen || x.phase != forwarding {
			return
		}
		if x.respDone && (x.reqDone || !x.tunnelled) {
			x.finish(true)
			return
		}
		if n+m == 0 {
			return
		}
		spent += n + m
	}
	x.down.again()
}

// gone ends an exchange whose client is gone.
func (x *Stream) gone() bool {
	if !x.down.broken() {
		return false
	}
	x.c.Flags |= filter.FlagDownstreamGone
	x.c.Detail = "downstream_remote_disconnect"
	x.finish(false)
	return true
}

// pumpRequest passes on what there is of the request's body.
func (x *Stream) pumpRequest() (n int) {
	if x.reqDone || x.stopped || x.tunnels() && !x.tunnelled && x.req.Length <= 0 && !x.keptAll {
		return 0 // what follows an upgrade belongs to the protocol that it leads to
	}
	// What was sent before, on another connection, comes first.
	if x.replayAt < len(x.kept) {
		last := x.keptAll && len(x.reqT.Fields) == 0
		n = x.up.send(x.kept[x.replayAt:], last)
		x.replayAt += n
		if x.replayAt < len(x.kept) {
			return n
		}
		if last {
			x.requestDone()
			return n
		}
	}
	if x.keptAll {
		x.up.finish(x.requestTrailers())
		x.requestDone()
		return n + 1
	}
	for n < turnBytes/2 {
		k, done, err := x.carry(x.down, x.up, x.c.RequestBody, &x.reqOut, &x.toUp, x.keeping)
		if err != nil {
			x.badRequest(err)
			return n
		}
		x.c.BytesIn += uint64(k)
		n += k
		x.lost = x.lost || k > 0 && !x.keeping
		if done {
			x.requestDone()
			return n + 1
		}
		if k == 0 {
			break
		}
	}
	if n > 0 {
		x.lastByte = x.w.l.Now()
	}
	return n
}

func (x *Stream) requestTrailers() *message.Head {
	if len(x.reqT.Fields) == 0 {
		return nil
	}
	return &x.reqT
}

// carry moves one run from src to dst and gives the bytes that src was
// relieved of. done says that dst has been given the end.
func (x *Stream) carry(src source, dst sink, t filter.Transform, out *held, y *way, keep bool) (n int, done bool, err error) {
	if t != nil {
		return x.carryThrough(src, dst, t, out)
	}
	if y.moved >= bulk && !keep && x.mirrors == nil {
		if n, done, ok := y.splice(src, dst); ok {
			return n, done, nil
		}
	}
	p, last, err := src.peek()
	if err != nil {
		return 0, false, err
	}
	if len(p) == 0 {
		if last {
			dst.finish(src.trailers())
		}
		return 0, last, nil
	}
	n = dst.send(p, last)
	if n > 0 {
		if keep {
			x.keep(p[:n], last && n == len(p))
		}
		if x.mirrors != nil && src == source(x.down) {
			x.copyTo(p[:n])
		}
		src.consume(n)
		y.moved += n
	}
	return n, last && n == len(p), nil
}

// carryThrough is carry with a transform between.
func (x *Stream) carryThrough(src source, dst sink, t filter.Transform, out *held) (n int, done bool, err error) {
	if out.off == len(out.b) && !out.done {
		p, last, err := src.peek()
		if err != nil {
			return 0, false, err
		}
		if len(p) == 0 && !last {
			return 0, false, nil
		}
		p = p[:min(len(p), 16<<10)]
		last = last && len(p) <= 16<<10
		out.off = 0
		if out.b, err = t.Append(out.b[:0], p, last, src.trailers()); err != nil {
			return 0, false, err
		}
		out.done = last
		n = len(p)
		src.consume(n)
	}
	if out.off < len(out.b) {
		k := dst.send(out.b[out.off:], false)
		if x.mirrors != nil && src == source(x.down) {
			x.copyTo(out.b[out.off : out.off+k])
		}
		out.off += k
		if out.off < len(out.b) {
			return n, false, nil
		}
	}
	if out.done {
		dst.finish(src.trailers())
	}
	return max(n, 1), out.done, nil
}

// copyTo gives the mirrors what was passed on.
func (x *Stream) copyTo(p []byte) {
	for _, m := range x.mirrors {
		m.feed(p)
	}
}

// keep remembers bytes that were sent, as long as they are few.
func (x *Stream) keep(p []byte, last bool) {
	if len(x.kept)+len(p) > keepMax {
		x.unkeep()
		return
	}
	if n := len(x.w.keeps); cap(x.kept) == 0 && n > 0 {
		x.kept = x.w.keeps[n-1]
		x.w.keeps = x.w.keeps[:n-1]
	}
	x.kept = append(x.kept, p...)
	x.replayAt = len(x.kept)
	x.keptAll = last
}

// unkeep makes the request one that cannot be sent again.
func (x *Stream) unkeep() {
	x.lost = x.lost || len(x.kept) > 0
	x.keeping = false
	x.kept, x.replayAt, x.keptAll = x.kept[:0], 0, false
}

// requestDone notes that the host has been given all of the request.
func (x *Stream) requestDone() {
	x.reqDone = true
	for _, m := range x.mirrors {
		m.end(true)
	}
	x.lastByte = x.w.l.Now()
	if x.c.RequestSent == 0 {
		x.c.RequestSent = x.lastByte
	}
	if x.c.RequestWhole == 0 && !x.tunnelled {
		x.whole()
		x.arm()
	}
}

// whole notes that the client has sent all of its request: the time for that
// is over, and the response's begins. It runs over all attempts.
func (x *Stream) whole() {
	x.c.RequestWhole = x.w.l.Now()
	x.clock()
}

// clock starts the times of the response, once the request is whole and its
// route known.
func (x *Stream) clock() {
	now := x.w.l.Now()
	x.total = 0
	if x.timeout > 0 {
		x.total = now + x.timeout
	}
	if d := x.limits.PerTry; d > 0 && x.phase == forwarding && !x.headDone {
		x.try = now + int64(d)
	}
}
