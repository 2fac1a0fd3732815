// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"redoubt.dev/api/errs"
	"redoubt.dev/base/conf"
)

// keyFile holds key and root together: two files could be torn apart by a
// crash between two renames, and a root without its key is lost for good.
const keyFile = "ca.pem"

const maxKeyFile = 64 << 10

// loadOrMake reads dir/keyFile; when it is missing, it writes what make gives
// and reads that. The file appears whole or not at all, and the first of two
// writers wins (link does not replace).
func loadOrMake(dir string, make func() ([]byte, error)) ([]byte, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := private(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, keyFile)
	b, err := read(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	b, err = make()
	if err != nil {
		return nil, err
	}
	if err := create(dir, path, b); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return read(path)
}

func read(path string) ([]byte, error) {
	// O_NOFOLLOW: a link planted in the directory must not decide which key signs.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := private(path, 0o600); err != nil {
		return nil, err
	}
	return conf.ReadAll(f, path, maxKeyFile)
}

func create(dir, path string, b []byte) (err error) {
	f, err := os.CreateTemp(dir, ".ca-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// private refuses a path that others may open, or that another user owns and
// could therefore open to others.
func private(path string, mode fs.FileMode) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	bad := func(expected, seen string) error {
		return &errs.Error{Kind: errs.Denied, Subject: path, Expected: expected, Seen: seen,
			Fix: fmt.Sprintf("chown it to the node's user and chmod %o, and replace the CA when others may have read it", mode)}
	}
	if !fi.IsDir() && !fi.Mode().IsRegular() {
		return bad("a directory or plain file", fi.Mode().Type().String())
	}
	if p := fi.Mode().Perm(); p&^mode != 0 {
		return bad(fmt.Sprintf("mode %o or stricter", mode), fmt.Sprintf("%o", p))
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return bad(fmt.Sprintf("owner %d", os.Geteuid()), fmt.Sprint(st.Uid))
	}
	return nil
}
