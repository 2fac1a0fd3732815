// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox/driver/sentry/internal/control"
)

// server answers each call with what answer gives, and reports the calls.
func server(t testing.TB, answer func(method string, arg json.RawMessage, files []*os.File) string) control.Client {
	t.Helper()
	// A path longer than an address holds.
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 60), strings.Repeat("e", 60))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	l, err := net.Listen("unix", "/proc/self/fd/"+itoa(int(d.Fd()))+"/sock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c.(*net.UnixConn), answer)
		}
	}()
	return control.Client{Path: filepath.Join(dir, "sock")}
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

// serve does as the Sentry does: files belong to the first byte.
func serve(c *net.UnixConn, answer func(string, json.RawMessage, []*os.File) string) {
	defer c.Close()
	first, oob := make([]byte, 1), make([]byte, 1024)
	_, oobn, _, _, err := c.ReadMsgUnix(first, oob)
	if err != nil {
		return
	}
	var files []*os.File
	msgs, _ := syscall.ParseSocketControlMessage(oob[:oobn])
	for _, m := range msgs {
		fds, _ := syscall.ParseUnixRights(&m)
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	var call struct {
		Method string          `json:"method"`
		Arg    json.RawMessage `json:"arg"`
	}
	if err := json.NewDecoder(io.MultiReader(strings.NewReader(string(first)), c)).Decode(&call); err != nil {
		return
	}
	_, _ = io.WriteString(c, answer(call.Method, call.Arg, files))
	for _, f := range files {
		f.Close()
	}
}

func TestCalls(t *testing.T) {
	var method, arg string
	c := server(t, func(m string, a json.RawMessage, _ []*os.File) string {
		method, arg = m, string(a)
		return `{"success":true,"err":"","result":137}`
	})
	ctx := context.Background()
	for _, x := range []struct {
		call        func() (any, error)
		method, arg string
		result      any
	}{
		{func() (any, error) { return nil, c.StartRoot(ctx, "r") }, "containerManager.StartRoot", `"r"`, nil},
		{func() (any, error) { return nil, c.Create(ctx, "c", nil) }, "containerManager.CreateSubcontainer", `{"CID":"c"}`, nil},
		{func() (any, error) { return c.Wait(ctx, "c") }, "containerManager.Wait", `"c"`, uint32(137)},
		{func() (any, error) { return c.WaitPID(ctx, "c", 7) }, "containerManager.WaitPID", `{"PID":7,"CID":"c"}`, uint32(137)},
		{func() (any, error) { return nil, c.Destroy(ctx, "c") }, "containerManager.DestroySubcontainer", `"c"`, nil},
		{func() (any, error) { return nil, c.Signal(ctx, "c", 7, 15, false) }, "containerManager.Signal", `{"CID":"c","Signo":15,"PID":7,"Mode":0}`, nil},
		{func() (any, error) { return nil, c.Signal(ctx, "c", 0, 9, true) }, "containerManager.Signal", `{"CID":"c","Signo":9,"PID":0,"Mode":1}`, nil},
		{func() (any, error) { return c.Exec(ctx, control.ExecArgs{Argv: []string{"a"}, ContainerID: "c"}, nil) }, "containerManager.ExecuteAsync",
			`{"argv":["a"],"envv":null,"wd":"","KUID":0,"KGID":0,"ExtraKGIDs":null,"NoNewPrivileges":false,"Capabilities":{"PermittedCaps":0,"InheritableCaps":0,"EffectiveCaps":0,"BoundingCaps":0,"AmbientCaps":0},"StdioIsPty":false,"GuestFDs":null,"ContainerID":"c"}`, int32(137)},
		{func() (any, error) { return nil, c.Bound(ctx, 3, 4096) }, "Pod.Bound", `{"Slot":3,"Bytes":4096}`, nil},
		{func() (any, error) { return nil, c.Limit(ctx, "c", []control.Limit{{File: "pids.max", Value: "9"}}) }, "Pod.Limit", `{"CID":"c","Limits":[{"File":"pids.max","Value":"9"}]}`, nil},
	} {
		got, err := x.call()
		if err != nil || method != x.method || arg != x.arg || got != x.result {
			t.Errorf("%s(%s) = %v, %v; want %s(%s) = %v", method, arg, got, err, x.method, x.arg, x.result)
		}
	}
}

func TestFilesComeAlong(t *testing.T) {
	var got string
	c := server(t, func(_ string, _ json.RawMessage, files []*os.File) string {
		for _, f := range files {
			b, _ := io.ReadAll(f)
			got += string(b)
		}
		return `{"success":true}`
	})
	var files []*os.File
	for _, s := range []string{"one ", "two ", "three"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		_, _ = w.WriteString(s)
		w.Close()
		files = append(files, r)
	}
	// A long argument needs many writes; files go once.
	if err := c.Call(context.Background(), "m", strings.Repeat("x", 1<<20), files, nil); err != nil || got != "one two three" {
		t.Errorf("%q, %v", got, err)
	}
	if err := c.Call(context.Background(), "m", nil, make([]*os.File, 200), nil); !errors.Is(err, errs.TooLarge) {
		t.Error(err)
	}
}

func TestRefusalsHaveKinds(t *testing.T) {
	text := ""
	c := server(t, func(string, json.RawMessage, []*os.File) string {
		b, _ := json.Marshal(map[string]any{"success": false, "err": text})
		return string(b)
	})
	for msg, kind := range map[string]errs.Kind{
		`container "x" does not exist`: errs.NotFound, "waiting for PID 3: no such process": errs.NotFound,
		`container "x" not started`: errs.Conflict, "no such file or directory": errs.Invalid, "anything": errs.Internal,
	} {
		text = msg
		if err := c.StartRoot(context.Background(), "r"); !errors.Is(err, kind) {
			t.Errorf("%q became %v", msg, err)
		}
	}
	text = strings.Repeat("long ", 10000)
	if err := c.StartRoot(context.Background(), "r"); len(err.Error()) > 1000 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}

func TestDeadAndSilent(t *testing.T) {
	if err := (control.Client{Path: t.TempDir() + "/none"}).StartRoot(context.Background(), "r"); !errors.Is(err, errs.Unavailable) {
		t.Error(err)
	}
	hang := make(chan struct{})
	c := server(t, func(string, json.RawMessage, []*os.File) string { <-hang; return "" })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := c.StartRoot(ctx, "r"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	c.Timeout = 20 * time.Millisecond
	if err := c.StartRoot(context.Background(), "r"); !errors.Is(err, errs.Unavailable) {
		t.Error(err)
	}
	close(hang)
	// An endless answer is cut off.
	c = server(t, func(string, json.RawMessage, []*os.File) string { return `{"err":"` + strings.Repeat("x", 4<<20) })
	if err := c.StartRoot(context.Background(), "r"); !errors.Is(err, errs.Unavailable) {
		t.Error(err)
	}
}

// FuzzAnswer lets a Sentry in the attacker's hand answer anything.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"success":true,"result":5}`))
	f.Add([]byte(`{"success":true,"result":{"a":[1,2]}}`))
	f.Add([]byte(`{"success":false,"err":"no"}`))
	var answer []byte
	c := server(f, func(string, json.RawMessage, []*os.File) string { return string(answer) })
	f.Fuzz(func(t *testing.T, b []byte) {
		answer = b
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, _ = c.Wait(ctx, "c")
	})
}
