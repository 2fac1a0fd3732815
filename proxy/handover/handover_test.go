// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const soon = 5 * time.Second

// pair is a session with both its ends here.
func pair(t testing.TB) (a, b *Session) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	var s [2]*Session
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		s[i] = &Session{c: c.(*net.UnixConn)}
		t.Cleanup(s[i].Close)
	}
	return s[0], s[1]
}

func opened(t testing.TB, fd int) bool {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil
}

func TestFramesCarryDescriptors(t *testing.T) {
	a, b := pair(t)
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, n := range []int{0, 1, maxFDs, maxFDs + 1, 600} {
		fds := make([]int, n)
		for i := range fds {
			fds[i] = int(f.Fd())
		}
		body := bytes.Repeat([]byte{byte(n)}, 100_000)
		sent := make(chan error, 1)
		go func() { sent <- a.Send(KindFirst, body, fds, soon) }()
		got, err := b.Receive(soon)
		if err != nil {
			t.Fatal(err)
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		if got.Kind != KindFirst || !bytes.Equal(got.Body, body) || len(got.FDs) != n {
			t.Fatalf("%d descriptors: kind %d, %d bytes, %d descriptors", n, got.Kind, len(got.Body), len(got.FDs))
		}
		var all []int
		for i, fd := range got.FDs {
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Fatal("not close-on-exec")
			}
			if i == 0 {
				got.Take(0)
				defer unix.Close(fd)
			} else {
				all = append(all, fd)
			}
		}
		got.Close()
		for _, fd := range all {
			if opened(t, fd) {
				t.Fatal("a descriptor that nobody took is open")
			}
		}
		if len(got.Body) > 0 && got.Body[0] != 0 {
			t.Error("body not wiped")
		}
	}
}

func TestMalformedFrames(t *testing.T) {
	head := func(k, zero byte, fds, n int) []byte {
		return append([]byte(magic), k, zero, byte(fds>>8), byte(fds), byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	for name, b := range map[string][]byte{
		"another protocol":            []byte("GET / HTTP/1.1\r\n\r\n"),
		"another version":             append([]byte("rdh2"), make([]byte, 8)...),
		"no kind":                     head(0, 0, 0, 0),
		"unknown kind":                head(99, 0, 0, 0),
		"bits that must be zero":      head(5, 1, 0, 0),
		"too long":                    head(5, 0, 0, maxBody+1),
		"too many descriptors":        head(5, 0, maxFDs+1, 0),
		"descriptors that never came": head(5, 0, 2, 0),
		"descriptors with a body":     head(byte(kindFDs), 0, 1, 1),
		"cut short":                   head(5, 0, 0, 9),
		"half a head":                 head(5, 0, 0, 0)[:7],
	} {
		t.Run(name, func(t *testing.T) {
			a, b2 := pair(t)
			a.c.Write(b)
			a.c.CloseWrite()
			if f, err := b2.Receive(soon); err == nil {
				t.Errorf("taken: %+v", f)
			}
		})
	}
}

func TestReceiveHasADeadline(t *testing.T) {
	_, b := pair(t)
	if _, err := b.Receive(time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

func TestAllowFile(t *testing.T) {
	own, err := Own()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, text string
		mode       os.FileMode
		n          int
		bad        string
	}{
		{"one", own.String() + "\n", 0o600, 1, ""},
		{"comments and empty lines", "# mine\n\n" + own.String() + "\n  " + own.String(), 0o644, 2, ""},
		{"others may write", own.String(), 0o662, 0, "that only root or this user"},
		{"the group may write", own.String(), 0o660, 0, "that only root or this user"},
		{"short", "sha256:abcd\n", 0o600, 0, "line 1"},
		{"no prefix", strings.TrimPrefix(own.String(), "sha256:"), 0o600, 0, "line 1"},
		{"large", strings.Repeat("#\n", maxAllow), 0o600, 0, "more than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "allow")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			got, err := readAllow(path)
			if len(got) != c.n || (err == nil) != (c.bad == "") || err != nil && !strings.Contains(err.Error(), c.bad) {
				t.Errorf("%d digests, %v", len(got), err)
			}
		})
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/dev/null", link); err != nil {
		t.Fatal(err)
	}
	if _, err := readAllow(link); err == nil {
		t.Error("a link was followed")
	}
}

func TestDirectoryMustBeOurs(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(filepath.Join(dir, "sock"), "", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a directory that others may enter was taken")
	}
}

// TestJoin has this process succeed itself.
func TestJoin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "up", "sock")
	if _, _, err := Join(path, soon); !errors.Is(err, ErrNobody) {
		t.Fatal(err)
	}
	k, err := Listen(path, "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Error(fi.Mode(), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- k.Run(ctx, func(_ context.Context, s *Session) error {
			if s.Peer.PID != os.Getpid() || s.Peer.Digest == (Digest{}) {
				t.Errorf("%+v", s.Peer)
			}
			if err := s.Send(KindWelcome, []byte("hello"), nil, soon); err != nil {
				return err
			}
			_, err := s.Receive(soon) // until the other end closes
			return err
		})
	}()
	s, f, err := Join(path, soon)
	if err != nil {
		t.Fatal(err)
	}
	if string(f.Body) != "hello" {
		t.Errorf("%q", f.Body)
	}
	if _, _, err := Join(path, soon); err == nil || !strings.Contains(err.Error(), "under way") {
		t.Error("a second one was let in:", err)
	}
	s.Close()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, _, err := Join(path, soon); !errors.Is(err, ErrNobody) {
		t.Error("after the end:", err)
	}
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte(magic + "\x05\x00\x00\x00\x00\x00\x00\x01x"))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 60_000 {
			return // what a socket holds without a reader
		}
		a, s := pair(t)
		defer a.Close()
		defer s.Close()
		a.c.Write(b)
		a.c.CloseWrite()
		for {
			g, err := s.Receive(soon)
			if err != nil {
				return
			}
			if len(g.Body) > len(b) {
				t.Fatal("more than came")
			}
			g.Close()
		}
	})
}

func FuzzAllow(f *testing.F) {
	f.Add([]byte("# x\nsha256:00"))
	f.Fuzz(func(t *testing.T, b []byte) { parseAllow(b) })
}
