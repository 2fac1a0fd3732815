// SPDX-License-Identifier: Apache-2.0

package http2

import "time"

// budget is the peer's credit for frames that serve nothing. There is no
// clock in it: serving earns credit, and the owner tells of time by Elapse.
type budget struct {
	maxIdle, maxResets int
	idle               int // control and empty frames
	resets             int // streams that the peer reset before an answer (CVE-2023-44487)
	provoked           int // streams that the peer made us reset (CVE-2025-8671)
	passed             time.Duration
}

func (b *budget) fill(o *Options) {
	*b = budget{maxIdle: o.MaxIdle, maxResets: o.MaxResets, idle: o.MaxIdle, resets: o.MaxResets, provoked: o.MaxResets}
}

func (b *budget) earn(n int) { b.idle = min(b.maxIdle, b.idle+n) }

func (b *budget) spend(n int) *Fault {
	if b.idle -= n; b.idle < 0 {
		return errIdle
	}
	return nil
}

// served tells of a stream that ended well.
func (b *budget) served() {
	b.earn(4)
	b.forgive(1)
}

func (b *budget) forgive(n int) {
	b.resets = min(b.maxResets, b.resets+n)
	b.provoked = min(b.maxResets, b.provoked+n)
}

func (b *budget) reset() *Fault {
	if b.resets--; b.resets < 0 {
		return errResets
	}
	return nil
}

func (b *budget) provoke() *Fault {
	if b.provoked--; b.provoked < 0 {
		return errProvoked
	}
	return nil
}

// sent earns credit for a DATA frame that we sent: a peer may well answer
// with WINDOW_UPDATE for the stream and the connection, and a PING; those that
// read in small pieces (net/http) tell of every 4 KiB. What a
// narrow window made small earns nothing, or windows opened byte by byte
// would pay for themselves (CVE-2019-9511).
func (b *budget) sent(n int, narrow bool) {
	if n >= smallData || !narrow {
		b.earn(3 + 2*(n/updateData))
	}
}

// got earns credit for a DATA frame that came.
func (b *budget) got(n int) {
	if n >= smallData {
		b.earn(1)
	}
}

const (
	smallData  = 256
	updateData = 4 << 10

	idlePerSecond   = 20
	resetsPerSecond = 5

	maxContinuations = 32 // frames of one field block after the first
)

// Elapse tells that time has passed: credit against floods comes back, 20
// frames and 5 resets a second. Coarse calls will do, such as before a Feed.
func (c *Conn) Elapse(d time.Duration) {
	b := &c.budget
	b.passed = min(b.passed+max(0, d), time.Hour)
	if s := int(b.passed / time.Second); s > 0 {
		b.passed -= time.Duration(s) * time.Second
		b.earn(s * idlePerSecond)
		b.forgive(s * resetsPerSecond)
	}
}
