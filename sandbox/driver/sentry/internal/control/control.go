// SPDX-License-Identifier: Apache-2.0

// Package control speaks to a running Sentry over its control socket.
//
// The protocol is the Sentry's own: on a unix stream socket one JSON object
// {"method","arg"} per call, open files attached to its first byte, answered
// by one object {"success","err","result"}. The argument types here carry
// only the fields that this driver sets; what is left out means the zero
// value to the Sentry. Linking the Sentry's own types instead would pull its
// whole kernel into the node: a program that imports this driver has 151
// packages, 2.4 MB and starts in 2.5 ms of processor time; with those types it
// has 472, 21 MB and 6.1 ms.
//
// The Sentry may be in the attacker's hand: answers are bounded, and nothing
// in them is trusted beyond exit codes and numbers.
package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"redoubt.dev/api/errs"
)

// MaxFiles is the Sentry's own bound of files per call.
const MaxFiles = 128

// maxAnswer bounds answers: none that we read is longer than some hundred
// bytes.
const maxAnswer = 1 << 20

// Client calls one Sentry. Each call is a connection of its own, so calls may
// run concurrently and a waiting one blocks no other.
type Client struct {
	Path string // of the control socket
	// Timeout bounds every call but those that wait for a process: a Sentry
	// that does not answer must not hold up whoever asks. 0: none.
	Timeout time.Duration
}

type call struct {
	Method string `json:"method"`
	Arg    any    `json:"arg"`
}

type answer struct {
	Success bool            `json:"success"`
	Err     string          `json:"err"`
	Result  json.RawMessage `json:"result"`
}

// Call invokes method with arg and files, and decodes into result when that
// is not nil. It returns early when ctx ends; the Sentry may finish the call
// all the same.
func (c Client) Call(ctx context.Context, method string, arg any, files []*os.File, result any) error {
	if len(files) > MaxFiles {
		return &errs.Error{Kind: errs.TooLarge, Subject: method, Field: "files",
			Expected: fmt.Sprintf("at most %d", MaxFiles), Seen: fmt.Sprint(len(files)), Fix: "mount fewer volumes"}
	}
	if c.Timeout > 0 {
		silent := &errs.Error{Kind: errs.Unavailable, Subject: "sandbox control socket", Expected: "an answer within " + c.Timeout.String(), Seen: "none"}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.Timeout, silent)
		defer cancel()
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	if err := send(conn, call{method, arg}, files); err != nil {
		return c.failed(ctx, method, err)
	}
	var a answer
	if err := json.NewDecoder(io.LimitReader(conn, maxAnswer)).Decode(&a); err != nil {
		return c.failed(ctx, method, err)
	}
	if !a.Success {
		return refusal(method, a.Err)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(a.Result, result); err != nil {
		return &errs.Error{Kind: errs.Internal, Subject: method, Err: err}
	}
	return nil
}

// dial connects through the directory's descriptor, because a socket's path
// may be longer than the 107 bytes that an address holds.
func (c Client) dial(ctx context.Context) (*net.UnixConn, error) {
	dir, err := os.Open(filepath.Dir(c.Path))
	if err != nil {
		return nil, unavailable(err)
	}
	defer dir.Close()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(c.Path)))
	if err != nil {
		return nil, unavailable(err)
	}
	return conn.(*net.UnixConn), nil
}

func send(conn *net.UnixConn, c call, files []*os.File) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	var rights []byte
	if len(files) > 0 {
		if rights, err = attach(files); err != nil {
			return err
		}
	}
	// The files ride on the first byte only: the Sentry looks for them there.
	n, _, err := conn.WriteMsgUnix(data[:1], rights, nil)
	if err != nil {
		return err
	}
	_, err = conn.Write(data[n:])
	runtime.KeepAlive(files)
	return err
}

// attach gives the control message that carries files. Not by File.Fd, which
// would switch the open file to blocking for everyone who shares it.
func attach(files []*os.File) ([]byte, error) {
	fds := make([]int, len(files))
	for i, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			return nil, err
		}
		if err := raw.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
			return nil, err
		}
	}
	return syscall.UnixRights(fds...), nil
}

func (c Client) failed(ctx context.Context, method string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("sandbox: %s: %w", method, context.Cause(ctx))
	}
	return fmt.Errorf("sandbox: %s: %w", method, unavailable(err))
}

func unavailable(err error) error {
	return &errs.Error{Kind: errs.Unavailable, Subject: "sandbox control socket", Err: err}
}

// refusal gives the Sentry's error a kind. The protocol carries text only.
func refusal(method, text string) error {
	if len(text) > 512 {
		text = text[:512] + "…"
	}
	kind := errs.Internal
	switch {
	case strings.Contains(text, "does not exist"), strings.Contains(text, "not found"),
		strings.Contains(text, "no such process"), strings.Contains(text, "deleted container"):
		kind = errs.NotFound
	case strings.Contains(text, "not started"), strings.Contains(text, "has stopped"), strings.Contains(text, "already exists"):
		kind = errs.Conflict
	case strings.Contains(text, "no such file"), strings.Contains(text, "permission denied"),
		strings.Contains(text, "exec format"), strings.Contains(text, "isn't"):
		kind = errs.Invalid
	}
	return &errs.Error{Kind: kind, Subject: "sandbox: " + method, Err: fmt.Errorf("%s", text)}
}
