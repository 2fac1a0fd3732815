// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/exchange"
	"redoubt.dev/proxy/handover"
	"redoubt.dev/proxy/handover/wire"
)

// adopt gives the predecessor's socket for c; nil when it has none.
func (in *Inheritance) adopt(c *config.Listener) *inherited {
	if in == nil {
		return nil
	}
	for i := range in.socks {
		k := &in.socks[i]
		if k.fd >= 0 && (k.at == c.Addr || k.asked == c.Addr && k.name == c.Name) && k.udp == (c.UDP != nil) && k.tran == c.Transparent {
			return k
		}
	}
	return nil
}

// TakeOver has the predecessor give this server, which has a configuration in
// force by now, everything it has. It returns when the predecessor only drains
// what it could not give. On an error before that this process should end: the
// predecessor serves on.
//
// later says that discovery may still bring listeners: they are waited for.
// take is called before the predecessor ends, to open what only one of both
// can have: from its return on a third process finds this one.
func (s *Server) TakeOver(ctx context.Context, later bool, take func() error) error {
	in := s.heir.in
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		in.Close()
	}()
	a := &accession{s: s, in: in, p: in.p}
	stop := context.AfterFunc(ctx, a.p.Close)
	defer stop()
	if err := in.fits(); err != nil {
		return err
	}
	s.warm(ctx, later)
	if err := a.p.Send(frameReady, nil, nil, sendTime); err != nil && !died(err) {
		return err
	}
	f, err := a.beat(ctx) // also after a send that met nobody: it may have said why before
	if died(err) {
		s.log.Error("the old process died before it gave anything but its sockets", "err", err)
		a.p.Close()
		a.accept()
		if err = take(); err == nil {
			s.log.Info("took over", "connections", 0)
		}
		return err
	}
	if err != nil {
		return err
	}
	if err := a.begin(f); err != nil {
		return err
	}
	for {
		done, err := a.step()
		switch {
		case err != nil && !died(err) && !errors.Is(err, os.ErrDeadlineExceeded):
			return err // it serves on; what is here drains
		case err != nil:
			// It has died, or hangs, with what it had not given. There is nobody but us.
			s.log.Error("the old process ended in the middle of the upgrade", "adopted", a.adopted, "err", err)
			a.p.Close()
			return take()
		case done:
			if err := take(); err != nil {
				return err
			}
			a.p.Send(frameTaken, nil, nil, sendTime) // it ends in any case
			s.log.Info("took over", "connections", a.adopted, "refused", a.refused)
			return nil
		}
	}
}

// fits tells that this process may have as many descriptors as it will be
// given.
func (in *Inheritance) fits() error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("ask for the limit of descriptors: %w", err)
	}
	if want := in.open + in.open/8 + 64; lim.Cur < want {
		return &errs.Error{Kind: errs.TooLarge, Subject: "upgrade", Field: "limit of descriptors", Expected: fmt.Sprintf("at least %d for %d connections", want, in.open), Seen: fmt.Sprint(lim.Cur), Fix: "raise LimitNOFILE or ulimit -n"}
	}
	return nil
}

