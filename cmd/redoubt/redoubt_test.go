// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/node/control"
)

// fakeNode answers on the sockets of a state directory as a node does.
type fakeNode struct {
	state   string
	answers map[string]http.HandlerFunc

	mu    sync.Mutex
	asked []string // "verb body"
}

func answer(v any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) }
}

func refuse(status int, err error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(control.Wire(err))
	}
}

func serve(t *testing.T, answers map[string]http.HandlerFunc) *fakeNode {
	t.Helper()
	dir, err := os.MkdirTemp("", "h") // a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	n := &fakeNode{state: filepath.Join(dir, "s"), answers: answers}
	if err := os.Mkdir(n.state, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(n.state, "node.sock"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: n}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return n
}

func (n *fakeNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	verb := strings.TrimPrefix(r.URL.Path, "/v1/")
	n.mu.Lock()
	n.asked = append(n.asked, verb+" "+string(b))
	n.mu.Unlock()
	if f := n.answers[verb]; f != nil {
		f(w, r)
		return
	}
	http.NotFound(w, r)
}

func (n *fakeNode) was(verb string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range n.asked {
		if body, ok := strings.CutPrefix(a, verb+" "); ok {
			return body
		}
	}
	return ""
}

// redoubt runs a command line and gives what it printed and its exit code.
func redoubt(t *testing.T, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	return redoubtUntil(t, t.Context(), args...)
}

func redoubtUntil(t *testing.T, ctx context.Context, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	oldOut, oldErr := os.Stdout, os.Stderr
	defer func() { os.Stdout, os.Stderr = oldOut, oldErr }()
	var said [2]string
	var wg sync.WaitGroup
	var ends []*os.File
	for i, to := range []**os.File{&os.Stdout, &os.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		*to = w
		ends = append(ends, w)
		wg.Go(func() {
			b, _ := io.ReadAll(r)
			said[i] = string(b)
			r.Close()
		})
	}
	a := &app{}
	err := a.run(ctx, args)
	a.explain(err)
	for _, w := range ends {
		w.Close()
	}
	wg.Wait()
	return said[0], said[1], code(err)
}

func verbs(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, s := range c.Commands() {
		verbs(s, f)
	}
}

func TestEveryVerbHasAnExample(t *testing.T) {
	n := 0
	verbs((&app{}).command(), func(c *cobra.Command) {
		if !c.HasParent() {
			return
		}
		n++
		out, _, exit := redoubt(t, append(strings.Fields(strings.TrimPrefix(c.CommandPath(), "redoubt ")), "--help")...)
		if exit != 0 || !strings.Contains(out, "Examples:\n  redoubt ") || c.Short == "" {
			t.Errorf("%s --help: code %d, or no example:\n%s", c.CommandPath(), exit, out)
		}
	})
	if n < 10 {
		t.Errorf("%d verbs", n)
	}
	if out, _, exit := redoubt(t); exit != 0 || !strings.Contains(out, "Exit codes:") {
		t.Errorf("redoubt alone: code %d\n%s", exit, out)
	}
}

func TestWrongUsage(t *testing.T) {
	for _, line := range []string{
		"nonsense", "--nonsense", "status x", "status --nonsense", "status -o xml", "-o", "up", "up --timeout soon x", "logs", "logs a b", "logs --tail many x",
		"exec", "exec pod", "build", "build .", "build -t x", "verify", "verify a b", "passport", "passport verify", "passport verify f", "passport root x", "doctor x",
		"down --purge x", "build . -t r.example/a:1 --label novalue",
	} {
		_, stderr, exit := redoubt(t, append([]string{"--state", "/nonexistent/redoubt"}, strings.Fields(line)...)...)
		if exit != 2 || !strings.HasPrefix(stderr, "error: ") || !strings.Contains(stderr, "see --help") {
			t.Errorf("redoubt %s: code %d, %q; want 2 and a hint", line, exit, stderr)
		}
	}
}

func TestNoNode(t *testing.T) {
	state := filepath.Join(t.TempDir(), "none")
	for _, line := range []string{"status", "logs x", "exec x -- true", "verify r.example/a", "passport x", "passport root", "down " + state} {
		_, stderr, exit := redoubt(t, append([]string{"--state", state}, strings.Fields(line)...)...)
		if exit != 5 || !strings.Contains(stderr, "redoubt up") {
			t.Errorf("redoubt %s: code %d, %q; want 5 and what to do", line, exit, stderr)
		}
	}
	// Down is done when nothing runs.
	if _, stderr, exit := redoubt(t, "--state", state, "--root", state, "down"); exit != 0 || !strings.Contains(stderr, "nothing runs") {
		t.Errorf("down: code %d, %q", exit, stderr)
	}
	if stdout, stderr, exit := redoubt(t, "--state", state, "--root", state, "-o", "json", "down"); exit != 0 || stderr != "" || !json.Valid([]byte(stdout)) {
		t.Errorf("down -o json: code %d, %q, %q", exit, stdout, stderr)
	}
}

func TestCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0}, {errors.New("plain"), 1}, {usage("x"), 2}, {errs.Denied, 3}, {errs.New(errs.Unproven, "x", "y"), 3}, {fmt.Errorf("z: %w", errs.NotFound), 4},
		{errs.New(errs.Unavailable, "node", "dial: %w", fs.ErrNotExist), 5}, {errs.Invalid, 6}, {errs.Unsupported, 6}, {errs.TooLarge, 6}, {errs.Conflict, 1}, {errs.Internal, 1},
		{errors.Join(errors.New("plain"), errs.Denied), 3}, {exitCode(77), 77}, {fmt.Errorf("%w", exitCode(130)), 130}, {&fs.PathError{Err: syscall.ENOENT}, 4},
	} {
		if got := code(c.err); got != c.want {
			t.Errorf("code(%v) = %d, want %d", c.err, got, c.want)
		}
	}
}

