// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/handover"
	"redoubt.dev/proxy/handover/wire"
)

// HandOver gives everything to the successor at the other end of p, and has
// Run end. On an error, whenever it comes, the server goes on: with all it has
// when the successor had not begun, with what was not given away when it had.
func (s *Server) HandOver(ctx context.Context, p *handover.Session) error {
	o := &departure{s: s, p: p, prove: s.o.Prove, stay: map[*engine.Conn]bool{}}
	if err := o.prepare(ctx); err != nil {
		o.refuse(err)
		return err
	}
	began := time.Now()
	if err := o.commit(); err != nil {
		o.rollBack(err)
		return err
	}
	if err := o.move(ctx); err != nil {
		o.rollBack(err)
		return err
	}
	left := int64(0)
	for _, l := range s.loops {
		left += l.Load()
	}
	if err := p.Send(frameDone, nil, nil, sendTime); err != nil {
		o.rollBack(err)
		return err
	}
	if f, err := o.p.Expect(frameTaken, takenTime); err == nil {
		f.Close()
	}
	s.log.Info("handed over", "connections", o.moved, "left", left, "reasons", o.reasons(), "took", time.Since(began).Round(time.Millisecond).String(),
		"stood_still_most", o.still.Round(time.Microsecond).String())
	p.Keep()
	s.heir.last = p
	s.stop()
	return nil
}

// departure is one upgrade, seen by the old process.
type departure struct {
	s       *Server
	p       *handover.Session
	prove   time.Duration
	version uint64 // of the configuration that the successor was welcomed with
	moved   int
	still   time.Duration // the longest that a batch was nobody's
	why     map[string]int
	stay    map[*engine.Conn]bool // the successor has no place for them: they drain here
}

// prepare goes as far as the roll-back point. Nothing changes here.
func (o *departure) prepare(ctx context.Context) error {
	body, fds, version := o.s.welcome(engine.Base())
	o.version = version
	if err := o.p.Send(handover.KindWelcome, body, fds, sendTime); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, o.p.Interrupt) // SIGTERM ends the waits
	defer stop()
	f, err := o.p.Expect(frameReady, readyTime)
	if err != nil {
		return fmt.Errorf("wait for the successor's configuration: %w", err)
	}
	f.Close()
	for until := time.Now().Add(o.prove); ; {
		f, err := o.p.Expect(frameBeat, beatMost)
		if err != nil {
			return fmt.Errorf("wait for the successor to prove itself: %w", err)
		}
		f.Close()
		if time.Now().After(until) {
			return nil
		}
	}
}

// commit stops accepting and has the successor begin.
func (o *departure) commit() error {
	s := o.s
	s.mu.Lock()
	changed := s.version != o.version
	if !changed {
		s.heir.leaving.Store(true)
	}
	s.mu.Unlock()
	if changed {
		return errs.New(errs.Stale, "upgrade", "the configuration changed meanwhile; try again")
	}
	counts := s.gather().export()
	s.each((*worker).mute)
	s.each(func(*worker) {}) // behind what one loop has accepted for another
	var w wire.Writer
	w.Bytes(counts)
	s.exportTickets(&w)
	defer clear(w.B)
	return o.p.Send(frameCommit, w.B, nil, sendTime)
}

// refuse tells the successor that it is none. One that hears nothing before
// the socket closes knows that this process has died.
func (o *departure) refuse(cause error) {
	o.p.Send(handover.KindRefused, []byte(cause.Error()), nil, sendTime)
}

// rollBack serves on with what is here.
func (o *departure) rollBack(cause error) {
	o.refuse(cause)
	if o.p.Superseded() { // it thought us dead, and serves
		o.s.log.Error("a successor serves already; this process drains", "err", cause)
		o.s.stop()
		return
	}
	o.s.heir.leaving.Store(false)
	o.s.each((*worker).unmute)
}

// mute stops accepting; the sockets stay open.
func (w *worker) mute() {
	for _, a := range w.accepts {
		a.stop()
	}
	for _, d := range w.udp {
		w.l.Unwatch(d.watch) // sessions go on: answers leave by the same socket
		d.watch = engine.Watch{}
	}
}

// unmute accepts again, where mute had stopped it.
func (w *worker) unmute() {
	none := engine.Watch{}
	for ln, a := range w.accepts {
		if a.watch != none {
			continue
		}
		if err := a.listen(); err != nil {
			w.s.log.Error("cannot accept", "listener", ln.name, "err", err)
		}
	}
	for ln, d := range w.udp {
		if d.watch != none {
			continue
		}
		if err := d.listen(); err != nil {
			w.s.log.Error("cannot receive", "listener", ln.name, "err", err)
		}
	}
}

// move gives connections away until none is left that can move.
func (o *departure) move(ctx context.Context) error {
	end := time.Now().Add(moveTime)
	pause := time.NewTimer(0)
	defer pause.Stop()
	if err := o.rehearse(); err != nil {
		return err
	}
	for round := 0; ; round++ {
		o.why = map[string]int{}
		before := o.moved
		for _, w := range o.s.workers {
			if err := o.moveLoop(ctx, w, round); err != nil {
				return err
			}
		}
		if len(o.why) == 0 && o.moved == before || time.Now().After(end) { // requests under way may have made new ones
			return nil
		}
		wait := time.Millisecond
		if o.moved == before {
			wait = 5 * time.Millisecond
		}
		pause.Reset(wait)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-pause.C:
		}
	}
}

// rehearse has the successor adopt nothing: one that hangs here holds up
// nobody.
func (o *departure) rehearse() error {
	var out wire.Writer
	out.U32(0)
	out.Fill(out.Hole())
	if _, err := o.ask(&batch{body: out.B}); err != nil {
		return err
	}
	return o.p.Send(frameGo, nil, nil, sendTime)
}

