// SPDX-License-Identifier: Apache-2.0

package engine

import "golang.org/x/sys/unix"

// Leave takes an idle connection off its loop, for Join on another. False
// means that it is not idle, or has ended, and stays.
func (c *Conn) Leave() bool {
	if !c.Movable() || c.eof || c.shut || c.dirty || c.queued || c.in.len()+c.out.len()+c.raw.len() > 0 {
		return false
	}
	c.l.Unwatch(c.w)
	c.w = Watch{}
	delete(c.l.conns, c)
	c.l.load.Add(-1)
	c.l = nil
	return true
}

// Join puts a connection that has left another loop on this one. On an error
// it is closed.
func (l *Loop) Join(c *Conn, h Handler) error {
	c.h = h
	w, err := l.Watch(c.fd, connEvents, c)
	if err != nil {
		c.Drop()
		return err
	}
	c.l, c.w = l, w
	c.readable, c.writable = true, true
	l.conns[c] = struct{}{}
	l.load.Add(1)
	return nil
}

// Drop closes a connection that is on no loop.
func (c *Conn) Drop() {
	if c.l == nil && c.fd >= 0 {
		unix.Close(c.fd)
		c.fd = -1
		c.err = errClosed
	}
}
