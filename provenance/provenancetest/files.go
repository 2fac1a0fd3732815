// SPDX-License-Identifier: Apache-2.0

package provenancetest

import (
	"os"
	"path/filepath"
	"testing"
)

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// GoMain writes a Go main package that prints text, without dependencies.
func GoMain(t testing.TB, text string) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "hello")
	write(t, dir+"/go.mod", "module bank.example/hello\n\ngo 1.26\n")
	write(t, dir+"/main.go", "package main\n\nfunc main() { println("+quote(text)+") }\n")
	return dir
}

func quote(s string) string { return "`" + s + "`" }
