// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/base/sys"
)

// stdio names the FIFOs that containerd made for a process.
type stdio struct {
	Stdin    string `json:"stdin,omitempty"`
	Stdout   string `json:"stdout,omitempty"`
	Stderr   string `json:"stderr,omitempty"`
	Terminal bool   `json:"terminal,omitempty"`
}

// ioSet is the open ends of a process's stdio. The guest writes straight into
// containerd's FIFOs: no copy, and output waits in the FIFO while the node is
// away. Only a terminal needs copying, through a pty.
type ioSet struct {
	guest [3]*os.File // given to the driver, closed here after the call

	mu     sync.Mutex
	keeper *os.File      // write end of stdin, held until CloseIO so that EOF is the client's word
	master *os.File      // pty, when there is one
	copied chan struct{} // closed when the pty has said all; nil without one
}

func openIO(s stdio) (_ *ioSet, err error) {
	set := &ioSet{}
	defer func() {
		if err != nil {
			set.donated()
			set.close()
		}
	}()
	if s.Terminal {
		return set, set.openTerminal(s)
	}
	if s.Stdin != "" {
		if set.guest[0], err = os.OpenFile(s.Stdin, os.O_RDONLY|unix.O_NONBLOCK, 0); err != nil {
			return nil, fmt.Errorf("open stdin: %w", err)
		}
		if set.keeper, err = os.OpenFile(s.Stdin, os.O_WRONLY|unix.O_NONBLOCK, 0); err != nil {
			return nil, fmt.Errorf("hold stdin: %w", err)
		}
	}
	for i, path := range []string{s.Stdout, s.Stderr} {
		if path == "" {
			continue
		}
		// Read and write: opening does not wait for a reader, and the guest
		// gets no SIGPIPE while the node, the reader, is being restarted.
		if set.guest[i+1], err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
			return nil, fmt.Errorf("open output: %w", err)
		}
	}
	return set, nil
}

func (s *ioSet) openTerminal(names stdio) error {
	master, replica, err := sys.OpenPTY()
	if err != nil {
		return err
	}
	s.master = master
	s.guest = [3]*os.File{replica, replica, replica}
	if names.Stdin != "" {
		if s.keeper, err = os.OpenFile(names.Stdin, os.O_RDWR, 0); err != nil {
			return fmt.Errorf("open stdin: %w", err)
		}
	}
	out, err := os.OpenFile(names.Stdout, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open output: %w", err)
	}
	if in := s.keeper; in != nil {
		go func() { _, _ = io.Copy(master, in) }() // ends when close closes in
	}
	s.copied = make(chan struct{})
	go func() { // ends with EIO when the last replica is closed, or with close
		defer close(s.copied)
		_, _ = io.Copy(out, master)
		out.Close()
	}()
	return nil
}

// donated closes the ends that the driver has taken its own copies of.
func (s *ioSet) donated() {
	for i, f := range s.guest {
		if f != nil && (i == 0 || f != s.guest[0]) {
			f.Close()
		}
	}
	s.guest = [3]*os.File{}
}

// closeStdin tells the process that its input has ended.
func (s *ioSet) closeStdin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keeper != nil {
		s.keeper.Close()
		s.keeper = nil
	}
}

// drainTime bounds drained: a process that an ended one left behind may hold
// its terminal for good.
const drainTime = 2 * time.Second

// drained returns when all output of an ended process is in the FIFOs.
func (s *ioSet) drained() {
	if s.copied == nil {
		return
	}
	t := time.NewTimer(drainTime)
	defer t.Stop()
	select {
	case <-s.copied:
	case <-t.C:
	}
}

func (s *ioSet) close() {
	s.closeStdin()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.master != nil {
		s.master.Close()
		s.master = nil
	}
}

func (s *ioSet) resize(w, h uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.master == nil {
		return errs.New(errs.Conflict, "terminal", "the process has none")
	}
	return unix.IoctlSetWinsize(int(s.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(min(w, 65535)), Row: uint16(min(h, 65535))})
}
