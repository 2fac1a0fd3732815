// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"golang.org/x/sys/unix"

	"redoubt.dev/base/sys"
)

// Bounds of what is moved inside the kernel.
const (
	// pipeSize is asked for; an unprivileged process may get less. With 64 KiB
	// the two system calls per pipeful cost as much as copying does.
	pipeSize  = 1 << 20
	keptPipes = 32 // by a loop
)

// Pipe carries bytes from one clear connection to another without a copy
// through user space. It belongs to its loop.
type Pipe struct {
	l    *Loop
	r, w int
	size int
	n    int // bytes inside
}

// Pipe gives an empty pipe; nil when there is none to be had, or the system
// cannot do it.
func (l *Loop) Pipe() *Pipe {
	if n := len(l.pipes); n > 0 {
		p := l.pipes[n-1]
		l.pipes = l.pipes[:n-1]
		return p
	}
	r, w, size := openPipe()
	if size == 0 {
		return nil
	}
	return &Pipe{l: l, r: r, w: w, size: size}
}

// Release gives the pipe back. One that holds bytes is closed, and they are
// lost.
func (p *Pipe) Release() {
	if p.n == 0 && len(p.l.pipes) < keptPipes {
		p.l.pipes = append(p.l.pipes, p)
		return
	}
	unix.Close(p.r)
	unix.Close(p.w)
	p.n = 0
}

// Held is the number of bytes inside.
func (p *Pipe) Held() int { return p.n }

// Spliceable tells that bytes from src to dst may bypass user space: both in
// clear, and nothing before them waits here.
func Spliceable(dst, src *Conn) bool {
	return src.rec == nil && dst.rec == nil && src.in.len() == 0 && src.fd >= 0 && dst.fd >= 0 && !src.connecting && !dst.connecting &&
		!dst.shut && !dst.Broken() && (dst.out.len() == 0 || dst.flush())
}

// Move moves at most limit bytes from src to dst, and gives those that src was
// relieved of and those that dst got. When it stops early, the handler of the
// side that it waits for will be called. src's end shows in src as after a
// Fill. It must be Spliceable.
func (p *Pipe) Move(dst, src *Conn, limit int) (in, out int) {
	for in < limit || p.n > 0 {
		if want := min(limit-in, p.size-p.n); want > 0 && src.readable && !src.eof && src.err == nil {
			n, e := sys.Splice(src.fd, p.w, want)
			switch {
			case e == unix.EINTR:
				continue
			case e == unix.EAGAIN && p.n > 0:
				// The pipe is full, or src is empty: only an empty pipe can tell.
			case e == unix.EAGAIN:
				src.readable = false
			case e != 0:
				src.fail("read", e)
			case n == 0:
				src.ended()
			default:
				p.n += n
				in += n
			}
		}
		if p.n == 0 {
			return in, out
		}
		if !dst.writable {
			return in, out
		}
		n, e := sys.Splice(p.r, dst.fd, p.n)
		switch {
		case e == unix.EINTR:
		case e == unix.EAGAIN:
			dst.writable = false
			dst.l.poll.blocked(dst.w)
			return in, out
		case e != 0:
			dst.failWrite(e)
			return in, out
		default:
			p.n -= n
			out += n
			dst.sent += uint64(n)
		}
	}
	return in, out
}
