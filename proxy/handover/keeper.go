// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
)

// helloTime bounds each step until the peer is known.
const helloTime = 5 * time.Second

// Keeper owns the socket of the proxy that serves now.
type Keeper struct {
	path  string
	allow string
	own   Digest
	log   *slog.Logger
	ln    *net.UnixListener
	file  os.FileInfo // of the socket, as it was made
	busy  atomic.Bool
	wg    sync.WaitGroup
}

// Listen opens the socket at path, in a directory that is nobody else's, and
// takes the place of whatever socket is there. allow names the file of further
// executables; "" for none.
func Listen(path, allow string, log *slog.Logger) (*Keeper, error) {
	own, err := Own()
	if err != nil {
		return nil, err
	}
	k := &Keeper{path: path, allow: allow, own: own, log: log}
	return k, k.open()
}

func (k *Keeper) open() error {
	dir := filepath.Dir(k.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory of upgrade socket: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fmt.Errorf("look at directory of upgrade socket: %w", err)
	}
	if st.Mode&0o077 != 0 || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return &errs.Error{Kind: errs.Denied, Subject: "upgrade socket", Field: dir, Expected: "a directory of this user alone", Seen: fmt.Sprintf("mode %#o, uid %d", st.Mode&0o777, st.Uid), Fix: "chmod 700 " + dir}
	}
	if fi, err := os.Lstat(k.path); err == nil && fi.Mode()&os.ModeSocket == 0 {
		return &errs.Error{Kind: errs.Exists, Subject: "upgrade socket", Field: k.path, Expected: "a socket or nothing"}
	}
	// Under another name first: the rename replaces the predecessor's socket
	// without a moment in which there is none. The directory keeps others out
	// until the mode is set.
	tmp := fmt.Sprintf("%s.%d", k.path, os.Getpid())
	os.Remove(tmp)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return fmt.Errorf("open upgrade socket: %w", err)
	}
	ln.SetUnlinkOnClose(false) // the name may be a successor's by then
	if err = os.Chmod(tmp, 0o600); err == nil {
		k.file, err = os.Lstat(tmp)
	}
	if err == nil {
		err = os.Rename(tmp, k.path)
	}
	if err != nil {
		ln.Close()
		os.Remove(tmp)
		return fmt.Errorf("open upgrade socket: %w", err)
	}
	k.ln = ln
	return nil
}

// kept tells that the name is still this keeper's.
func (k *Keeper) kept() bool {
	fi, err := os.Lstat(k.path)
	return err == nil && os.SameFile(fi, k.file)
}

// Close closes the socket. The name is left: it may be another's.
func (k *Keeper) Close() { k.ln.Close() }

// Run lets successors in, one at a time, until ctx ends. serve has the session
// until it returns.
func (k *Keeper) Run(ctx context.Context, serve func(context.Context, *Session) error) error {
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { defer close(closed); k.ln.Close() })
	defer func() {
		if !stop() {
			<-closed // nobody can connect any more once Run has returned
		}
	}()
	defer k.wg.Wait()
	for {
		c, err := k.ln.AcceptUnix()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			if err == nil {
				c.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept on upgrade socket: %w", err)
		}
		s := &Session{c: c, keeper: k}
		if err := k.admit(s); err != nil {
			k.log.Warn("upgrade refused; this process goes on", "pid", s.Peer.PID, "uid", s.Peer.UID, "digest", s.Peer.Digest.String(), "err", err)
			s.Send(KindRefused, []byte(err.Error()), nil, helloTime)
			s.Close()
			continue
		}
		k.wg.Go(func() {
			defer k.busy.Store(false)
			defer func() {
				if !s.kept {
					s.Close()
				}
			}()
			k.log.Info("upgrade begins", "pid", s.Peer.PID, "digest", s.Peer.Digest.String())
			if err := serve(ctx, s); err != nil {
				k.log.Error("upgrade given up; this process goes on", "pid", s.Peer.PID, "err", err)
			}
		})
	}
}

// admit finds out who is there, cheapest first.
func (k *Keeper) admit(s *Session) (err error) {
	if s.Peer, err = peerOf(s.c); err != nil {
		return err
	}
	if !s.Peer.trusted() {
		return &errs.Error{Kind: errs.Denied, Subject: "upgrade", Field: "uid", Expected: fmt.Sprintf("0 or %d", os.Geteuid()), Seen: fmt.Sprint(s.Peer.UID)}
	}
	if !k.busy.CompareAndSwap(false, true) {
		return errs.New(errs.Exists, "upgrade", "another one is under way")
	}
	defer func() {
		if err != nil {
			k.busy.Store(false)
		}
	}()
	f, err := s.Expect(KindHello, helloTime)
	if err != nil {
		return err
	}
	f.Close()
	if err := s.Peer.executable(s.c); err != nil {
		return err
	}
	if s.Peer.Digest == k.own {
		return nil
	}
	var list []Digest
	if k.allow != "" {
		if list, err = readAllow(k.allow); err != nil {
			return err
		}
	}
	if !slices.Contains(list, s.Peer.Digest) {
		return &errs.Error{Kind: errs.Denied, Subject: "upgrade", Field: "executable", Expected: "this process's own digest, or one in the allow file", Seen: s.Peer.Digest.String(), Fix: "list it in the file of --upgrade-allow"}
	}
	return nil
}

// ErrNobody means that no proxy serves on the socket.
var ErrNobody = errors.New("no proxy answers on the upgrade socket")

// Join makes this process the successor of the one that answers on path, as
// far as being let in: the frame is its welcome. ErrNobody means that there is
// none. Any other error means that there is one, which does not let us.
func Join(path string, within time.Duration) (*Session, *Frame, error) {
	c, err := net.DialTimeout("unix", path, helloTime)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, nil, ErrNobody
	}
	if err != nil {
		return nil, nil, fmt.Errorf("ask the serving proxy: %w", err)
	}
	s := &Session{c: c.(*net.UnixConn)}
	f, err := s.join(within)
	if err != nil {
		s.Close()
		return nil, nil, err
	}
	return s, f, nil
}

func (s *Session) join(within time.Duration) (f *Frame, err error) {
	if s.Peer, err = peerOf(s.c); err != nil {
		return nil, err
	}
	if !s.Peer.trusted() {
		return nil, &errs.Error{Kind: errs.Denied, Subject: "upgrade socket", Field: "uid", Expected: fmt.Sprintf("0 or %d", os.Geteuid()), Seen: fmt.Sprint(s.Peer.UID)}
	}
	hide, err := show()
	if err != nil {
		return nil, err
	}
	defer hide()
	unheard := s.Send(KindHello, nil, nil, helloTime) // it may have refused us already, and then says why
	if f, err = s.Expect(KindWelcome, within); err != nil {
		return nil, errors.Join(err, unheard)
	}
	return f, nil
}
