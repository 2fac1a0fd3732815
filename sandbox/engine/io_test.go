// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func fifo(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// guestEnds makes what a driver makes of the files it is lent: its own copies.
func guestEnds(t *testing.T, set *ioSet) (out [3]*os.File) {
	t.Helper()
	for i, f := range set.guest {
		if f == nil {
			continue
		}
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		out[i] = os.NewFile(uintptr(fd), f.Name())
		t.Cleanup(func() { out[i].Close() })
	}
	set.donated()
	return out
}

// checkLeaks fails when f leaves descriptors or goroutines behind.
func checkLeaks(t *testing.T, f func()) {
	t.Helper()
	count := func() int {
		e, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(e)
	}
	fds, gs := count(), runtime.NumGoroutine()
	f()
	deadline := time.Now().Add(5 * time.Second)
	for count() > fds || runtime.NumGoroutine() > gs {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors and %d goroutines are left", count()-fds, runtime.NumGoroutine()-gs)
		}
		runtime.Gosched()
	}
}

// The end of stdin is the client's word: a client that goes away is none, and
// CloseIO is one.
func TestStdinEndsByCloseIOAlone(t *testing.T) {
	in := fifo(t, "stdin")
	set, err := openIO(stdio{Stdin: in})
	if err != nil {
		t.Fatal(err)
	}
	defer set.close()
	guest := guestEnds(t, set)
	for _, word := range []string{"one\n", "two\n"} { // two clients, one after the other
		w, err := os.OpenFile(in, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteString(word); err != nil {
			t.Fatal(err)
		}
		w.Close()
	}
	type line struct {
		s   string
		err error
	}
	lines := make(chan line)
	go func() {
		r := bufio.NewReader(guest[0])
		for {
			s, err := r.ReadString('\n')
			lines <- line{s, err}
			if err != nil {
				return
			}
		}
	}()
	for _, want := range []string{"one\n", "two\n"} {
		if l := <-lines; l.s != want || l.err != nil {
			t.Fatalf("%q, %v; want %q", l.s, l.err, want)
		}
	}
	select {
	case l := <-lines:
		t.Fatalf("%q, %v although nobody closed stdin", l.s, l.err)
	case <-time.After(50 * time.Millisecond):
	}
	set.closeStdin()
	set.closeStdin() // safe to repeat
	select {
	case l := <-lines:
		if l.err != io.EOF {
			t.Errorf("%q, %v; want EOF", l.s, l.err)
		}
	case <-time.After(5 * time.Second):
		t.Error("no EOF after CloseIO")
	}
}

// Opening does not wait for a reader; output waits in the FIFO; the reader
// sees the end when the guest has ended, and no SIGPIPE before it came.
func TestOutputWaitsForItsReader(t *testing.T) {
	out, errOut := fifo(t, "stdout"), fifo(t, "stderr")
	set, err := openIO(stdio{Stdout: out, Stderr: errOut})
	if err != nil {
		t.Fatal(err)
	}
	guest := guestEnds(t, set)
	if guest[0] != nil {
		t.Error("a process without stdin has one")
	}
	if _, err := guest[1].WriteString("said before anybody listened\n"); err != nil {
		t.Fatal(err)
	}
	r, err := os.OpenFile(out, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	guest[1].Close()
	set.drained()
	set.close()
	if b, err := io.ReadAll(r); err != nil || string(b) != "said before anybody listened\n" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestTerminal(t *testing.T) {
	checkLeaks(t, func() {
		in, out := fifo(t, "stdin"), fifo(t, "stdout")
		set, err := openIO(stdio{Stdin: in, Stdout: out, Terminal: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := set.resize(100000, 24); err != nil {
			t.Error(err)
		}
		replica, err := os.OpenFile(set.guest[0].Name(), os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			t.Fatal(err)
		}
		set.donated()
		ws, err := unix.IoctlGetWinsize(int(replica.Fd()), unix.TIOCGWINSZ)
		if err != nil || ws.Col != 65535 || ws.Row != 24 {
			t.Errorf("%+v, %v", ws, err)
		}
		client, err := os.OpenFile(in, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		reader, err := os.OpenFile(out, os.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.WriteString("hello\n"); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64)
		if n, err := replica.Read(buf); err != nil || string(buf[:n]) != "hello\n" {
			t.Errorf("the process read %q, %v", buf[:n], err)
		}
		if _, err := replica.WriteString("bye"); err != nil {
			t.Fatal(err)
		}
		replica.Close()
		set.drained()
		set.close()
		client.Close()
		b, err := io.ReadAll(reader)
		reader.Close()
		if err != nil || !strings.HasPrefix(string(b), "hello") || !strings.HasSuffix(string(b), "bye") {
			t.Errorf("the client read %q, %v", b, err)
		}
		if err := set.resize(1, 1); err == nil {
			t.Error("a closed terminal can be resized")
		}
	})
}

// A process that an ended one left behind holds its terminal, not its end.
func TestDrainIsBounded(t *testing.T) {
	checkLeaks(t, func() {
		set, err := openIO(stdio{Stdout: fifo(t, "stdout"), Terminal: true})
		if err != nil {
			t.Fatal(err)
		}
		stays, err := os.OpenFile(set.guest[0].Name(), os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			t.Fatal(err)
		}
		set.donated()
		began := time.Now()
		set.drained()
		if d := time.Since(began); d < drainTime || d > drainTime+5*time.Second {
			t.Errorf("drained after %s", d)
		}
		set.close()
		stays.Close()
	})
}

func TestOpenThatFailsLeavesNothing(t *testing.T) {
	good := fifo(t, "good")
	for _, s := range []stdio{
		{Stdin: good, Stdout: "/nonexistent"}, {Stdin: "/nonexistent"}, {Stdout: good, Stderr: "/nonexistent"},
		{Stdin: good, Stdout: "/nonexistent", Terminal: true}, {Stdin: "/nonexistent", Stdout: good, Terminal: true}, {Terminal: true},
	} {
		checkLeaks(t, func() {
			if _, err := openIO(s); err == nil {
				t.Errorf("%+v opens", s)
			}
		})
	}
}
