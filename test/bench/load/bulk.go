// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// chunk is what one write offers: large enough that the sender's system calls
// do not count.
const chunk = 256 << 10

// Bulk writes to j.Conns connections for j.Warm + j.For and counts the bytes
// that were taken after j.Warm.
func Bulk(ctx context.Context, j Job) (Result, error) {
	var taken atomic.Int64
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range j.Conns {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", j.Addr.String())
		if err != nil {
			return Result{}, err
		}
		conns = append(conns, c)
		if err := c.SetWriteDeadline(time.Now().Add(j.Warm + j.For + time.Second)); err != nil {
			return Result{}, err
		}
	}
	var all sync.WaitGroup
	var errs atomic.Int64
	end := time.Now().Add(j.Warm + j.For)
	for _, c := range conns {
		all.Go(func() {
			b := make([]byte, chunk)
			for time.Now().Before(end) && ctx.Err() == nil {
				n, err := c.Write(b)
				taken.Add(int64(n))
				if err != nil {
					errs.Add(1)
					return
				}
			}
		})
	}
	<-time.After(j.Warm)
	start, before := time.Now(), taken.Load()
	<-time.After(time.Until(end))
	r := Result{Done: taken.Load() - before, Took: time.Since(start)}
	all.Wait()
	r.Errors = errs.Load()
	return r, ctx.Err()
}

// Sink reads and drops, without copying to user space, what its connections
// bring, until ctx ends.
func Sink(ctx context.Context, at netip.AddrPort) error {
	return serve(ctx, at, func(c net.Conn) {
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			return
		}
		b := make([]byte, 1<<20) // never written: MSG_TRUNC drops
		for ended := false; !ended; {
			err := raw.Read(func(fd uintptr) bool {
				n, _, err := unix.Recvfrom(int(fd), b, unix.MSG_TRUNC)
				if err == unix.EAGAIN {
					return false
				}
				ended = err != nil && err != unix.EINTR || n == 0
				return true
			})
			if err != nil {
				return
			}
		}
	})
}

// serve accepts until ctx ends and returns after all connections have ended.
func serve(ctx context.Context, at netip.AddrPort, f func(net.Conn)) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at.String())
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	defer all.Wait()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		all.Go(func() {
			defer c.Close()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			f(c)
		})
	}
}
