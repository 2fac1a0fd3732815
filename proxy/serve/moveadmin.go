// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
)

// replaceAdmin listens on path in the predecessor's place, without a moment in
// which nobody does.
func replaceAdmin(path string) (net.Listener, error) {
	if fi, err := os.Lstat(path); err == nil && fi.Mode()&os.ModeSocket == 0 {
		return nil, &errs.Error{Kind: errs.Exists, Subject: "admin socket " + path, Expected: "a socket or nothing"}
	}
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	os.Remove(tmp)
	old := unix.Umask(0o177)
	ln, err := net.Listen("unix", tmp)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("open admin socket: %w", err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Rename(tmp, path); err != nil {
		ln.Close()
		os.Remove(tmp)
		return nil, fmt.Errorf("open admin socket: %w", err)
	}
	return ln, nil
}

// identity tells one socket from another of the same name; nil for none.
func identity(path string) os.FileInfo {
	fi, err := os.Lstat(path)
	if err != nil {
		return nil
	}
	return fi
}

// removeAdmin removes the socket, unless it is a successor's by now.
func removeAdmin(path string, own os.FileInfo) {
	if fi := identity(path); fi != nil && own != nil && os.SameFile(fi, own) {
		os.Remove(path)
	}
}
