// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Seen is one request as the origin read it.
type Seen struct {
	Conn     int    // which connection, from 1
	Head     string // as it came, with its empty line
	Method   string
	Target   string
	Old      bool        // HTTP/1.0
	Fields   [][2]string // name in lower case, value
	Body     string      // decoded
	Trailers string      // as they came
	Fault    string      // why it is not canonical; "" when it is. Nothing is read behind a fault
	Cut      bool        // the fault is only that the connection ended inside the request
}

// Get gives the values of a field joined by "|", so that a duplicate shows.
func (s *Seen) Get(name string) string {
	var v []string
	for _, f := range s.Fields {
		if f[0] == name {
			v = append(v, f[1])
		}
	}
	return strings.Join(v, "|")
}

// Has tells that a field is there.
func (s *Seen) Has(name string) bool {
	for _, f := range s.Fields {
		if f[0] == name {
			return true
		}
	}
	return false
}

func (s *Seen) String() string {
	return fmt.Sprintf("%s %s host=%q body=%q%s", s.Method, s.Target, s.Get("host"), clip(s.Body), s.Fault)
}

func clip(s string) string {
	if len(s) > 64 {
		return fmt.Sprintf("%s…(%d)", s[:64], len(s))
	}
	return s
}

// Script is what an origin does instead of its usual answer.
type Script struct {
	Early    bool   // answer when the head is there, before the body is read
	Raw      string // bytes of the answer; "" for the usual one
	Then     string // bytes written right behind, in a write of their own
	Close    bool   // end the connection then
	NoAnswer bool   // read on without a word
}

// Origin is a server that reads strictly, writes down what it read, and
// answers as scripted. It is what stands behind the proxy under test.
type Origin struct {
	Addr string
	// Greet is written on each new connection before anything is read.
	Greet string
	// On chooses a script by the request's target; nil, and a zero Script, are
	// the usual answer: 200 with "METHOD target bodylength" as body.
	On func(s *Seen) Script

	l        net.Listener
	wg       sync.WaitGroup
	answered atomic.Int64

	mu     sync.Mutex
	seen   []*Seen
	conns  map[net.Conn]bool
	opened int
}

// NewOrigin serves on loopback until the test ends. Set its fields before the
// first connection.
func NewOrigin(t testing.TB) *Origin {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &Origin{Addr: l.Addr().String(), l: l, conns: map[net.Conn]bool{}}
	o.wg.Go(o.accept)
	t.Cleanup(func() {
		l.Close()
		o.Drop()
		o.wg.Wait()
	})
	return o
}

// Take gives what was seen since the last Take.
func (o *Origin) Take() []*Seen {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.seen
	o.seen = nil
	return s
}

// Count is how many requests were seen since the last Take.
func (o *Origin) Count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.seen)
}

// Answered is how many answers have been written: on loopback they are in the
// proxy's socket then.
func (o *Origin) Answered() int64 { return o.answered.Load() }

// Open is how many connections there are now.
func (o *Origin) Open() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.conns)
}

// Opened is how many connections there have been.
func (o *Origin) Opened() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.opened
}

// Drop closes all connections.
func (o *Origin) Drop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for c := range o.conns {
		c.Close()
	}
}

func (o *Origin) accept() {
	for {
		c, err := o.l.Accept()
		if err != nil {
			return
		}
		o.mu.Lock()
		o.opened++
		n := o.opened
		o.conns[c] = true
		o.mu.Unlock()
		o.wg.Go(func() {
			defer func() {
				o.mu.Lock()
				delete(o.conns, c)
				o.mu.Unlock()
				c.Close()
			}()
			o.serve(c, n)
		})
	}
}

func (o *Origin) serve(c net.Conn, n int) {
	r := bufio.NewReaderSize(c, 128<<10)
	if o.Greet != "" {
		io.WriteString(c, o.Greet)
	}
	for {
		s, err := readHead(r)
		if err != nil {
			return
		}
		s.Conn = n
		var sc Script
		if o.On != nil && s.Fault == "" {
			sc = o.On(s)
		}
		if s.Fault == "" && !sc.Early {
			if s.Get("expect") != "" {
				io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
			}
			s.readBody(r)
		}
		o.mu.Lock()
		o.seen = append(o.seen, s)
		o.mu.Unlock()
		if s.Fault != "" {
			io.WriteString(c, "HTTP/1.1 400 Fault\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			return
		}
		if !sc.NoAnswer && o.answer(c, s, sc) != nil || sc.Close || s.Old {
			return
		}
		o.answered.Add(1)
		if sc.Early {
			s.readBody(r)
			if s.Fault != "" {
				return
			}
		}
	}
}

func (o *Origin) answer(c net.Conn, s *Seen, sc Script) error {
	raw := sc.Raw
	if raw == "" {
		body := fmt.Sprintf("%s %s %d\n", s.Method, s.Target, len(s.Body))
		raw = fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(body))
		if s.Method != "HEAD" {
			raw += body
		}
	}
	_, err := io.WriteString(c, raw)
	if err == nil && sc.Then != "" {
		_, err = io.WriteString(c, sc.Then)
	}
	return err
}

