// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// Answer is one response that a client read.
type Answer struct {
	Status int
	Header http.Header
	Body   string
}

// Talked is what a client got for its bytes.
type Talked struct {
	Raw    []byte
	Closed bool // the proxy ended the connection, orderly or by reset
	Hung   bool // nothing ended within Hang
}

// Talk opens a connection, writes what it is given in order, and reads until
// the proxy closes, until done says that enough has come, or until Hang. Each
// part is one write, so that a part can be seen alone.
func Talk(addr string, part []byte, done func(got []byte) bool, more ...[]byte) Talked {
	var r Talked
	c, err := net.Dial("tcp", addr)
	if err != nil {
		r.Closed = true
		return r
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(Hang))
	// The writer may be ahead of a proxy that has refused already: its errors
	// are told by the reading side.
	go func() {
		for _, p := range append([][]byte{part}, more...) {
			if _, err := c.Write(p); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		r.Raw = append(r.Raw, buf[:n]...)
		switch {
		case done != nil && done(r.Raw):
			return r
		case errors.Is(err, os.ErrDeadlineExceeded):
			r.Hung = true
			return r
		case err != nil:
			r.Closed = true
			return r
		}
	}
}

// Answers reads the responses in what came. methods are those of the
// requests, in order; behind them GET is taken. Interim responses are left
// out. rest is what is no response.
func (r *Talked) Answers(methods ...string) (all []Answer, rest []byte) {
	src := bytes.NewReader(r.Raw)
	br := bufio.NewReaderSize(src, 16)
	for {
		rest = r.Raw[len(r.Raw)-src.Len()-br.Buffered():]
		m := "GET"
		if len(all) < len(methods) {
			m = methods[len(all)]
		}
		if len(rest) == 0 {
			return all, nil
		}
		res, err := http.ReadResponse(br, &http.Request{Method: m})
		if err != nil {
			return all, rest
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return all, rest
		}
		if res.StatusCode >= 100 && res.StatusCode < 200 && res.StatusCode != 101 {
			continue
		}
		all = append(all, Answer{res.StatusCode, res.Header, string(body)})
	}
}

// Until tells that s has come.
func Until(s string) func([]byte) bool {
	return func(got []byte) bool { return bytes.Contains(got, []byte(s)) }
}

// Conn is a client that asks one request after the other on one connection.
type Conn struct {
	net.Conn
	r *bufio.Reader
}

// Dial opens a Conn, all of whose life is bounded by Hang.
func Dial(addr string) (*Conn, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(Hang))
	return &Conn{c, bufio.NewReader(c)}, nil
}

// Reader is what reads the connection; bytes behind an answer are there.
func (c *Conn) Reader() *bufio.Reader { return c.r }

// Ask writes raw and reads the final answer to it.
func (c *Conn) Ask(method, raw string) (Answer, error) {
	if _, err := io.WriteString(c, raw); err != nil {
		return Answer{}, err
	}
	return c.Answer(method)
}

// Answer reads the next final answer.
func (c *Conn) Answer(method string) (Answer, error) {
	for {
		res, err := http.ReadResponse(c.r, &http.Request{Method: method})
		if err != nil {
			return Answer{}, err
		}
		body, err := io.ReadAll(res.Body)
		a := Answer{res.StatusCode, res.Header, string(body)}
		if err != nil || a.Status >= 200 || a.Status == 101 {
			return a, err
		}
	}
}
