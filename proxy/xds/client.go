// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/base/run"
	"redoubt.dev/proxy/config"
)

// Client keeps a configuration up to date with what its bootstrap names. It
// is run once.
type Client struct {
	boot  *Bootstrap
	apply func(*config.Config) error
	log   *slog.Logger

	events chan event // streams wait while the core is busy

	mu     sync.Mutex
	status Status
}

// Status is what a Client has seen so far.
type Status struct {
	Connected        bool     // to all management servers that are named
	Acked, Nacked    uint64   // responses, and what watched files held
	Unread           uint64   // versions of watched files that could not be read
	Applied, Refused uint64   // snapshots, by what apply answered
	Reconnects       uint64   // streams that were lost or could not be opened
	LastError        string   // of the last refused response or snapshot, or lost stream
	Warming          []string // parts whose next version is not complete
}

// NewClient makes a Client; it starts nothing. apply puts a snapshot in
// force: it is called by Run, never twice at once, with immutable values, of
// which unchanged parts are the same pointers as before; an error leaves the
// previous one in force. log may be nil.
func NewClient(b *Bootstrap, apply func(*config.Config) error, log *slog.Logger) (*Client, error) {
	if b == nil || apply == nil {
		return nil, errs.New(errs.Internal, "xds client", "no bootstrap or nothing to apply to")
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Client{boot: b, apply: apply, log: log, events: make(chan event)}, nil
}

// Run applies the first snapshot as soon as it is complete, and every later
// one, until ctx ends. For a bootstrap that is not Dynamic it applies once.
// It fails only when the file's own configuration is refused; what a server
// sends can not end it.
func (c *Client) Run(ctx context.Context) error {
	if !c.boot.Dynamic() {
		if err := c.put(c.boot.Static); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}
	g := run.New(ctx)
	newest := make(chan *config.Config)
	idle := make(chan struct{}, 1)
	g.Go("apply", func(ctx context.Context) error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case s := <-newest:
				if err := c.put(s); err != nil {
					c.log.Error("snapshot refused, the last one stays", "error", err)
				}
				idle <- struct{}{}
			}
		}
	})
	g.Go("core", func(ctx context.Context) error {
		c.fold(ctx, newest, idle, func(name string, f func(context.Context) error) { g.Go(name, f) })
		return nil
	})
	return g.Wait()
}

func (c *Client) put(s *config.Config) error {
	err := c.apply(s)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.status.Refused++
		c.status.LastError = err.Error()
		return err
	}
	c.status.Applied++
	return nil
}

// fold is the core's shell: it owns the core, and does what it says.
func (c *Client) fold(ctx context.Context, newest chan<- *config.Config, idle <-chan struct{}, start func(string, func(context.Context) error)) {
	core, effects := newCore(c.boot, time.Now())
	conns := &conns{client: c, start: start, open: map[streamKey]*conn{}}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	busy := false
	for {
		conns.do(ctx, effects)
		effects = nil
		if !busy {
			if s := core.snapshot(); s != nil {
				newest <- s
				busy = true
			}
			effects = core.step(time.Now(), evTick{}) // what went out of force is not needed any more
			conns.do(ctx, effects)
			effects = nil
		}
		c.report(core)
		wait := time.Hour
		if at := core.next(); !at.IsZero() {
			wait = max(time.Until(at), 0)
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case e := <-c.events:
			c.note(e)
			nacked := core.status.Nacked
			effects = core.step(time.Now(), e)
			if core.status.Nacked > nacked {
				c.log.Warn("response refused, the last good resources stay", "error", core.status.LastError)
			}
		case <-timer.C:
			effects = core.step(time.Now(), evTick{})
		case <-idle:
			busy = false
		}
	}
}

func (c *Client) note(e event) {
	switch e := e.(type) {
	case evConnected:
		c.log.Info("connected to the management server", "stream", e.streamKey.String())
	case evLost:
		c.log.Warn("management server lost, the last good configuration stays", "stream", e.streamKey.String(), "error", e.err)
	case evFile:
		c.log.Warn("watched file not read, the last good resources stay", "file", e.where, "error", e.err)
		c.mu.Lock()
		c.status.Unread++
		c.mu.Unlock()
	}
}

func (c *Client) report(core *core) {
	connected := true
	for k, s := range core.streams {
		connected = connected && (k.kind == fromPath || s.connected)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status.Connected = connected
	c.status.Acked, c.status.Nacked, c.status.Reconnects = core.status.Acked, core.status.Nacked, core.status.Reconnects
	c.status.Warming = core.status.Warming
	if core.status.LastError != "" {
		c.status.LastError, core.status.LastError = core.status.LastError, ""
	}
}

// Status may be called at any time.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}
