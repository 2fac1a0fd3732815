// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"time"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/http2"
)

// keeper asks an HTTP/2 connection now and then whether it lives
// (connection_keepalive). Without it a peer that vanished shows only when
// something is sent, minutes later. The zero keeper asks nothing.
type keeper struct {
	t           engine.Timer
	l           *engine.Loop // nil while it does not run
	h           *http2.Conn
	every, wait time.Duration
	asked       bool
	dead        func()
}

// begin starts it, if o wants that and it does not run. dead is called when
// there was no answer in time.
func (k *keeper) begin(l *engine.Loop, h *http2.Conn, o *config.HTTP2Options, dead func()) {
	if o.PingInterval <= 0 || k.l != nil {
		return
	}
	wait := o.PingTimeout
	if wait <= 0 {
		wait = o.PingInterval
	}
	*k = keeper{l: l, h: h, every: o.PingInterval, wait: wait, dead: dead}
	l.SetTimer(&k.t, k.every, k)
}

func (k *keeper) stop() {
	if k.l != nil {
		k.l.StopTimer(&k.t)
		*k = keeper{}
	}
}

// Expire asks, or looks for the answer.
func (k *keeper) Expire(*engine.Timer) {
	switch {
	case !k.asked:
		k.h.Ping()
		k.asked = true
		k.l.SetTimer(&k.t, k.wait, k)
	case k.h.Unanswered() > 0:
		k.dead()
	default:
		k.asked = false
		k.l.SetTimer(&k.t, k.every, k)
	}
}