// What the node says reaches the person whole, and a program as JSON.
func TestErrorsOfTheNode(t *testing.T) {
	denied := &errs.Error{Kind: errs.Denied, Subject: "image x", Field: "signature", Expected: "a signer", Seen: "none", Fix: "sign it"}
	n := serve(t, map[string]http.HandlerFunc{
		"verify": refuse(403, denied),
		"status": refuse(409, errors.Join(errs.New(errs.Invalid, "a", "one"), errs.New(errs.NotFound, "b", "two"))),
		"logs":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); _, _ = io.WriteString(w, "<html>") },
	})
	_, stderr, exit := redoubt(t, "--state", n.state, "verify", "x")
	if exit != 3 || stderr != "error: "+denied.Error()+"\n" {
		t.Errorf("code %d, %q", exit, stderr)
	}
	stdout, stderr, exit := redoubt(t, "--state", n.state, "-o", "json", "verify", "x")
	var e struct {
		Error control.Error
		Code  int
	}
	if err := json.Unmarshal([]byte(stderr), &e); err != nil || exit != 3 || e.Code != 3 || e.Error.Kind != errs.Denied || e.Error.Text != denied.Error() || stdout != "" {
		t.Errorf("code %d, stdout %q, stderr %q, %v", exit, stdout, stderr, err)
	}
	_, stderr, exit = redoubt(t, "--state", n.state, "status")
	if exit != 4 || !strings.Contains(stderr, "one") || !strings.Contains(stderr, "two") {
		t.Errorf("two problems: code %d, %q", exit, stderr)
	}
	if _, stderr, exit = redoubt(t, "--state", n.state, "logs", "x"); exit != 1 || !strings.Contains(stderr, "500") {
		t.Errorf("an answer of something else: code %d, %q", exit, stderr)
	}
	if _, stderr, exit = redoubt(t, "--state", n.state, "-o", "json", "status", "x"); exit != 2 || !json.Valid([]byte(stderr)) {
		t.Errorf("wrong usage for a program: code %d, %q", exit, stderr)
	}
}

func TestStatus(t *testing.T) {
	st := control.Status{Node: control.Node{TrustDomain: "bank.example", Health: "tired"}, Ready: true,
		Pods: []control.Pod{{Namespace: "bank", Name: "ledger-0", PodStatus: control.PodStatus{Phase: "Running", Ready: true}}}}
	n := serve(t, map[string]http.HandlerFunc{"status": answer(st)})
	out, _, exit := redoubt(t, "--state", n.state, "status")
	for _, want := range []string{"bank.example", "unwell: tired", "bank/ledger-0"} {
		if !strings.Contains(out, want) {
			t.Errorf("status does not show %q:\n%s", want, out)
		}
	}
	out, _, _ = redoubt(t, "--state", n.state, "-o", "json", "status")
	var got control.Status
	if err := json.Unmarshal([]byte(out), &got); err != nil || exit != 0 || got.Pods[0].Name != "ledger-0" {
		t.Errorf("%v, %s", err, out)
	}
}

