// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"2026-11-01T12:00:00.1Z stdout F hello\n":       "hello\n",
		"2026-11-01T12:00:00.1Z stderr F \n":            "\n",
		"2026-11-01T12:00:00.1Z stdout P half a \n":     "half a ",
		"2026-11-01T12:00:00.1Z stdout F a b  c F P \n": "a b  c F P \n",
		"no log line\n": "no log line\n",
		"\n":            "\n",
		"":              "",
		"2026-11-01T12:00:00.1Z stdout F \x00\xff\x1b[m\n": "\x00\xff\x1b[m\n",
	} {
		if got := string(plain([]byte(in))); got != want {
			t.Errorf("plain(%q) = %q, want %q", in, got, want)
		}
	}
}

// What a container wrote comes out whole, however containerd cut it.
func FuzzPlain(f *testing.F) {
	f.Add([]byte("hello world"), 3)
	f.Add([]byte(" F P \n"), 1)
	f.Fuzz(func(t *testing.T, wrote []byte, size int) {
		wrote = bytes.ReplaceAll(wrote, []byte{'\n'}, []byte{'_'})
		var log bytes.Buffer
		size = max(1, size%100)
		for rest := wrote; ; rest = rest[size:] {
			if len(rest) <= size {
				fmt.Fprintf(&log, "2026-11-01T12:00:00Z stdout F %s\n", rest)
				break
			}
			fmt.Fprintf(&log, "2026-11-01T12:00:00Z stdout P %s\n", rest[:size])
		}
		var out bytes.Buffer
		follow(t.Context(), &out, &log, func() bool { return false })
		if want := string(wrote) + "\n"; out.String() != want {
			t.Errorf("%q came out as %q", want, out.String())
		}
		_ = plain(wrote)
	})
}

func TestSeekTail(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	for _, c := range []struct {
		text string
		n    int
		want string
	}{
		{"", 0, ""}, {"", 5, ""}, {"a\nb\nc\n", 0, ""}, {"a\nb\nc\n", 1, "c\n"}, {"a\nb\nc\n", 3, "a\nb\nc\n"}, {"a\nb\nc\n", 9, "a\nb\nc\n"},
		{"a\nb\nhalf", 1, "b\nhalf"}, {"half", 1, "half"}, {"\n\n\n", 2, "\n\n"},
		{long + "\n" + long + "\nz\n", 2, long + "\nz\n"}, {long + "\n" + long + "\nz\n", 1, "z\n"}, {long, 1, long},
		{strings.Repeat("0123456789abcde\n", 8192), 4096, strings.Repeat("0123456789abcde\n", 4096)},
	} {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		err = seekTail(f, c.n)
		got, rerr := io.ReadAll(f)
		f.Close()
		if err = errors.Join(err, rerr); err != nil || string(got) != c.want {
			t.Errorf("last %d of %.20q… (%d bytes): %d bytes, %v; want %d", c.n, c.text, len(c.text), len(got), err, len(c.want))
		}
	}
}

// growing is a log file that a container writes to while it is read.
type growing struct{ bytes.Buffer }

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, out, alive := &growing{}, &bytes.Buffer{}, true
		log.WriteString("t stdout F one\n")
		done := make(chan struct{})
		go func() {
			defer close(done)
			follow(t.Context(), out, log, func() bool {
				if !alive {
					return false
				}
				// The last words come after the question and before the end.
				if out.Len() > 8 {
					alive = false
					defer log.WriteString("t stdout F last words\n")
				}
				return alive
			})
		}()
		<-time.After(time.Second)
		synctest.Wait()
		log.WriteString("t stdout P tw")
		<-time.After(time.Second)
		synctest.Wait()
		log.WriteString("o\nt stdout F !\n")
		<-done
		if got, want := out.String(), "one\ntwo!\nlast words\n"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		began := time.Now()
		follow(ctx, io.Discard, &growing{}, func() bool { return true })
		if d := time.Since(began); d != time.Minute {
			t.Errorf("ended after %s", d)
		}
	})
}
