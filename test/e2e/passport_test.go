// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A passport verifies where there is nothing but the file, the trust root and
// the command: in an empty root file system, without network.
func TestPassportVerifiesElsewhere(t *testing.T) {
	l := start(t)
	dir := t.TempDir()
	l.must(t, "passport", "bank/ledger-0", "-o", dir+"/p")
	l.must(t, "passport", "root", "-o", dir+"/root.json")
	b, err := os.ReadFile(filepath.Join(l.bin, "redoubt"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/redoubt", b, 0o755); err != nil {
		t.Fatal(err)
	}
	elsewhere := func(file string) (string, error) {
		cmd := exec.Command("unshare", "--net", "chroot", dir, "/redoubt", "passport", "verify", file, "--root", "/root.json")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		return out.String(), err
	}
	out, err := elsewhere("/p")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"ns/bank/sa/ledger", "provenance", "source", "signature", "sandbox   sentry"} {
		if !strings.Contains(out, want) {
			t.Errorf("the report lacks %q: %s", want, out)
		}
	}
	p, err := os.ReadFile(dir + "/p")
	if err != nil {
		t.Fatal(err)
	}
	for i := 10; i < len(p); i += len(p) / 12 {
		q := append([]byte(nil), p...)
		q[i] ^= 1
		if err := os.WriteFile(dir+"/q", q, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := elsewhere("/q"); err == nil || !strings.Contains(out, "link ") {
			t.Errorf("byte %d changed: %v: %s", i, err, out)
		}
	}
}
