// SPDX-License-Identifier: Apache-2.0

package sentry

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// memfd makes a file in memory.
func memfd(name string, flags int) (*os.File, error) {
	fd, err := unix.MemfdCreate("redoubt-"+name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|flags)
	if err != nil {
		return nil, fmt.Errorf("make memory file: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// frozen makes a memory file, has it filled, and gives it back immutable for
// everyone who ever holds it, opened for reading only.
func frozen(name string, flags int, mode os.FileMode, fill func(*os.File) error) (*os.File, error) {
	f, err := memfd(name, flags)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := fill(f); err != nil {
		return nil, err
	}
	if err := f.Chmod(mode); err != nil {
		return nil, err
	}
	const all = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, all); err != nil {
		return nil, fmt.Errorf("seal memory file: %w", err)
	}
	return again(f)
}

// again opens a file once more, for reading, from its start.
func again(f *os.File) (*os.File, error) { return os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd())) }

// program puts a tiny program into a memory file.
func program(name string, build func() ([]byte, error)) (*os.File, error) {
	return frozen(name, unix.MFD_EXEC, 0o555, func(f *os.File) error {
		code, err := build()
		if err == nil {
			_, err = f.Write(code)
		}
		return err
	})
}