// died tells that the predecessor ended without a word.
func died(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// Bye waits for the predecessor's last counters, at most so long.
func (s *Server) Bye(ctx context.Context, within time.Duration) {
	p := s.heir.in.p
	defer p.Close()
	stop := context.AfterFunc(ctx, p.Close)
	defer stop()
	f, err := p.Expect(frameBye, within)
	if err != nil {
		s.log.Warn("the old process's last counters are not known", "err", err)
		return
	}
	defer f.Close()
	if g, err := importCounts(f.Body); err == nil {
		s.heir.counts.Store(g)
	}
}

// accession is one upgrade, seen by the new process.
type accession struct {
	s                *Server
	in               *Inheritance
	p                *handover.Session
	adopted, refused int
}

// warm waits until health checks have spoken about every host, and, with
// later, until every socket of the predecessor has its listener: a while at
// most.
func (s *Server) warm(ctx context.Context, later bool) {
	end := time.NewTimer(warmTime)
	defer end.Stop()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for !s.judged() || later && !s.covered() {
		select {
		case <-ctx.Done():
			return
		case <-end.C:
			s.log.Warn("took up work before all hosts were checked and all listeners known")
			return
		case <-look.C:
		}
	}
}

func (s *Server) covered() bool {
	s.mu.Lock() // Apply takes sockets
	defer s.mu.Unlock()
	for i := range s.heir.in.socks {
		if s.heir.in.socks[i].fd >= 0 {
			return false
		}
	}
	return true
}

func (s *Server) judged() bool {
	for _, cl := range *s.clusters.Load() {
		if cl.Cfg.Discovery == config.OrigDst {
			continue
		}
		for _, h := range cl.Set.Hosts() {
			if strings.Contains(h.Health(), "pending_active_hc") {
				return false
			}
		}
	}
	return true
}

// beat shows that the loops turn until the predecessor commits. It gives that
// frame: the counters to go on from, and the keys of session tickets.
func (a *accession) beat(ctx context.Context) (*handover.Frame, error) {
	ctx, cancel := context.WithCancel(ctx)
	over := make(chan struct{})
	go func() {
		defer close(over)
		t := time.NewTicker(beatEvery)
		defer t.Stop()
		for ctx.Err() == nil {
			a.s.each(func(*worker) {})
			if ctx.Err() != nil || a.p.Send(frameBeat, nil, nil, sendTime) != nil {
				return
			}
			select {
			case <-ctx.Done():
			case <-t.C:
			}
		}
	}()
	f, err := a.p.Expect(frameCommit, commitTime)
	cancel()
	<-over
	if err != nil {
		return nil, fmt.Errorf("wait for the old process to commit: %w", err)
	}
	return f, nil
}

// begin accepts connections.
func (a *accession) begin(f *handover.Frame) error {
	defer f.Close()
	s := a.s
	r := wire.NewReader(f.Body)
	g, err := importCounts(r.Bytes())
	if err != nil {
		return err
	}
	s.heir.counts.Store(g)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.importTicketsLocked(r); r.Done() != nil {
		return r.Err()
	}
	a.acceptLocked()
	return nil
}

func (a *accession) accept() {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	a.acceptLocked()
}

func (a *accession) acceptLocked() {
	s := a.s
	s.heir.waiting.Store(false)
	maps.Copy(a.in.byName, s.listeners)
	s.each(func(w *worker) {
		for _, ln := range s.listeners {
			w.listen(ln)
		}
	})
}

// step adopts one batch, or ends.
func (a *accession) step() (done bool, err error) {
	f, err := a.p.Receive(batchTime)
	if err != nil {
		return false, err
	}
	defer f.Close()
	switch f.Kind {
	case frameDone:
		return true, nil
	case handover.KindRefused:
		return false, &errs.Error{Kind: errs.Denied, Subject: "upgrade", Seen: string(f.Body)}
	case frameBatch:
		return false, a.batch(f)
	case frameBeat:
		return false, nil
	}
	return false, errs.New(errs.Invalid, "upgrade", "frame %d out of turn", f.Kind)
}

// batch adopts connections, and begins with them when the predecessor has let
// go.
func (a *accession) batch(f *handover.Frame) error {
	r := wire.NewReader(f.Body)
	n := int(r.U32()) % len(a.s.workers)
	w := a.s.workers[n]
	var cargos []cargo
	var verdict wire.Writer
	if !w.do(func() { cargos = a.adopt(w, r.Part(), f, &verdict) }) {
		return errs.New(errs.Unavailable, "upgrade", "the proxy is ending")
	}
	err := a.p.Send(frameVerdict, verdict.B, nil, sendTime)
	if err == nil {
		var g *handover.Frame
		if g, err = a.p.Expect(frameGo, sendTime); err == nil {
			g.Close()
		}
	}
	w.do(func() {
		for _, g := range cargos {
			if err != nil {
				g.Yield()
				continue
			}
			a.adopted += len(g.Conns())
			g.Thaw()
		}
	})
	return err
}

func (a *accession) adopt(w *worker, r *wire.Reader, f *handover.Frame, verdict *wire.Writer) (cargos []cargo) {
	at := 0
	for r.Left() > 0 && r.Err() == nil {
		kind, conns, part := r.U8(), int(r.U32()), r.Part()
		if r.Err() != nil || conns > len(f.FDs)-at {
			a.s.log.Error("a batch of connections is malformed")
			verdict.Bool(false)
			return cargos
		}
		fds := make([]int, conns)
		for i := range fds {
			fds[i] = f.Take(at + i)
		}
		at += conns
		g, err := w.unpack(a.in, kind, part, fds)
		verdict.Bool(err == nil)
		if err != nil {
			a.refused += conns
			a.s.log.Debug("a connection has no place here", "err", err)
			continue
		}
		cargos = append(cargos, g)
	}
	return cargos
}

// inherit makes a listener of the predecessor's socket; nil when there is
// none for c.
func (s *Server) inherit(c *config.Listener) *listener {
	k := s.heir.in.adopt(c)
	if k == nil {
		return nil
	}
	unix.CloseOnExec(k.fd)
	ln := &listener{name: c.Name, fd: k.fd, addr: k.at}
	k.fd = -1
	return ln
}

// isQuiet tells that nothing is under way.
func isQuiet(h engine.Handler) bool {
	if a, ok := h.(*arrival); ok {
		return a.stage != securing
	}
	return exchange.Quiet(h)
}
