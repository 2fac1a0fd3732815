// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"redoubt.dev/base/sys"
)

// terminal is a pty between this process's terminal, in raw mode, and a
// command in a sandbox.
type terminal struct {
	master, replica *os.File
	restore         *term.State // nil when stdin is no terminal
	winch           chan os.Signal
	copied          chan struct{}
}

func openTerminal() (*terminal, error) {
	master, replica, err := sys.OpenPTY()
	if err != nil {
		return nil, err
	}
	t := &terminal{master: master, replica: replica, winch: make(chan os.Signal, 1), copied: make(chan struct{})}
	if fd := int(os.Stdin.Fd()); term.IsTerminal(fd) {
		if t.restore, err = term.MakeRaw(fd); err != nil {
			return nil, errors.Join(err, master.Close(), replica.Close())
		}
		signal.Notify(t.winch, syscall.SIGWINCH)
		t.resize()
		go func() {
			for range t.winch {
				t.resize()
			}
		}()
	}
	go func() { _, _ = io.Copy(master, os.Stdin) }()
	go func() { _, _ = io.Copy(os.Stdout, master); close(t.copied) }()
	return t, nil
}

func (t *terminal) replicas() [3]*os.File { return [3]*os.File{t.replica, t.replica, t.replica} }

func (t *terminal) resize() {
	if ws, err := unix.IoctlGetWinsize(int(os.Stdin.Fd()), unix.TIOCGWINSZ); err == nil {
		_ = unix.IoctlSetWinsize(int(t.master.Fd()), unix.TIOCSWINSZ, ws)
	}
}

// close restores the terminal after the last output has been shown.
func (t *terminal) close() {
	t.replica.Close()
	select {
	case <-t.copied:
	case <-time.After(drainTime): // a process that was left behind holds it
	}
	t.master.Close()
	signal.Stop(t.winch)
	close(t.winch)
	if t.restore != nil {
		_ = term.Restore(int(os.Stdin.Fd()), t.restore)
	}
}
