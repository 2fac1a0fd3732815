// SPDX-License-Identifier: Apache-2.0

package http2

// Options bound a connection. A zero field is the default given with it.
type Options struct {
	MaxStreams   uint32 // open at once; server role: what the peer may open, client role: what we open at most. 100
	StreamWindow uint32 // bytes of body that a peer may have sent ahead on one stream. 256 KiB
	ConnWindow   uint32 // … on all streams together. 1 MiB
	MaxFrame     uint32 // payload bytes of a frame we take; Feed's buffer must hold so many and 9. 16 KiB
	TableSize    uint32 // of the decoder's dynamic table. 4096. To have none, NoTable
	NoTable      bool   // no dynamic table on the receiving side
	EncoderTable uint32 // the most of the peer's table that we use. 4096
	MaxList      uint32 // bytes of a header list, 32 added per field (RFC 9113, 6.5.2). 64 KiB
	MaxFields    int    // field lines of a head, pseudo-headers and cookie crumbs not counted. 128
	AllowConnect bool   // server role: announce extended CONNECT (RFC 8441)

	// MaxResets bounds streams that ended badly beyond those served: reset by
	// the peer before they were answered, or by us for the peer's mistakes
	// (counted apart). More end the connection. 200
	MaxResets int
	// MaxIdle bounds frames that serve no request: PING, SETTINGS, PRIORITY,
	// empty DATA, WINDOW_UPDATE beyond need, frames of unknown type and for
	// streams that are gone. Serving gives credit back, and time does
	// (Elapse). 1000
	MaxIdle int

	// Pool holds the Streams; connections of one loop should share one. Nil:
	// the connection has its own.
	Pool *Pool
}

func (o *Options) fill() {
	def := func(p *uint32, v, lo, hi uint32) {
		if *p == 0 {
			*p = v
		}
		*p = min(max(*p, lo), hi)
	}
	def(&o.MaxStreams, 100, 1, 1<<20)
	def(&o.StreamWindow, 256<<10, 1, maxWindow)
	def(&o.ConnWindow, 1<<20, defaultWindow, maxWindow)
	def(&o.MaxFrame, defaultMaxFrame, defaultMaxFrame, largestFrame)
	def(&o.TableSize, defaultTableSize, 1, 1<<16)
	def(&o.EncoderTable, defaultTableSize, 1, 1<<16)
	def(&o.MaxList, 64<<10, 1<<10, 1<<20)
	if o.NoTable {
		o.TableSize = 0
	}
	if o.MaxFields <= 0 {
		o.MaxFields = 128
	}
	if o.MaxResets <= 0 {
		o.MaxResets = 200
	}
	if o.MaxIdle <= 0 {
		o.MaxIdle = 1000
	}
	if o.Pool == nil {
		o.Pool = new(Pool)
	}
}

// maxBlock bounds a field block as it travels. A list within bounds fits, even
// badly encoded; one somewhat over them is still decoded, so that it can be
// answered with 431 and the connection lives.
func (o *Options) maxBlock() int { return max(2*int(o.MaxList), 64<<10) }
