// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/node/control"
)

// logs writes what a container wrote, newest attempt, without CRI's prefixes.
func (n *Node) logs(w http.ResponseWriter, r *http.Request) {
	var in control.Logs
	if err := decode(r, &in); err != nil {
		fail(w, err)
		return
	}
	path, live, err := n.logFile(r.Context(), in)
	if err != nil {
		fail(w, err)
		return
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		err = &errs.Error{Kind: errs.NotFound, Subject: "log of pod " + in.Pod, Expected: "a container that has started", Fix: "see redoubt status"}
	}
	if err != nil {
		fail(w, err)
		return
	}
	defer f.Close()
	if in.Tail >= 0 {
		if err := seekTail(f, in.Tail); err != nil {
			fail(w, err)
			return
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	follow(r.Context(), w, f, func() bool { return in.Follow && live() })
}

// follow copies a CRI log as it grows, until more says that nothing will come.
func follow(ctx context.Context, w io.Writer, f io.Reader, more func() bool) {
	br := bufio.NewReaderSize(f, 64<<10)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var rest []byte
	for {
		// Asked before reading: what is written before the end is read after it.
		last := !more()
		for {
			line, err := br.ReadBytes('\n')
			if rest = append(rest, line...); err == io.EOF {
				break
			}
			if err != nil {
				return
			}
			if _, err := w.Write(plain(rest)); err != nil {
				return
			}
			rest = rest[:0]
		}
		if last {
			return
		}
		if fl, ok := w.(http.Flusher); ok {
			fl.Flush()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// logFile finds the file of a container's newest attempt, or of the one before,
// and says whether it may still grow.
func (n *Node) logFile(ctx context.Context, in control.Logs) (path string, live func() bool, err error) {
	var ferr error
	err = n.ask(ctx, func(w *world) {
		p, err := w.find(in.Pod)
		if err != nil {
			ferr = err
			return
		}
		c, err := container(p, in.Container)
		if err != nil {
			ferr = err
			return
		}
		attempt := uint32(c.Restarts)
		if in.Previous {
			if attempt == 0 {
				ferr = &errs.Error{Kind: errs.NotFound, Subject: "container " + c.Name + " of pod " + p.Record().Name(), Expected: "an attempt before the newest", Seen: "none"}
				return
			}
			attempt--
		}
		path = p.Record().LogPath(n.places(), c.Name, attempt)
		live = func() bool {
			now, err := container(p, c.Name)
			return err == nil && now.ID == c.ID && now.State == "running"
		}
	})
	return path, live, errors.Join(err, ferr)
}

// plain takes the prefix "<time> <stream> <F|P> " of a CRI log line off, and
// the newline of a partial one.
func plain(line []byte) []byte {
	parts := bytes.SplitN(line, []byte{' '}, 4)
	if len(parts) < 4 {
		return line
	}
	if string(parts[2]) == "P" {
		return bytes.TrimSuffix(parts[3], []byte{'\n'})
	}
	return parts[3]
}

// seekTail moves f to the start of its last n lines.
func seekTail(f *os.File, n int) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	const block = 64 << 10
	buf := make([]byte, block)
	pos, lines := st.Size(), -1
	for pos > 0 {
		size := min(pos, block)
		pos -= size
		if _, err := f.ReadAt(buf[:size], pos); err != nil && err != io.EOF {
			return err
		}
		for i := size - 1; i >= 0; i-- {
			if buf[i] == '\n' {
				if lines++; lines == n {
					_, err := f.Seek(pos+i+1, io.SeekStart)
					return err
				}
			}
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}
