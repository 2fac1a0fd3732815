// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"net"
	"time"

	"redoubt.dev/proxy/engine"
)

// pipe is the handshake as crypto/tls sees it.
type pipe handshake

// Read gives the next record, or a part of it. It parks the goroutine while
// there is none.
func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.in) == 0 && !p.fed {
		p.flushLocked()
		<-p.s.slots
		for len(p.in) == 0 && p.end == nil {
			p.wake.Wait()
		}
		p.mu.Unlock()
		p.s.slots <- struct{}{}
		p.mu.Lock()
	}
	if len(p.in) == 0 {
		return 0, p.end
	}
	if p.left == 0 {
		p.left = len(p.in)
		if len(p.in) >= engine.HeaderLen {
			p.left = min(len(p.in), engine.HeaderLen+int(p.in[3])<<8+int(p.in[4]))
		}
		p.keys.read(p.in[:p.left])
	}
	n := copy(b, p.in[:p.left])
	p.left -= n
	p.in = p.in[n:]
	return n, nil
}

func (p *pipe) Write(b []byte) (int, error) {
	p.keys.wrote(b)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end != nil {
		return 0, p.end
	}
	p.out = append(p.out, b...)
	return len(b), nil
}

// flushLocked has the loop send what was written: once per flight.
func (p *pipe) flushLocked() {
	if len(p.out) > 0 {
		p.c.Loop().Post(func() {
			if p.c.Alive() {
				(*handshake)(p).write()
			}
		})
	}
}

// nowhere is an address: crypto/tls names sessions by the peer's address when
// there is no server name, and asks without looking for nil. Names of
// sessions are made elsewhere (sessions.go).
type nowhere struct{}

func (nowhere) Network() string { return "tcp" }
func (nowhere) String() string  { return "peer" }

func (p *pipe) Close() error                     { return nil }
func (p *pipe) LocalAddr() net.Addr              { return nowhere{} }
func (p *pipe) RemoteAddr() net.Addr             { return nowhere{} }
func (p *pipe) SetDeadline(time.Time) error      { return nil }
func (p *pipe) SetReadDeadline(time.Time) error  { return nil }
func (p *pipe) SetWriteDeadline(time.Time) error { return nil }
