// SPDX-License-Identifier: Apache-2.0

package edge

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Dial connects to the application of a pod from its edge, behind the proxy,
// as the node's probes do.
func (e Edge) Dial(ctx context.Context, port uint16) (c net.Conn, err error) {
	werr := Within(e.Pod, func() error {
		// A literal address and no fallback: the dialer starts no goroutine
		// that would leave this thread's namespace.
		d := net.Dialer{FallbackDelay: -1, Control: transparent}
		if deadline, ok := ctx.Deadline(); ok {
			d.Deadline = deadline
		}
		c, err = d.Dial("tcp4", netip.AddrPortFrom(e.Addr, port).String())
		return err
	})
	return c, werr
}

// transparent marks a socket before it connects: the edge's TPROXY rule hands
// answers only to sockets that are marked so, and resets the others.
func transparent(_, _ string, rc syscall.RawConn) error {
	var serr error
	err := rc.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1) })
	return errors.Join(err, serr)
}