func TestUp(t *testing.T) {
	ready := make(chan struct{})
	n := serve(t, map[string]http.HandlerFunc{
		"up":   answer(control.Upped{Set: "s-1", Objects: []string{"Pod bank/a"}}),
		"down": answer(struct{}{}),
		"status": func(w http.ResponseWriter, r *http.Request) {
			st := control.Status{Pods: []control.Pod{{UID: "1", Namespace: "bank", Name: "a", PodStatus: control.PodStatus{Phase: "Pending", Reason: "pulls"}}}}
			select {
			case <-ready:
				st.Ready, st.Pods[0].Ready = true, true
			default:
			}
			answer(st)(w, r)
		},
	})
	dir := t.TempDir()
	if _, stderr, exit := redoubt(t, "--state", n.state, "up", "-d", filepath.Join(dir, "none")); exit != 4 || n.was("up") != "" {
		t.Errorf("a path that is not there: code %d, %q", exit, stderr)
	}
	_, stderr, exit := redoubt(t, "--state", n.state, "up", "-d", "--timeout", "300ms", dir)
	if exit != 5 || !strings.Contains(stderr, "bank/a (pulls)") || !strings.Contains(stderr, "not ready in 300ms") {
		t.Errorf("never ready: code %d, %q", exit, stderr)
	}
	if out, _, exit := redoubt(t, "--state", n.state, "-o", "json", "up", "-d", "--no-wait", dir); exit != 0 || !strings.Contains(out, "\"set\": \"s-1\"") {
		t.Errorf("no-wait: code %d, %q", exit, out)
	}
	close(ready)
	if out, _, exit := redoubt(t, "--state", n.state, "up", "-d", dir); exit != 0 || !strings.Contains(out, "bank/a") {
		t.Errorf("ready: code %d, %q", exit, out)
	}
	if got, want := n.was("up"), fmt.Sprintf("{\"paths\":[%q]}", dir); got != want {
		t.Errorf("asked %s, want %s", got, want)
	}
	// In the foreground an interrupt takes down what came up.
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-time.After(100 * time.Millisecond)
		cancel()
	}()
	if _, stderr, exit := redoubtUntil(t, ctx, "--state", n.state, "up", dir); exit != 0 || !strings.Contains(stderr, "taking s-1 down") || n.was("down") == "" {
		t.Errorf("interrupted: code %d, %q", exit, stderr)
	}
}

// Manifests without pods are ready when they are accepted.
func TestUpWithoutPods(t *testing.T) {
	n := serve(t, map[string]http.HandlerFunc{"up": answer(control.Upped{Set: "s-1"}), "status": answer(control.Status{Ready: true})})
	if _, stderr, exit := redoubt(t, "--state", n.state, "up", "-d", "--timeout", "2s", t.TempDir()); exit != 0 {
		t.Errorf("code %d, %q", exit, stderr)
	}
}

func TestLogs(t *testing.T) {
	n := serve(t, map[string]http.HandlerFunc{"logs": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "one\ntwo\n") }})
	out, _, exit := redoubt(t, "--state", n.state, "logs", "-f", "-p", "--tail", "2", "-c", "x", "bank/a")
	if exit != 0 || out != "one\ntwo\n" {
		t.Errorf("code %d, %q", exit, out)
	}
	if got, want := n.was("logs"), `{"pod":"bank/a","container":"x","follow":true,"previous":true,"tail":2}`; got != want {
		t.Errorf("asked %s, want %s", got, want)
	}
}

func TestBuild(t *testing.T) {
	lines := func(l ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Join(l, "\n")+"\n") }
	}
	for _, c := range []struct {
		name string
		said []string
		exit int
		out  string
	}{
		{"done", []string{`{"step":"compile"}`, `{"done":{"image":"r/a@sha256:1"}}`}, 0, "r/a@sha256:1\n"},
		{"refused", []string{`{"step":"compile"}`, `{"error":{"kind":"denied","text":"no"}}`}, 3, ""},
		{"cut", []string{`{"step":"compile","text":"\"done\":"}`}, 5, ""},
		{"garbage", []string{"<html>"}, 1, ""},
	} {
		n := serve(t, map[string]http.HandlerFunc{"build": lines(c.said...), "status": answer(control.Status{})})
		out, stderr, exit := redoubt(t, "--state", n.state, "build", t.TempDir(), "-t", "r.example/a:1", "--label", "a=b=c")
		if exit != c.exit || out != c.out {
			t.Errorf("%s: code %d, %q, %q; want %d, %q", c.name, exit, out, stderr, c.exit, c.out)
		}
		if got := n.was("build"); !strings.Contains(got, `"labels":{"a":"b=c"}`) || !strings.Contains(got, `"go":"/`) {
			t.Errorf("%s: asked %s", c.name, got)
		}
	}
	if _, _, exit := redoubt(t, "build", "/nonexistent", "-t", "r.example/a:1"); exit != 4 {
		t.Errorf("a source that is not there: code %d", exit)
	}
}

