// SPDX-License-Identifier: Apache-2.0

package http2

// table finds open streams by id: open addressing, at most half full. It grows
// with the most that were open at once, which the options bound.
type table struct {
	slots []*Stream // a power of two
	n     int
}

func (t *table) at(id uint32) int { return int(id*0x9e3779b1>>8) & (len(t.slots) - 1) }

func (t *table) find(id uint32) *Stream {
	if t.n == 0 {
		return nil
	}
	for i := t.at(id); ; i = (i + 1) & (len(t.slots) - 1) {
		if s := t.slots[i]; s == nil || s.id == id {
			return s
		}
	}
}

func (t *table) put(s *Stream) {
	if 2*(t.n+1) > len(t.slots) {
		old := t.slots
		t.slots = make([]*Stream, max(8, 2*len(old)))
		for _, o := range old {
			if o != nil {
				t.place(o)
			}
		}
	}
	t.place(s)
	t.n++
}

func (t *table) place(s *Stream) {
	i := t.at(s.id)
	for t.slots[i] != nil {
		i = (i + 1) & (len(t.slots) - 1)
	}
	t.slots[i] = s
}

// remove closes the gap, so that no marks of the dead remain.
func (t *table) remove(id uint32) {
	mask := len(t.slots) - 1
	i := t.at(id)
	for t.slots[i].id != id {
		i = (i + 1) & mask
	}
	t.n--
	for j := i; ; {
		t.slots[i] = nil
		for {
			j = (j + 1) & mask
			if t.slots[j] == nil {
				return
			}
			if home := t.at(t.slots[j].id); (j-home)&mask >= (j-i)&mask {
				break
			}
		}
		t.slots[i] = t.slots[j]
		i = j
	}
}

func (t *table) clear() {
	clear(t.slots)
	t.n = 0
}

// how a stream ended.
type how uint8

const (
	unknown how = iota
	ended       // by END_STREAM on both sides
	byPeer      // reset
	byUs        // reset: frames may still be under way, and are let pass
)

// gone is a stream that was reset not long ago.
type gone struct {
	id    uint32
	how   how
	heads uint8 // HEADERS that may still be under way
	left  int64 // bytes of DATA that may
}

// goneLen is how many streams that were reset are remembered: enough for the
// frames that cross our RST_STREAM. Beyond that they still cost only credit.
const goneLen = 128

// remember notes how a stream ended. Those that ended well are many, and it is
// known of a few only to name the right error.
func (c *Conn) remember(id uint32, h how, left int64) {
	g := gone{id: id, how: h, heads: 2, left: left}
	switch {
	case h == ended:
		c.ended[c.endedAt] = id
		c.endedAt = (c.endedAt + 1) % len(c.ended)
	case len(c.gone) < goneLen:
		c.gone = append(c.gone, g)
	default:
		c.gone[c.goneAt] = g
		c.goneAt = (c.goneAt + 1) % goneLen
	}
}

func (c *Conn) reset(id uint32) *gone {
	for i := range c.gone {
		if c.gone[i].id == id {
			return &c.gone[i]
		}
	}
	return nil
}

func (c *Conn) recall(id uint32) how {
	if g := c.reset(id); g != nil {
		return g.how
	}
	for _, e := range c.ended {
		if e == id {
			return ended
		}
	}
	return unknown
}

// idle tells that nobody has used the stream yet (RFC 9113, 5.1).
func (c *Conn) idle(id uint32) bool {
	if id&1 == 1 && c.role == Client {
		return id >= c.nextID
	}
	return id > c.lastPeer
}

// enter makes s an open stream.
func (c *Conn) enter(s *Stream, id uint32) {
	s.c, s.id = c, id
	s.sendWin, s.recvWin = c.peerWindow, int64(c.o.StreamWindow)
	if c.unacked > 0 {
		// Until the peer acknowledges our window it may use the protocol's.
		s.recvWin = max(s.recvWin, defaultWindow)
	}
	s.want = -1
	s.Urgency, s.Incremental = 3, true
	s.older = c.youngest
	if c.youngest != nil {
		c.youngest.younger = s
	} else {
		c.oldest = s
	}
	c.youngest = s
	c.streams.put(s)
}

// close takes s out of the connection.
func (c *Conn) close(s *Stream, h how) {
	c.unqueue(s)
	c.streams.remove(s.id)
	if s.older != nil {
		s.older.younger = s.younger
	} else {
		c.oldest = s.younger
	}
	if s.younger != nil {
		s.younger.older = s.older
	} else {
		c.youngest = s.older
	}
	if h == ended {
		c.budget.served()
	}
	c.remember(s.id, h, s.recvWin)
	if s.owed > 0 && c.fault == nil {
		c.giveConn(s.owed)
	}
	owner := s.Owner
	s.c = nil
	if owner != nil {
		owner.Closed(s)
	}
	c.o.Pool.put(s)
}

// settle closes s if both sides have ended.
func (c *Conn) settle(s *Stream) {
	if s.state&(recvEnd|sendEnd) == recvEnd|sendEnd {
		c.close(s, ended)
	}
}