// readHead reads up to the empty line. An error means that nothing more came.
func readHead(r *bufio.Reader) (*Seen, error) {
	var head []byte
	for {
		l, err := r.ReadSlice('\n')
		head = append(head, l...)
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			if len(head) > 0 && errors.Is(err, io.EOF) {
				return &Seen{Head: string(head), Fault: " head cut short", Cut: true}, nil
			}
			return nil, err
		}
		if bytes.HasSuffix(head, []byte("\r\n\r\n")) || string(head) == "\r\n" || len(head) > 1<<20 {
			return parseHead(head), nil
		}
		if len(head) > 1 && head[len(head)-1] == '\n' && head[len(head)-2] != '\r' {
			return &Seen{Head: string(head), Fault: " bare line feed"}, nil
		}
	}
}

// parseHead takes only what a careful proxy writes.
func parseHead(head []byte) *Seen {
	s := &Seen{Head: string(head)}
	lines := strings.Split(strings.TrimSuffix(s.Head, "\r\n\r\n"), "\r\n")
	start := strings.Split(lines[0], " ")
	if len(start) != 3 || start[2] != "HTTP/1.1" && start[2] != "HTTP/1.0" || start[0] == "" || start[1] == "" {
		s.Fault = fmt.Sprintf(" start line %q", lines[0])
		return s
	}
	s.Method, s.Target, s.Old = start[0], start[1], start[2] == "HTTP/1.0"
	for _, l := range lines[1:] {
		name, value, ok := strings.Cut(l, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t\r\n\x00") || strings.ContainsAny(value, "\r\n\x00") {
			s.Fault = fmt.Sprintf(" field line %q", l)
			return s
		}
		s.Fields = append(s.Fields, [2]string{strings.ToLower(name), strings.Trim(value, " \t")})
	}
	cl, te := s.Get("content-length"), s.Get("transfer-encoding")
	switch {
	case s.Has("content-length") && s.Has("transfer-encoding"):
		s.Fault = " both lengths"
	case s.Has("transfer-encoding") && (!strings.EqualFold(te, "chunked") || s.Old):
		s.Fault = fmt.Sprintf(" coding %q", te)
	case s.Has("content-length") && strings.Trim(cl, "0123456789") != "", s.Has("content-length") && cl == "":
		s.Fault = fmt.Sprintf(" length %q", cl)
	case strings.Contains(s.Get("host"), "|") || !s.Has("host") && !s.Old:
		s.Fault = fmt.Sprintf(" host %q", s.Get("host"))
	}
	return s
}

// readBody reads what the head announced, chunks in their plainest form only.
func (s *Seen) readBody(r *bufio.Reader) {
	var body []byte
	defer func() { s.Body = string(body) }()
	if !s.Has("transfer-encoding") {
		n, _ := strconv.ParseInt("0"+s.Get("content-length"), 10, 64)
		var err error
		if body, err = io.ReadAll(io.LimitReader(r, n)); err != nil || int64(len(body)) < n {
			s.Fault, s.Cut = fmt.Sprintf(" body of %d ends after %d", n, len(body)), true
		}
		return
	}
	for {
		l, err := r.ReadString('\n')
		n, e := strconv.ParseUint(strings.TrimSuffix(l, "\r\n"), 16, 40)
		if err != nil || e != nil || !strings.HasSuffix(l, "\r\n") {
			s.Fault, s.Cut = fmt.Sprintf(" chunk line %q", clip(l)), err != nil
			return
		}
		if n == 0 {
			break
		}
		at := len(body)
		body = append(body, make([]byte, n)...)
		if k, err := io.ReadFull(r, body[at:]); err != nil {
			body = body[:at+k]
			s.Fault, s.Cut = " chunk cut short", true
			return
		}
		if end, err := r.Peek(2); err != nil || string(end) != "\r\n" {
			s.Fault, s.Cut = " chunk without end", err != nil
			return
		}
		r.Discard(2)
	}
	for {
		l, err := r.ReadString('\n')
		if err != nil || !strings.HasSuffix(l, "\r\n") {
			s.Fault, s.Cut = fmt.Sprintf(" trailer %q", clip(l)), err != nil
			return
		}
		if l == "\r\n" {
			return
		}
		s.Trailers += l
	}
}

// Fence waits until a request of its own, sent by way of the proxy on a fresh
// connection, was seen: what the proxy forwarded before has been seen, too,
// as far as one loop's order tells. It reports whether the proxy still
// serves.
func (o *Origin) Fence(proxy string) bool {
	target := fmt.Sprintf("/fence/%d", fences.Add(1))
	r := Talk(proxy, []byte("GET "+target+" HTTP/1.1\r\nHost: fence\r\nConnection: close\r\n\r\n"), nil)
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, s := range o.seen {
		if s.Target == target {
			o.seen = append(o.seen[:i:i], o.seen[i+1:]...)
			return bytes.Contains(r.Raw, []byte(target))
		}
	}
	return false
}

var fences atomic.Int64

// Hang bounds a conversation; only a peer that hangs reaches it.
const Hang = 15 * time.Second
