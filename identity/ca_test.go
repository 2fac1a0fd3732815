// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
	"redoubt.dev/identity"
)

var epoch = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)

func at(t time.Time) func() time.Time { return func() time.Time { return t } }

func domain(t testing.TB, s string) id.TrustDomain {
	t.Helper()
	td, err := id.ParseTrustDomain(s)
	if err != nil {
		t.Fatal(err)
	}
	return td
}

func open(t testing.TB, dir string) *identity.CA {
	t.Helper()
	ca, err := identity.Open(dir, domain(t, "bank.example"), at(epoch))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func TestOpenKeepsOneCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	first := open(t, dir)
	for path, want := range map[string]os.FileMode{dir: 0o700 | os.ModeDir, filepath.Join(dir, "ca.pem"): 0o600} {
		fi, err := os.Stat(path)
		if err != nil || fi.Mode() != want {
			t.Errorf("%s: mode %v, %v; want %v", path, fi.Mode(), err, want)
		}
	}
	if !bytes.Equal(first.RootPEM(), open(t, dir).RootPEM()) {
		t.Error("the second Open gave another root")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left in the directory: %v, %v", entries, err)
	}
}

func TestOpenAtOnceGivesOneCA(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	roots := make([][]byte, 8)
	var wg sync.WaitGroup
	for i := range roots {
		wg.Go(func() { roots[i] = open(t, dir).RootPEM() })
	}
	wg.Wait()
	for _, r := range roots {
		if !bytes.Equal(r, roots[0]) {
			t.Fatal("two roots for one directory")
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	other := filepath.Join(t.TempDir(), "other")
	open(t, other)
	for name, c := range map[string]struct {
		td    string
		now   time.Time
		spoil func(t *testing.T, dir, file string)
		kind  errs.Kind
	}{
		"a key that the group may read": {spoil: func(t *testing.T, _, file string) { must(t, os.Chmod(file, 0o640)) }, kind: errs.Denied},
		"a directory open to others":    {spoil: func(t *testing.T, dir, _ string) { must(t, os.Chmod(dir, 0o755)) }, kind: errs.Denied},
		"a link in place of the key": {spoil: func(t *testing.T, _, file string) {
			must(t, os.Remove(file))
			must(t, os.Symlink(filepath.Join(other, "ca.pem"), file))
		}},
		"an empty file":       {spoil: func(t *testing.T, _, file string) { must(t, os.WriteFile(file, nil, 0o600)) }, kind: errs.Invalid},
		"a huge file":         {spoil: func(t *testing.T, _, file string) { must(t, os.Truncate(file, 1<<30)) }, kind: errs.TooLarge},
		"another domain":      {td: "other.example", kind: errs.Conflict},
		"an expired root":     {now: epoch.AddDate(11, 0, 0), kind: errs.Stale},
		"a clock far behind":  {now: epoch.AddDate(-1, 0, 0), kind: errs.Stale},
		"an address":          {td: "10.0.0.1", kind: errs.Invalid},
		"a name with a score": {td: "a_b.example", kind: errs.Invalid},
		"two keys in one": {spoil: func(t *testing.T, _, file string) {
			b := read(t, file)
			must(t, os.WriteFile(file, append(b, b...), 0o600))
		}, kind: errs.Invalid},
		"the root of another CA": {spoil: func(t *testing.T, _, file string) {
			key, _ := pem.Decode(read(t, file))
			_, rest := pem.Decode(read(t, filepath.Join(other, "ca.pem")))
			must(t, os.WriteFile(file, append(pem.EncodeToMemory(key), rest...), 0o600))
		}, kind: errs.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "ca")
			open(t, dir)
			file := filepath.Join(dir, "ca.pem")
			secret := keyText(t, read(t, file))
			if c.spoil != nil {
				c.spoil(t, dir, file)
			}
			if c.td == "" {
				c.td = "bank.example"
			}
			if c.now.IsZero() {
				c.now = epoch
			}
			ca, err := identity.Open(dir, domain(t, c.td), at(c.now))
			if err == nil || c.kind != "" && !errors.Is(err, c.kind) {
				t.Fatalf("got %v, %v; want %s", ca, err, c.kind)
			}
			if strings.Contains(err.Error(), secret) {
				t.Error("the error carries the key")
			}
		})
	}
}

func TestKeyDoesNotPrint(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	ca := open(t, dir)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if got := fmt.Sprintf(verb, ca); got != "CA of bank.example" {
			t.Errorf("%s prints %q", verb, got)
		}
	}
	if bytes.Contains(ca.RootPEM(), []byte("PRIVATE")) {
		t.Error("RootPEM holds a key")
	}
}

func keyText(t *testing.T, b []byte) string {
	t.Helper()
	k, _ := pem.Decode(b)
	if k == nil {
		t.Fatal("no key in the file")
	}
	return base64.StdEncoding.EncodeToString(k.Bytes)[:40]
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
