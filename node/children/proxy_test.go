// SPDX-License-Identifier: Apache-2.0

package children

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/wire"
)

// dataPlane is a proxy that runs already, as one that outlived its node.
type dataPlane struct {
	l    *net.UnixListener
	got  chan *wire.Snapshot
	acks chan *wire.Ack // nil: acknowledge what was sent
}

func runs(t *testing.T, state string) *dataPlane {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(state, "control.sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	d := &dataPlane{l: l, got: make(chan *wire.Snapshot, 10), acks: make(chan *wire.Ack)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			for {
				f, err := wire.ReadFrame(c)
				if err != nil || f.Snapshot == nil {
					break
				}
				d.got <- f.Snapshot
				ack := <-d.acks
				if ack == nil {
					break // as if it died
				}
				if err := wire.WriteFrame(c, &wire.Frame{Ack: ack}); err != nil {
					break
				}
			}
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("the data plane does not end")
		}
	})
	return d
}

func started(t *testing.T) (*Proxy, *dataPlane) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("capability: root, to make directories over")
	}
	dir, err := os.MkdirTemp("", "p") // a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := NewProxy(Config{Binary: "/nonexistent/proxy", State: dir, Audit: filepath.Join(dir, "audit"), UID: os.Getuid()}, slog.New(slog.DiscardHandler))
	d := runs(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
	})
	return p, d
}

func serves(version uint64) func(*wire.Snapshot) bool {
	return func(s *wire.Snapshot) bool { return s.Version == version }
}

func TestFeed(t *testing.T) {
	p, d := started(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	take := func(version uint64, ack *wire.Ack) {
		t.Helper()
		select {
		case s := <-d.got:
			if s.Version != version {
				t.Fatalf("got snapshot %d, want %d", s.Version, version)
			}
		case <-ctx.Done():
			t.Fatalf("snapshot %d does not come", version)
		}
		d.acks <- ack
	}
	p.Push(&wire.Snapshot{Version: 1})
	take(1, &wire.Ack{Version: 1})
	if err := p.Await(ctx, serves(1)); err != nil {
		t.Fatal(err)
	}
	if p.PID() != os.Getpid() || p.Served() != 1 {
		t.Errorf("process %d serves %d", p.PID(), p.Served())
	}
	// One that is refused changes nothing, and says so.
	p.Push(&wire.Snapshot{Version: 2})
	take(2, &wire.Ack{Version: 2, Error: "a bad port"})
	p.Push(&wire.Snapshot{Version: 3})
	select {
	case <-d.got:
	case <-ctx.Done():
		t.Fatal("nothing comes after a refusal")
	}
	if p.Served() != 1 || !strings.Contains(p.Refused(), "bad port") {
		t.Errorf("serves %d, refused %q", p.Served(), p.Refused())
	}
	short, stop := context.WithTimeout(ctx, 10*time.Millisecond)
	if err := p.Await(short, serves(2)); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "bad port") {
		t.Errorf("waiting for what was refused: %v", err)
	}
	stop()
	// Newer ones that nobody has sent yet are one.
	p.Push(&wire.Snapshot{Version: 4})
	p.Push(&wire.Snapshot{Version: 5})
	d.acks <- &wire.Ack{Version: 3}
	take(5, &wire.Ack{Version: 5})
	if err := p.Await(ctx, serves(5)); err != nil || p.Refused() != "" {
		t.Errorf("%v, refused %q", err, p.Refused())
	}
	// It dies in the middle, or talks about something else: the newest comes
	// again, whole.
	p.Push(&wire.Snapshot{Version: 6})
	take(6, nil)
	take(6, &wire.Ack{Version: 4})
	take(6, &wire.Ack{Version: 6})
	if err := p.Await(ctx, serves(6)); err != nil {
		t.Error(err)
	}
}

// Only the proxy's own user may hold keys: a socket of another is not fed.
func TestStrangerIsNotFed(t *testing.T) {
	p, d := started(t)
	q := NewProxy(Config{State: p.cfg.State, UID: os.Getuid() + 1}, p.log)
	if _, err := q.dial(); !errors.Is(err, errs.Denied) {
		t.Errorf("%v", err)
	}
	if len(d.got) != 0 {
		t.Error("it was fed")
	}
}

// The log's directory belongs to the proxy's user, and root opens the log.
func TestLogFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, []byte("root's own\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, lay := range map[string]func(string) error{
		"link":      func(p string) error { return os.Symlink(victim, p) },
		"hard link": func(p string) error { return os.Link(victim, p) },
		"fifo":      func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"directory": func(p string) error { return os.Mkdir(p, 0o700) },
	} {
		path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		if err := lay(path); err != nil {
			t.Fatal(err)
		}
		if f, err := openLog(path); err == nil {
			f.Close()
			t.Errorf("a %s was opened", name)
		}
	}
	for range 2 {
		f, err := openLog(filepath.Join(dir, "log"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = f.WriteString("line\n")
		f.Close()
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "log")); string(b) != "line\nline\n" {
		t.Errorf("%q", b)
	}
}