// moveLoop gives away what one loop has.
func (o *departure) moveLoop(ctx context.Context, w *worker, round int) error {
	var list []*engine.Conn
	if !w.do(func() { list = w.survey(o.stay) }) {
		return errs.New(errs.Unavailable, "upgrade", "the proxy is ending")
	}
	most := batchConns
	if o.moved == 0 {
		most = 1 // the first shows whether it works at all
	}
	for len(list) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var b *batch
		if !w.do(func() { b, list = w.pack(list, most, o.why) }) {
			return errs.New(errs.Unavailable, "upgrade", "the proxy is ending")
		}
		if b == nil {
			continue
		}
		if err := o.give(b); err != nil {
			return err
		}
		most = batchConns
	}
	return nil
}

// do runs f on the loop and waits for it; false when the loop has ended.
func (w *worker) do(f func()) bool {
	done := make(chan struct{})
	if !w.l.Post(func() { defer close(done); f() }) {
		return false
	}
	<-done
	return true
}

// survey lists the loop's connections but those that stay, those first on
// which nothing is under way.
func (w *worker) survey(stay map[*engine.Conn]bool) []*engine.Conn {
	var quiet, busy []*engine.Conn
	w.l.Each(func(c *engine.Conn, h engine.Handler) {
		if stay[c] {
			return
		}
		if isQuiet(h) {
			quiet = append(quiet, c)
		} else {
			busy = append(busy, c)
		}
	})
	return append(quiet, busy...)
}

// batch is what moves in one step.
type batch struct {
	w     *worker
	cargo []cargo
	fds   []int
	body  []byte
	conns int
	since time.Time
}

// pack freezes the first of the list that can move.
func (w *worker) pack(list []*engine.Conn, most int, why map[string]int) (*batch, []*engine.Conn) {
	b := &batch{w: w, since: time.Now()}
	var out wire.Writer
	out.U32(uint32(w.n))
	count := out.Hole()
	for len(list) > 0 && b.conns < most && len(out.B) < batchBytes && time.Since(b.since) < batchSpend {
		c := list[0]
		list = list[1:]
		if !w.l.Has(c) || !c.Alive() {
			continue // given to another loop since the list was made, ended, or in a cargo already
		}
		g, kind, reason := w.load(c, c.Handler())
		if g == nil || !g.Freeze() {
			if reason == "" {
				reason = "connection has failed"
			}
			why[reason]++
			continue
		}
		conns, before := g.Conns(), len(out.B)
		out.U8(kind)
		out.U32(uint32(len(conns)))
		at := out.Hole()
		g.Export(&out)
		out.Fill(at)
		if len(out.B)-before > cargoBytes {
			out.B = out.B[:before]
			g.Thaw()
			why["holds too much"]++
			continue
		}
		for _, c := range conns {
			b.fds = append(b.fds, c.Frozen())
		}
		b.conns += len(conns)
		b.cargo = append(b.cargo, g)
	}
	if len(b.cargo) == 0 {
		return nil, list
	}
	out.Fill(count) // doubles as the length of the rest: one number, checked
	b.body = out.B
	return b, list
}

// give sends a batch. On an error everything in it goes on here.
func (o *departure) give(b *batch) error {
	taken, err := o.ask(b)
	clear(b.body)
	if err == nil {
		err = o.p.Send(frameGo, nil, nil, sendTime)
	}
	if err != nil {
		b.w.do(func() {
			for _, g := range b.cargo {
				g.Thaw()
			}
		})
		return err
	}
	o.still = max(o.still, time.Since(b.since))
	var wg sync.WaitGroup
	wg.Add(1)
	if !b.w.l.Post(func() {
		defer wg.Done()
		for i, g := range b.cargo {
			if taken[i] {
				o.moved += len(g.Conns())
				g.Yield()
			} else {
				for _, c := range g.Conns() {
					o.stay[c] = true
				}
				g.Thaw()
			}
		}
	}) {
		wg.Done()
	}
	wg.Wait()
	return nil
}

// ask has the successor adopt a batch.
func (o *departure) ask(b *batch) ([]bool, error) {
	if err := o.p.Send(frameBatch, b.body, b.fds, sendTime); err != nil {
		return nil, err
	}
	f, err := o.p.Receive(verdictTime)
	for err == nil && f.Kind == frameBeat { // sent before it saw the commit
		f.Close()
		f, err = o.p.Receive(verdictTime)
	}
	if err == nil && f.Kind != frameVerdict {
		f.Close()
		err = errs.New(errs.Invalid, "upgrade", "frame %d instead of a verdict", f.Kind)
	}
	if err != nil {
		return nil, fmt.Errorf("wait for the successor to adopt: %w", err)
	}
	defer f.Close()
	r := wire.NewReader(f.Body)
	taken := make([]bool, len(b.cargo))
	for i := range taken {
		taken[i] = r.Bool()
	}
	return taken, r.Done()
}

// reasons lists why connections stayed.
func (o *departure) reasons() (out []string) {
	if n := len(o.stay); n > 0 {
		out = append(out, fmt.Sprintf("the successor has no place for it: %d", n))
	}
	for _, k := range slices.Sorted(maps.Keys(o.why)) {
		out = append(out, fmt.Sprintf("%s: %d", k, o.why[k]))
	}
	return out
}

// farewell sends the last counters, after all connections have ended.
func (s *Server) farewell() {
	if p := s.heir.last; p != nil {
		p.Send(frameBye, s.gather().export(), nil, sendTime)
		p.Close()
	}
}
