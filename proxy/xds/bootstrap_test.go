// SPDX-License-Identifier: Apache-2.0

package xds_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"redoubt.dev/proxy/xds"
)

var rewrite = flag.Bool("rewrite", false, "write what is seen into testdata and docs")

// golden holds got to the file at path, or writes it.
func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *rewrite {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got) {
		t.Errorf("%s differs; run with -rewrite and look at the difference. Got:\n%s", path, got)
	}
}

// TestGood holds what becomes of whole bootstraps.
func TestGood(t *testing.T) {
	for _, path := range files(t, "testdata/good/*.yaml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			b, err := xds.Load(path)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(b.Static, "", "\t")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, strings.TrimSuffix(path, ".yaml")+".json", append(got, '\n'))
		})
	}
}

// TestBad holds all that is said about wrong bootstraps.
func TestBad(t *testing.T) {
	for _, path := range files(t, "testdata/bad/*.yaml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			_, err := xds.Load(path)
			if err == nil {
				t.Fatal("taken")
			}
			golden(t, strings.TrimSuffix(path, ".yaml")+".txt", []byte(err.Error()+"\n"))
		})
	}
}

func files(t *testing.T, pattern string) []string {
	t.Helper()
	list, err := filepath.Glob(pattern)
	if err != nil || len(list) == 0 {
		t.Fatalf("%s: %v, %v", pattern, list, err)
	}
	return list
}
