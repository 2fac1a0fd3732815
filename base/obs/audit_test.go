// SPDX-License-Identifier: Apache-2.0

package obs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/base/obs"
)

func clock() time.Time {
	return time.Date(2026, 11, 1, 12, 0, 0, 123456789, time.FixedZone("x", 3600))
}

func open(t *testing.T, path string) *obs.Audit {
	t.Helper()
	a, err := obs.OpenAudit(path, "test", clock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

func write(t *testing.T, a *obs.Audit, object string) {
	t.Helper()
	if err := a.Write(obs.Record{Action: "run", Subject: "s", Object: object, Decision: obs.Deny, Reason: "r"}); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAuditContinues(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	for i := range 3 {
		a := open(t, path)
		write(t, a, fmt.Sprint(i))
		write(t, a, "again")
		a.Close()
		if err := a.Write(obs.Record{}); err == nil {
			t.Error("a closed log takes records")
		}
	}
	last, good, err := obs.VerifyAudit(bytes.NewReader(read(t, path)))
	if err != nil || last.Seq != 6 || good != int64(len(read(t, path))) || last.Part != "test" || !last.Time.Equal(clock()) {
		t.Errorf("%+v, %d, %v", last, good, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

// A kill in the middle of a write leaves half a line: it goes, the rest stays.
func TestAuditMendsATornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	a := open(t, path)
	write(t, a, "one")
	write(t, a, "two")
	a.Close()
	whole := read(t, path)
	first := bytes.IndexByte(whole, '\n') + 1
	for cut := first; cut < len(whole); cut++ {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		a := open(t, path)
		write(t, a, "three")
		a.Close()
		if last, _, err := obs.VerifyAudit(bytes.NewReader(read(t, path))); err != nil || last.Seq != 2 || last.Object != "three" {
			t.Fatalf("cut at %d: %+v, %v", cut, last, err)
		}
	}
}

// Every change of every byte of a record that is not the last shows; so does a
// record that is missing, doubled or moved.
func TestAuditShowsChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	a := open(t, path)
	for i := range 4 {
		write(t, a, fmt.Sprint("object ", i))
	}
	a.Close()
	whole := read(t, path)
	lines := bytes.SplitAfter(whole, []byte{'\n'})[:4]
	bad := func(name string, b []byte) {
		t.Helper()
		if _, _, err := obs.VerifyAudit(bytes.NewReader(b)); !errors.Is(err, errs.Unproven) {
			t.Errorf("%s: %v", name, err)
			return
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := obs.OpenAudit(path, "test", clock); !errors.Is(err, errs.Unproven) || !bytes.Equal(read(t, path), b) {
			t.Errorf("%s: OpenAudit: %v, or it changed the file", name, err)
		}
	}
	for i := range whole[:len(whole)-1] {
		b := bytes.Clone(whole)
		b[i] ^= 1
		if _, _, err := obs.VerifyAudit(bytes.NewReader(b)); !errors.Is(err, errs.Unproven) {
			t.Fatalf("byte %d (%q → %q) changed unseen: %v", i, whole[i], b[i], err)
		}
	}
	join := func(l ...[]byte) []byte { return bytes.Join(l, nil) }
	bad("first is missing", join(lines[1:]...))
	bad("one is missing", join(lines[0], lines[2], lines[3]))
	bad("one is doubled", join(lines[0], lines[0], lines[1]))
	bad("two are swapped", join(lines[0], lines[2], lines[1], lines[3]))
	bad("an added key", bytes.Replace(whole, []byte(`{"seq":2`), []byte(`{"note":"x","seq":2`), 1))
	bad("another spelling", bytes.Replace(whole, []byte(`"reason":"r"`), []byte(`"Reason":"r"`), 1))
	bad("a blank", bytes.Replace(whole, []byte(`"seq":3`), []byte(`"seq": 3`), 1))
	bad("an empty line", join(lines[0], []byte{'\n'}, lines[1]))
	bad("an endless line", join(lines[0], bytes.Repeat([]byte{'x'}, 1<<20)))
	bad("zeros, as a lost disk block leaves them", join(lines[0], make([]byte, 4096), lines[1]))
}

// What a stranger chose must not break the chain: bytes that are no text, and
// a character that the bound cuts.
func TestAuditTakesHostileStrings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	a := open(t, path)
	for _, s := range []string{"\xff\xfe", strings.Repeat("x", 1023) + "é", strings.Repeat("\x00", 5000), "a\nb", "</script>\u2028", "\ufffd", strings.Repeat("\xf0\x9f", 2000)} {
		if err := a.Write(obs.Record{Action: s, Subject: s, Object: s, Decision: obs.Deny, Reason: s}); err != nil {
			t.Fatal(err)
		}
	}
	a.Close()
	if last, _, err := obs.VerifyAudit(bytes.NewReader(read(t, path))); err != nil || last.Seq != 7 {
		t.Errorf("%d records, %v", last.Seq, err)
	}
	open(t, path)
}

// A disk that fills up in the middle of a record must not break the chain.
func TestAuditSurvivesAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8k"); err != nil {
		t.Skip("mounting needs CAP_SYS_ADMIN: ", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	path := filepath.Join(dir, "audit")
	a := open(t, path)
	defer a.Close()
	n, failed := uint64(0), 0
	for range 100 {
		if err := a.Write(obs.Record{Action: "run", Object: strings.Repeat("x", 300), Decision: obs.Deny}); err != nil {
			failed++
		} else {
			n++
		}
	}
	if failed == 0 || n == 0 {
		t.Fatalf("%d written, %d failed: the disk was not filled", n, failed)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=1m"); err != nil {
		t.Fatal(err)
	}
	write(t, a, "after")
	if last, good, err := obs.VerifyAudit(bytes.NewReader(read(t, path))); err != nil || last.Seq != n+1 || good != int64(len(read(t, path))) {
		t.Errorf("%d of %d records, %v", last.Seq, n+1, err)
	}
}

func TestAuditConcurrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	a := open(t, path)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				_ = a.Write(obs.Record{Action: "x", Decision: obs.Permit})
			}
		})
	}
	wg.Wait()
	if last, _, err := obs.VerifyAudit(bytes.NewReader(read(t, path))); err != nil || last.Seq != 400 {
		t.Errorf("%d records, %v", last.Seq, err)
	}
}

