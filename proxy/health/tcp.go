// SPDX-License-Identifier: Apache-2.0

package health

import (
	"bytes"
	"context"
	"time"

	"redoubt.dev/proxy/config"
)

// maxReceive bounds what of an answer is read to look for patterns.
const maxReceive = 16 << 10

// tcp connects, may send, and may wait for patterns.
type tcp struct {
	c  *Checker
	hc *config.HealthCheck
}

func (p *tcp) close() {}

func (p *tcp) ask(ctx context.Context, t *target) finding {
	kept := t.conn != nil
	if kept {
		if f, heard := p.talk(ctx, t); f.verdict == good || heard {
			return f
		}
		// The host may close what is idle; that says nothing of its health.
		t.hangUp()
	}
	conn, err := p.c.dial(ctx, t.p.h.Endpoint(), nil)
	if err != nil {
		return finding{verdict: lost, why: err.Error()}
	}
	t.conn = conn
	f, _ := p.talk(ctx, t)
	if f.verdict != good || p.hc.NoReuse || len(p.hc.TCP.Receive) == 0 {
		t.hangUp()
	}
	return f
}

// talk sends and receives on the connection; heard tells that bytes came.
func (p *tcp) talk(ctx context.Context, t *target) (f finding, heard bool) {
	// A context that ends wakes the connection up.
	conn := t.conn
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if len(p.hc.TCP.Send) > 0 {
		if _, err := conn.Write(p.hc.TCP.Send); err != nil {
			return finding{verdict: lost, why: err.Error()}, false
		}
	}
	if len(p.hc.TCP.Receive) == 0 {
		return finding{why: "connected"}, false
	}
	buf := make([]byte, 0, 512)
	for !contains(buf, p.hc.TCP.Receive) {
		if len(buf) >= maxReceive {
			return finding{verdict: lost, why: "the expected bytes did not come"}, true
		}
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, 2*cap(buf)), buf...)
		}
		n, err := conn.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err != nil && !contains(buf, p.hc.TCP.Receive) {
			return finding{verdict: lost, why: err.Error()}, len(buf) > 0
		}
	}
	return finding{why: "received what was expected"}, true
}

// contains tells that the patterns are in b, one after the other.
func contains(b []byte, patterns [][]byte) bool {
	for _, p := range patterns {
		i := bytes.Index(b, p)
		if i < 0 {
			return false
		}
		b = b[i+len(p):]
	}
	return true
}
