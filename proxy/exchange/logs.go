// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/logfmt"
)

// Sizes of an access log's batches, and how many may wait for the disk. On
// overflow the newest batch is dropped and its lines counted: an access log
// serves operation.
const (
	logBatch = 32 << 10
	logWait  = 64
	logDelay = 200 * time.Millisecond
)

// Sink carries lines from the loops to a file. One serves all access logs that
// name the file. A disk that is full or slow costs lines, which are counted,
// and holds up nobody.
type Sink struct {
	path    string
	full    chan []byte
	empty   chan []byte
	reopen  atomic.Bool
	Dropped atomic.Uint64 // lines
	bufs    []*logBuf     // by worker
	torn    bool          // the file ends inside a line; Run's own
}

// NewSink makes a sink; Run must run.
func NewSink(path string, workers []*Worker) *Sink {
	s := &Sink{path: path, full: make(chan []byte, logWait), empty: make(chan []byte, logWait)}
	for _, w := range workers {
		s.bufs = append(s.bufs, &logBuf{w: w, s: s})
	}
	return s
}

// Reopen has the file opened again by its name, after a rotation.
func (s *Sink) Reopen() { s.reopen.Store(true) }

// Run writes lines until ctx ends, and then what is left.
func (s *Sink) Run(ctx context.Context) error {
	f, err := s.open()
	if err != nil {
		return err
	}
	defer func() { f.Close() }()
	for {
		select {
		case b := <-s.full:
			if s.reopen.Swap(false) {
				if g, err := s.open(); err == nil {
					f.Close()
					f, s.torn = g, false
				}
			}
			s.write(f, b)
		case <-ctx.Done():
			for len(s.full) > 0 {
				s.write(f, <-s.full)
			}
			return nil
		}
	}
}

// Try tells whether the file can be written.
func (s *Sink) Try() error {
	f, err := s.open()
	if err != nil {
		return err
	}
	return f.Close()
}

func (s *Sink) open() (*os.File, error) {
	switch s.path {
	case "/dev/stdout", "/dev/stderr":
		fd := unix.Stdout
		if s.path == "/dev/stderr" {
			fd = unix.Stderr
		}
		fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open access log %s: %w", s.path, err)
		}
		return os.NewFile(uintptr(fd), s.path), nil
	}
	f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open access log: %w", err)
	}
	return f, nil
}

func (s *Sink) write(f *os.File, b []byte) {
	if s.torn { // two lines must not become one
		_, err := f.Write([]byte{'\n'})
		s.torn = err != nil
	}
	n, err := 0, error(nil)
	if !s.torn {
		n, err = f.Write(b)
		s.torn = err != nil && n > 0 && b[n-1] != '\n'
	}
	if s.torn || err != nil {
		s.drop(b[n:])
	}
	select {
	case s.empty <- b[:0]:
	default:
	}
}

func (s *Sink) drop(b []byte) {
	n := uint64(0)
	for _, c := range b {
		if c == '\n' {
			n++
		}
	}
	s.Dropped.Add(n)
}

// logBuf is a worker's batch under way.
type logBuf struct {
	w *Worker
	s *Sink
	b []byte
	t engine.Timer
}

// Expire sends a batch that has waited long enough.
func (l *logBuf) Expire(*engine.Timer) { l.flush() }

func (l *logBuf) flush() {
	if len(l.b) == 0 {
		return
	}
	select {
	case l.s.full <- l.b:
		select {
		case l.b = <-l.s.empty:
		default:
			l.b = make([]byte, 0, logBatch+4<<10)
		}
	default:
		l.s.drop(l.b)
		l.b = l.b[:0]
	}
}

// Log is one access log: what is written of which exchanges.
type Log struct {
	sink   *Sink
	format *logfmt.Format
	filter *logfmt.Filter
}

// NewLog compiles an access log that writes to sink.
func NewLog(c *config.AccessLog, sink *Sink) (*Log, error) {
	f, err := logfmt.Of(c)
	if err != nil {
		return nil, err
	}
	sel, err := logfmt.CompileFilter(c.Filter)
	if err != nil {
		return nil, err
	}
	return &Log{sink: sink, format: f, filter: sel}, nil
}

// Write logs an exchange, or a connection.
func (g *Log) Write(w *Worker, c *filter.Context) {
	if !g.filter.Match(c) {
		return
	}
	l := g.sink.bufs[w.n]
	if len(l.b) == 0 {
		w.l.SetTimer(&l.t, logDelay, l)
	}
	l.b = g.format.Append(l.b, c)
	if len(l.b) >= logBatch {
		l.flush()
	}
}

// Flush hands over what the worker has gathered for the sink.
func (s *Sink) Flush(w *Worker) { s.bufs[w.n].flush() }