func TestLogger(t *testing.T) {
	var b bytes.Buffer
	l := obs.Logger(&b, "node", slog.LevelInfo)
	l.Debug("hidden")
	l.Info("shown")
	var m map[string]any
	if err := json.Unmarshal(b.Bytes(), &m); err != nil || m["part"] != "node" || m["msg"] != "shown" {
		t.Errorf("%s, %v", b.String(), err)
	}
}

// What verifies can be gone on with: VerifyAudit's offset is behind a chain.
func FuzzVerifyAudit(f *testing.F) {
	path := filepath.Join(f.TempDir(), "seed")
	a, err := obs.OpenAudit(path, "fuzz", clock)
	if err != nil {
		f.Fatal(err)
	}
	for range 3 {
		_ = a.Write(obs.Record{Action: "run", Decision: obs.Permit})
	}
	a.Close()
	b, _ := os.ReadFile(path)
	f.Add(b)
	f.Add(b[:len(b)-3])
	f.Add([]byte("{}\n"))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		last, good, err := obs.VerifyAudit(bytes.NewReader(in))
		if good < 0 || good > int64(len(in)) || good > 0 && in[good-1] != '\n' {
			t.Fatalf("offset %d of %d", good, len(in))
		}
		if err != nil && !errors.Is(err, errs.Unproven) {
			t.Errorf("error %v", err)
		}
		again, n, err := obs.VerifyAudit(io.LimitReader(bytes.NewReader(in), good))
		if err != nil || n != good || again != last {
			t.Errorf("the good part alone: %+v, %d, %v; want %+v, %d", again, n, err, last, good)
		}
	})
}
