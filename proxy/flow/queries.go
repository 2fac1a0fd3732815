// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"redoubt.dev/proxy/dns"
)

// dnsAddr is where pods send name queries; over TCP they arrive as any other
// connection.
var dnsAddr = netip.MustParseAddrPort("169.254.1.1:53")

const queryBatch = 64 // per turn

// serveDNS answers what waits on a pod's UDP socket. Answers go to who asked,
// from inside the pod's own namespace: a forged source leads nowhere.
func (w *Worker) serveDNS(a *acceptor) {
	pod := a.site.pod.Load()
	var q [dns.MaxQuery]byte
	for range queryBatch {
		n, from, err := unix.Recvfrom(a.fd, q[:], unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		if n > len(q) {
			w.Count.QueriesRefused++
			continue
		}
		a.buf = pod.Table.Zone.Answer(a.buf[:0], q[:n], false)
		if len(a.buf) == 0 {
			w.Count.QueriesRefused++
			continue
		}
		w.Count.Queries++
		unix.Sendto(a.fd, a.buf, unix.MSG_DONTWAIT, from) // a full buffer drops it, as any datagram; the client asks again
	}
}

const maxQueries = 100 // per TCP connection

// pumpDNS answers queries over TCP (RFC 7766), in order.
func (e *session) pumpDNS() {
	for {
		b := e.down.Bytes()
		if len(b) >= 2 {
			n := int(binary.BigEndian.Uint16(b))
			if n > dns.MaxQuery || e.in >= maxQueries {
				e.abort()
				return
			}
			if len(b) >= 2+n {
				e.in++
				e.answerDNS(b[2 : 2+n])
				e.down.Discard(2 + n)
				continue
			}
		}
		if e.down.Dead() {
			e.close()
			return
		}
		if !e.down.Fill(4 << 10) {
			return
		}
	}
}

func (e *session) answerDNS(q []byte) {
	pod := e.site.pod.Load()
	out := pod.Table.Zone.Answer(append(e.w.buf[:0], 0, 0), q, true)
	if len(out) == 0 {
		e.w.Count.QueriesRefused++
		return
	}
	e.w.Count.Queries++
	binary.BigEndian.PutUint16(out, uint16(len(out)-2))
	e.down.Append(out)
}
