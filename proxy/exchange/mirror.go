// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/message"
	"redoubt.dev/proxy/router"
)

// mirrorMax bounds what waits for a mirror that is slower than the request
// itself; a mirror that falls behind further is given up.
const mirrorMax = 1 << 20

// mirror is the downstream of a copy of a request: it gives the body as the
// original is passed on, and drops the response.
type mirror struct {
	x    *Stream // the copy; nil once over
	b    []byte
	off  int
	last bool
	cut  bool
}

// mirrorTo sends a copy of x's request to a cluster. Its outcome changes
// nothing for x.
func (x *Stream) mirrorTo(to *config.Mirror) {
	cl := (*x.m.clusters.Load())[to.Cluster]
	if cl == nil || x.tunnels() || !cl.Set.Admit(resourceRequests, x.high()) {
		return
	}
	m := &mirror{}
	y := x.w.newStream(x.m, m)
	m.x = y
	y.shadow, y.noFilters, y.admitted = true, true, true
	y.c.Conn, y.c.Began, y.c.Cluster = x.c.Conn, x.w.l.Now(), to.Cluster
	y.c.Req = &y.req
	h := y.req.Head
	y.req = x.req
	y.req.Head = h
	y.req.CopyFields(&x.req.Head)
	x.w.buf = router.MirrorHost(x.w.buf[:0], x.req.In(x.req.Authority))
	y.req.SetAuthority(x.w.buf)
	y.req.Continue = false
	y.isHead = x.isHead
	y.cluster, y.fwd = cl, x.fwd
	y.timeout = x.timeout
	y.idle, y.lastByte = x.idle, x.w.l.Now()
	cl.count(x.w).Requests++
	x.mirrors = append(x.mirrors, m)
	y.kept, y.keptAll = append(y.kept, x.kept...), x.keptAll // a filter wanted to see the body
	if m.last = x.req.Length == 0 || x.keptAll; m.last {
		y.whole()
	}
	y.arm()
	y.attempt()
	y.pump()
}

// feed gives the mirror what the original has passed on.
func (m *mirror) feed(p []byte) {
	if m.x == nil || m.cut {
		return
	}
	if len(m.b)-m.off+len(p) > mirrorMax {
		m.end(false)
		return
	}
	m.b = after(m.b, &m.off, p)
	m.x.pump()
}

// end says that the original's request is whole, or never will be.
func (m *mirror) end(whole bool) {
	if m.x == nil || m.last {
		return
	}
	if whole {
		m.last = true
	} else {
		m.cut = true
	}
	m.x.pump()
}

func (m *mirror) peek() ([]byte, bool, error) {
	if m.cut {
		return nil, false, errCutShort
	}
	if m.off == len(m.b) {
		return nil, m.last, nil
	}
	return m.b[m.off:], m.last, nil
}

func (m *mirror) consume(n int) {
	if m.off += n; m.off == len(m.b) {
		m.b, m.off = m.b[:0], 0
	}
}

func (m *mirror) trailers() *message.Head      { return nil }
func (m *mirror) interim(*message.Response)    {}
func (m *mirror) head(*message.Response, bool) {}
func (m *mirror) tunnel()                      { m.cut = true }
func (m *mirror) send(p []byte, _ bool) int    { return len(p) }
func (m *mirror) finish(*message.Head)         {}
func (m *mirror) over(*Stream, bool)           { m.x = nil }
func (m *mirror) broken() bool                 { return m.cut }
func (m *mirror) again()                       { m.x.w.l.Post(func() { m.resume() }) }

func (m *mirror) resume() {
	if m.x != nil {
		m.x.pump()
	}
}
