// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"redoubt.dev/proxy/handover/wire"
)

// TestEveryFieldIsThoughtOf fails when a Conn gets a field: say in Export and
// Adopt how it moves to another process, or why it need not, and then here
// that you did.
func TestEveryFieldIsThoughtOf(t *testing.T) {
	const known = "l h w fd held in out raw rec open class sent err werr connecting readable writable peerShut eof reset fin shut shutDone dirty queued"
	var got []string
	of := reflect.TypeFor[Conn]()
	for i := range of.NumField() {
		got = append(got, of.Field(i).Name)
	}
	if s := strings.Join(got, " "); s != known {
		t.Errorf("a Conn has other fields than those whose way to another process is known:\n%s", s)
	}
}

// TestFreeze has a frozen connection deaf and dumb, and whole after the thaw,
// at home and elsewhere.
func TestFreeze(t *testing.T) {
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Discard()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		unix.SetNonblock(fd, true)
	}
	peer := fds[1]
	defer unix.Close(peer)
	c, err := l.Add(fds[0], false, mute{})
	if err != nil {
		t.Fatal(err)
	}
	unix.Write(peer, []byte("hello"))
	c.readable = true
	if !c.Fill(2) || string(c.Bytes()[:2]) != "he" {
		t.Fatal("no bytes")
	}
	c.Append([]byte("before "))
	if !c.Freeze() || c.Alive() || c.Frozen() < 0 {
		t.Fatal("not frozen")
	}
	c.Append([]byte("lost"))
	if c.Fill(100) || c.Send([]byte("lost")) != 0 {
		t.Error("a frozen connection does something")
	}
	c.Abort()
	var w wire.Writer
	c.Export(&w, nil)
	there, err := unix.Dup(c.Frozen())
	if err != nil {
		t.Fatal(err)
	}
	c.Yield()
	if l.Load() != 0 {
		t.Error("still counted")
	}
	r := wire.NewReader(w.B)
	d := l.Adopt(there, r, nil)
	if err := r.Done(); err != nil {
		t.Fatal(err)
	}
	if err := d.Thaw(mute{}); err != nil || l.Load() != 1 {
		t.Fatal(err, l.Load())
	}
	for d.Fill(100) {
	}
	if string(d.Bytes()) != "hello" {
		t.Errorf("%q", d.Bytes())
	}
	d.Append([]byte("after"))
	d.flush()
	b := make([]byte, 100)
	if n, _ := unix.Read(peer, b); string(b[:n]) != "before after" {
		t.Errorf("%q", b[:n])
	}
	d.Close()
}

type mute struct{}

func (mute) OnConn(*Conn) {}

// FuzzAdopt gives the importer anything.
func FuzzAdopt(f *testing.F) {
	f.Add(make([]byte, 26))
	l, err := New()
	if err != nil {
		f.Fatal(err)
	}
	defer l.Discard()
	f.Fuzz(func(t *testing.T, b []byte) {
		fd, err := unix.Dup(0)
		if err != nil {
			t.Fatal(err)
		}
		r := wire.NewReader(b)
		c := l.Adopt(fd, r, func([]byte) (Records, error) { return nil, errMoved })
		if r.Err() == nil {
			c.Yield()
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			t.Fatal("the descriptor was kept")
		}
	})
}
