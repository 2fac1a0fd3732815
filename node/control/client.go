// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
)

// Error is an error on the wire: the parts of errs.Error with its text, and
// all problems when there were several.
type Error struct {
	errs.Error
	Text string  `json:"text"`
	Also []Error `json:"also,omitempty"`
}

// Wire makes err fit for the wire.
func Wire(err error) *Error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		all := j.Unwrap()
		if len(all) > 0 {
			out := Wire(all[0])
			for _, e := range all[1:] {
				out.Also = append(out.Also, *Wire(e))
			}
			return out
		}
	}
	out := &Error{Text: err.Error()}
	var typed *errs.Error
	if errors.As(err, &typed) {
		out.Error = *typed
	} else {
		out.Kind = errs.KindOf(err)
	}
	return out
}

// Native gives the error back; its text is that of the node.
func (e *Error) Native() error {
	one := remote{e.Kind, e.Text}
	if len(e.Also) == 0 {
		return one
	}
	all := []error{one}
	for i := range e.Also {
		all = append(all, e.Also[i].Native())
	}
	return errors.Join(all...)
}

// remote is an error of the node: its text and its kind.
type remote struct {
	kind errs.Kind
	text string
}

func (r remote) Error() string   { return r.text }
func (r remote) Unwrap() error   { return r.kind }
func (r remote) Is(e error) bool { return e == r.kind }

// Client asks a node. Its methods may run concurrently.
type Client struct {
	socket string
	http   http.Client
}

// NewClient makes a client of the node whose socket is at path.
func NewClient(path string) *Client {
	c := &Client{socket: path}
	c.http.Transport = &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}
	return c
}

// maxAnswer bounds what is read of one answer that is not a stream.
const maxAnswer = 64 << 20

// Call sends in and decodes the answer into out, either may be nil.
func (c *Client) Call(ctx context.Context, verb string, in, out any) error {
	body, err := c.Stream(ctx, verb, in)
	if err != nil {
		return err
	}
	defer body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("read the node's answer to %s: %w", verb, err)
	}
	return nil
}

// Stream sends in and gives the answer as it comes.
func (c *Client) Stream(ctx context.Context, verb string, in any) (io.ReadCloser, error) {
	b, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://node/v1/"+verb, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, &errs.Error{Kind: errs.Unavailable, Subject: "node", Expected: "an answer on " + c.socket, Fix: "start it with redoubt up", Err: err}
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	var e Error
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&e); err != nil || e.Text == "" {
		return nil, errs.New(errs.Internal, "node", "answered %s to %s", resp.Status, verb)
	}
	return nil, e.Native()
}

// Events sends in and calls f for each event; done, when not nil, takes the
// result.
func (c *Client) Events(ctx context.Context, verb string, in any, f func(Event), done any) error {
	body, err := c.Stream(ctx, verb, in)
	if err != nil {
		return err
	}
	defer body.Close()
	sc := bufio.NewScanner(body)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		ev := Event{Done: done}
		if err := json.Unmarshal(sc.Bytes(), &ev); err != nil {
			return fmt.Errorf("read the node's answer to %s: %w", verb, err)
		}
		if ev.Error != nil {
			return ev.Error.Native()
		}
		if bytes.Contains(sc.Bytes(), []byte(`"done":`)) && ev.Step == "" {
			return nil
		}
		f(ev)
	}
	return errors.Join(sc.Err(), errs.New(errs.Unavailable, "node", "ended while it worked on %s", verb))
}

// Exec runs a process and returns its exit code. The files become its stdio.
// When ctx ends the process is ended.
func (c *Client) Exec(ctx context.Context, e Exec, stdio [3]*os.File) (int, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: c.socket + ".exec", Net: "unix"})
	if err != nil {
		return 0, &errs.Error{Kind: errs.Unavailable, Subject: "node", Expected: "an answer on " + c.socket, Fix: "start it with redoubt up", Err: err}
	}
	defer conn.Close()
	b, err := json.Marshal(e)
	if err != nil {
		return 0, err
	}
	var fds []int
	for _, f := range stdio {
		fds = append(fds, int(f.Fd()))
	}
	if _, _, err := conn.WriteMsgUnix(append(b, '\n'), unix.UnixRights(fds...), nil); err != nil {
		return 0, fmt.Errorf("ask the node for a process: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.CloseWrite() }) // the node takes it for our leaving
	defer stop()
	var out Exited
	if err := json.NewDecoder(io.LimitReader(conn, 64<<10)).Decode(&out); err != nil {
		return 0, fmt.Errorf("the node ended before the process did: %w", err)
	}
	if out.Error != nil {
		return 0, out.Error.Native()
	}
	return out.Code, nil
}
