// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// peerOf asks the kernel who connected, or listens.
func peerOf(c *net.UnixConn) (p Peer, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return p, fmt.Errorf("ask for peer: %w", err)
	}
	var cred *unix.Ucred
	var bad error
	if err = raw.Control(func(fd uintptr) { cred, bad = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err == nil {
		err = bad
	}
	if err != nil {
		return p, fmt.Errorf("ask for peer: %w", err)
	}
	return Peer{UID: int(cred.Uid), PID: int(cred.Pid)}, nil
}

// executable reads the peer's digest. The number of a process may come to name
// another one: pidfd names the process, and it must be alive after the file
// was opened by number.
func (p *Peer) executable(c *net.UnixConn) error {
	pidfd, err := pidfdOf(c, p.PID)
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	f, err := os.Open(fmt.Sprintf("/proc/%d/exe", p.PID))
	if err != nil {
		return fmt.Errorf("open peer's executable: %w", err)
	}
	defer f.Close()
	if err := unix.PidfdSendSignal(pidfd, 0, nil, 0); err != nil {
		return fmt.Errorf("peer has gone: %w", err)
	}
	p.Digest, err = digestOf(f)
	return err
}

// pidfdOf names the process that connected.
func pidfdOf(c *net.UnixConn, pid int) (fd int, err error) {
	const soPeerPIDFD = 77 // Linux 6.5
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("ask for peer: %w", err)
	}
	var bad error
	if err = raw.Control(func(s uintptr) { fd, bad = unix.GetsockoptInt(int(s), unix.SOL_SOCKET, soPeerPIDFD) }); err == nil && bad == nil {
		unix.CloseOnExec(fd)
		return fd, nil
	}
	// An older kernel: between connect and here the number is the peer's
	// unless it has died, and then nobody speaks.
	if fd, err = unix.PidfdOpen(pid, 0); err != nil {
		return -1, fmt.Errorf("name peer: %w", err)
	}
	return fd, nil
}

// Own is the digest of this process's executable, as it was started: also
// when the file has been replaced since.
func Own() (Digest, error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return Digest{}, fmt.Errorf("open own executable: %w", err)
	}
	defer f.Close()
	return digestOf(f)
}

// show lets the old process, which reads our executable through /proc, do so:
// the kernel allows it only while we may be looked into. There is nothing to
// see yet. hide ends it.
func show() (hide func(), err error) {
	was, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		return nil, fmt.Errorf("ask whether this process may be looked into: %w", err)
	}
	if was == 1 {
		return func() {}, nil
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("let the serving proxy look: %w", err)
	}
	return func() { unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }, nil
}