// execNode answers one redoubt exec: it says what it was asked on the process's
// stdout, and out to the client.
func execNode(t *testing.T, state, out string) <-chan string {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(state, "node.sock.exec"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 1)
	go func() {
		defer l.Close()
		c, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer c.Close()
		buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(3*4))
		n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
		if err != nil {
			return
		}
		msgs, _ := unix.ParseSocketControlMessage(oob[:oobn])
		fds, _ := unix.ParseUnixRights(&msgs[0])
		_, _ = unix.Write(fds[1], []byte("to stdout"))
		_, _ = unix.Write(fds[2], []byte("to stderr"))
		for _, fd := range fds {
			unix.Close(fd)
		}
		asked <- string(buf[:n])
		_, _ = io.WriteString(c, out)
	}()
	return asked
}

func TestExec(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		exit         int
	}{
		{"ends well", `{"code":0}`, 0},
		{"its code is ours", `{"code":42}`, 42},
		{"no such pod", `{"code":0,"error":{"kind":"not found","text":"pod x: not found"}}`, 4},
		{"denied", `{"code":0,"error":{"kind":"denied","text":"no"}}`, 3},
		{"the node dies", "", 1},
	} {
		n := serve(t, nil)
		asked := execNode(t, n.state, c.answer)
		out, stderr, exit := redoubt(t, "--state", n.state, "exec", "-c", "x", "bank/a", "--", "ls", "-l")
		if exit != c.exit || out != "to stdout" || !strings.HasPrefix(stderr, "to stderr") {
			t.Errorf("%s: code %d, %q, %q; want %d", c.name, exit, out, stderr, c.exit)
		}
		if got := <-asked; !strings.Contains(got, `"command":["ls","-l"]`) || !strings.Contains(got, `"container":"x"`) {
			t.Errorf("%s: asked %s", c.name, got)
		}
	}
}

func TestDown(t *testing.T) {
	n := serve(t, map[string]http.HandlerFunc{})
	n.answers["down"] = func(w http.ResponseWriter, r *http.Request) {
		os.RemoveAll(n.state) // what a node does last
		answer(struct{}{})(w, r)
	}
	root := t.TempDir()
	for _, name := range []string{"node", "identity", "mine"} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if out, stderr, exit := redoubt(t, "--state", n.state, "--root", root, "down", "--purge"); exit != 0 || out != "down\n" {
		t.Errorf("code %d, %q, %q", exit, out, stderr)
	}
	left, _ := os.ReadDir(root)
	if len(left) != 1 || left[0].Name() != "mine" {
		t.Errorf("after purge %v is left, want only what is not the node's", left)
	}
}

func TestPassport(t *testing.T) {
	n := serve(t, map[string]http.HandlerFunc{"passport": answer(map[string]int{"a": 1}), "root": answer(map[string]int{"b": 2})})
	file := filepath.Join(t.TempDir(), "p")
	if _, stderr, exit := redoubt(t, "--state", n.state, "passport", "bank/a", "-o", file); exit != 0 {
		t.Errorf("code %d, %q", exit, stderr)
	}
	if b, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(b)) != `{"a":1}` {
		t.Errorf("%q, %v", b, err)
	}
	if out, _, exit := redoubt(t, "--state", n.state, "passport", "root"); exit != 0 || strings.TrimSpace(out) != `{"b":2}` {
		t.Errorf("code %d, %q", exit, out)
	}
	if _, stderr, exit := redoubt(t, "passport", "verify", file, "--root", "/nonexistent"); exit != 4 {
		t.Errorf("no trust root: code %d, %q", exit, stderr)
	}
	if _, stderr, exit := redoubt(t, "passport", "verify", file, "--root", file); exit != 6 && exit != 3 {
		t.Errorf("a trust root that is none: code %d, %q", exit, stderr)
	}
}
