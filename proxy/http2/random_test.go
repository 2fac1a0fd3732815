// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestRandomLife: both ends do what comes to mind, connections move to another
// process at any moment, and still every body that was not reset arrives whole,
// no window is lost, and nothing is held in the end.
func TestRandomLife(t *testing.T) {
	for seed := range uint64(60) {
		life(t, rand.New(rand.NewPCG(seed, 7)))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func life(t *testing.T, r *rand.Rand) {
	p := newPair(Options{StreamWindow: uint32(1 + r.IntN(200_000)), ConnWindow: 70_000, MaxIdle: 1 << 30},
		Options{StreamWindow: uint32(1 + r.IntN(200_000)), ConnWindow: 66_000, MaxStreams: 7, MaxIdle: 1 << 30}) // tiny windows are the test's, not an attack
	p.client.quiet, p.server.quiet = true, true
	sent := map[*exchange][]byte{}
	var open []*exchange
	next := byte(0)
	step := func(e *exchange) {
		c, s := p.client.c, e.s
		switch r.IntN(6) {
		case 0:
			if r.IntN(4) == 0 {
				c.ResetStream(s, Cancel)
				e.reset = true
			}
		case 1:
			if !e.ended && e.s != nil {
				e.write(nil, true)
			}
		default:
			if !e.ended {
				b := bytes.Repeat([]byte{next}, r.IntN(30_000))
				next++
				sent[e] = append(sent[e], b...)
				e.write(b, false)
			}
		}
	}
	for range 400 {
		switch k := r.IntN(10); {
		case k == 0 && p.client.c.CanOpen():
			e := p.client.get("POST", "/echo", -1, false)
			sent[e] = nil
			open = append(open, e)
		case k < 4 && len(open) > 0:
			if e := open[r.IntN(len(open))]; e.s != nil {
				step(e)
			}
		case k == 4:
			p.server.c.Writable(r.IntN(20_000))
		case k == 5:
			p.client.c.Writable(r.IntN(20_000))
		case k == 6:
			moveOver(t, p.client, &p.toServer)
			moveOver(t, p.server, &p.toClient)
		default:
			p.some(t, r)
		}
	}
	for _, e := range open {
		if e.s != nil && !e.ended {
			e.write(nil, true)
		}
	}
	p.client.c.Writable(1 << 30)
	p.server.c.Writable(1 << 30)
	p.move(t, 1<<20)
	for i, e := range open {
		if !e.reset && !bytes.Equal(e.body, sent[e]) {
			t.Errorf("body %d: %d bytes of %d", i, len(e.body), len(sent[e]))
		}
	}
	for _, c := range []*Conn{p.client.c, p.server.c} {
		if c.Active() != 0 || c.first() != nil || c.recvWin+c.credit != int64(c.o.ConnWindow) {
			t.Errorf("%d streams left, window %d+%d of %d", c.Active(), c.recvWin, c.credit, c.o.ConnWindow)
		}
	}
	if p.server.opened != p.server.closed {
		t.Errorf("%d opened, %d closed", p.server.opened, p.server.closed)
	}
}

// some carries some bytes each way.
func (p *pair) some(t *testing.T, r *rand.Rand) {
	p.heldS = append(p.heldS, p.toServer.Next(r.IntN(40_000))...)
	n, err := p.server.c.Feed(p.heldS)
	if err != nil {
		t.Fatal("server:", err)
	}
	p.heldS = append(p.heldS[:0], p.heldS[n:]...)
	p.heldC = append(p.heldC, p.toClient.Next(r.IntN(40_000))...)
	if n, err = p.client.c.Feed(p.heldC); err != nil {
		t.Fatal("client:", err)
	}
	p.heldC = append(p.heldC[:0], p.heldC[n:]...)
}
