// SPDX-License-Identifier: Apache-2.0

package engine

import "time"

// How long, and for how many bytes, a finished connection waits for its peer
// to finish too.
const (
	lingerTime  = 3 * time.Second
	lingerBytes = 1 << 20
)

// Finish ends the stream properly, reads and drops what the peer still sends
// for a short while, and closes. Without that, closing with unread bytes
// would reset the connection, and the peer could lose the last response
// (RFC 9112, section 9.6). The handler hears nothing more.
func (c *Conn) Finish() {
	if c.fd < 0 {
		return
	}
	if c.Broken() {
		c.Close()
		return
	}
	c.CloseWrite()
	c.in.release(&c.l.bufs)
	c.flush()
	g := &linger{c: c, left: lingerBytes}
	c.h = g
	c.l.SetTimer(&g.t, lingerTime, g)
	c.Again()
}

// linger is the handler of a finished connection.
type linger struct {
	c    *Conn
	t    Timer
	left int
	sent uint64
}

func (g *linger) OnConn(c *Conn) {
	for c.Fill(64 << 10) {
		n := len(c.Bytes())
		g.left -= n
		c.Discard(n)
		if c.Dead() || g.left < 0 {
			break
		}
	}
	if c.Broken() || g.left < 0 || c.eof && c.out.len() == 0 {
		c.l.StopTimer(&g.t)
		c.Close()
	}
}

// Expire closes, unless a slow reader still makes progress.
func (g *linger) Expire(*Timer) {
	if g.c.out.len() > 0 && g.c.sent != g.sent {
		g.sent = g.c.sent
		g.c.l.SetTimer(&g.t, lingerTime, g)
		return
	}
	g.c.Close()
}
