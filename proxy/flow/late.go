// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"redoubt.dev/proxy/http1"
)

// A client that is silent after it has connected either waits for its server
// to speak, or is slow: on a loaded machine, or one that connects ahead of
// its first request. So a silent connection is carried as a stream, but the
// question stays open until one side speaks: the server, and it is a stream;
// or the client, and its first bytes tell.

// late looks at a stream that is still open and tells that there is nothing
// to carry, for now or in this way.
func (e *session) late() bool {
	if u := e.up; u != nil && u.state == ready {
		if len(u.c.Bytes()) > 0 || u.c.Fill(readAhead) && len(u.c.Bytes()) > 0 {
			e.open = false // the server has spoken first
			return false
		}
		if u.c.Dead() {
			// The backend's side may have refused a stream, and would not
			// refuse requests.
			e.up = nil
			u.close()
			e.sniffAgain()
			return true
		}
	}
	for {
		if b := e.down.Bytes(); len(b) > 0 {
			v, proto := sniff(b)
			switch v {
			case http1.Yes:
				e.open = false
				if u := e.up; u != nil {
					e.up = nil
					if u.state == ready {
						u.finish()
					} else {
						u.close()
					}
				}
				e.w.l.StopTimer(&e.timer)
				e.w.l.StopTimer(&e.expiry.t)
				e.startHTTP(proto)
				return true
			case http1.No:
				e.open = false
				e.w.l.StopTimer(&e.timer)
				return false
			}
			if !e.spoke {
				e.spoke = true
				e.w.l.SetTimer(&e.timer, sniffLong, e)
			}
		}
		if e.down.Dead() {
			e.open = false
			return false
		}
		if !e.down.Fill(http1.MaxHead) {
			return true
		}
	}
}

// sniffAgain waits for the client after a stream could not be made for it.
func (e *session) sniffAgain() {
	e.open, e.again = false, true
	e.phase = sniffing
	e.w.l.StopTimer(&e.expiry.t)
	e.w.l.SetTimer(&e.timer, sniffLate, e)
	e.down.Again()
}
