// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
)

// Digest is an executable's SHA-256.
type Digest [sha256.Size]byte

func (d Digest) String() string { return "sha256:" + hex.EncodeToString(d[:]) }

// Peer is who is at the other end.
type Peer struct {
	UID, PID int
	Digest   Digest // zero where it was not asked for
}

// trusted tells that a peer's user may take part.
func (p *Peer) trusted() bool { return p.UID == 0 || p.UID == os.Geteuid() }

// maxExecutable bounds what is read of an executable.
const maxExecutable = 1 << 30

func digestOf(f *os.File) (d Digest, err error) {
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, maxExecutable+1))
	if err != nil {
		return d, fmt.Errorf("read executable: %w", err)
	}
	if n > maxExecutable {
		return d, errs.New(errs.TooLarge, "executable", "more than %d bytes", maxExecutable)
	}
	return Digest(h.Sum(nil)), nil
}

// maxAllow bounds the allow file.
const maxAllow = 64 << 10

// readAllow reads the digests that a file lists: one "sha256:<hex>" a line,
// empty lines and lines that begin with # aside. Who else may write the file
// decides what runs here: it must be root's or this user's, and nobody else's
// to write.
func readAllow(path string) ([]Digest, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read allowed executables: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("read allowed executables: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o022 != 0 || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return nil, &errs.Error{Kind: errs.Denied, Subject: "allowed executables", Field: path, Expected: "a file that only root or this user may write", Seen: fmt.Sprintf("mode %#o, uid %d", st.Mode, st.Uid)}
	}
	b, err := io.ReadAll(io.LimitReader(f, maxAllow+1))
	if err != nil {
		return nil, fmt.Errorf("read allowed executables: %w", err)
	}
	return parseAllow(b)
}

func parseAllow(b []byte) (out []Digest, err error) {
	if len(b) > maxAllow {
		return nil, errs.New(errs.TooLarge, "allowed executables", "more than %d bytes", maxAllow)
	}
	n := 0
	for line := range bytes.Lines(b) {
		n++
		l := strings.TrimSpace(string(line))
		if l == "" || l[0] == '#' {
			continue
		}
		h, ok := strings.CutPrefix(l, "sha256:")
		d, err := hex.DecodeString(h)
		if !ok || err != nil || len(d) != sha256.Size {
			return nil, &errs.Error{Kind: errs.Invalid, Subject: "allowed executables", Field: fmt.Sprintf("line %d", n), Expected: "sha256: and 64 hex digits"}
		}
		out = append(out, Digest(d))
	}
	return out, nil
}
