// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"encoding/pem"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"redoubt.dev/proxy/proxytest"
)

const page, listHead = "../../docs/config.md", "## What has effect\n"

// TestExamples holds that every example of the page is taken.
func TestExamples(t *testing.T) {
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	dir, ca := t.TempDir(), proxytest.NewCA(t, "bank.example")
	put := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"shop", "ledger"} {
		chain, key := pemOf(ca.Issue(t, ca.ID("ns", name), time.Hour))
		put(name+".pem", chain)
		put(name+".key", key)
	}
	put("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Root()})))
	n := 0
	for i, part := range strings.Split(string(b), "```yaml\n") {
		text, _, ok := strings.Cut(part, "```")
		if i == 0 || !ok {
			continue
		}
		n++
		if _, err := Parse([]byte(strings.ReplaceAll(text, "/etc/redoubt", dir)), page); err != nil {
			t.Errorf("example %d: %v", n, err)
		}
	}
	if n < 5 {
		t.Errorf("%d examples, want at least 5", n)
	}
}

// TestSupported holds the list to the API: names exist, and every type that
// can stand in an extension is linked in.
func TestSupported(t *testing.T) {
	for name, fields := range loadSupport() {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for f := range fields {
			if d.(protoreflect.MessageDescriptor).Fields().ByName(f) == nil {
				t.Errorf("%s has no field %s", name, f)
			}
		}
	}
}

// TestPage holds the page's list to supported.txt.
func TestPage(t *testing.T) {
	var want strings.Builder
	want.WriteString("\nGenerated from proxy/xds/supported.txt: messages, and those of their fields that are read.\n")
	for _, section := range strings.Split(supportedText, "\n\n")[1:] {
		for line := range strings.Lines(section) {
			line = strings.TrimSpace(line)
			if title, ok := strings.CutPrefix(line, "# "); ok {
				want.WriteString("\n### " + title + "\n\n| Message | Fields |\n|---|---|\n")
				continue
			}
			name, fields, _ := strings.Cut(line, ":")
			if name != "" {
				want.WriteString("| `" + name + "` | " + strings.Join(strings.Fields(fields), ", ") + " |\n")
			}
		}
	}
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	head, tail, ok := strings.Cut(string(b), listHead)
	if !ok {
		t.Fatalf("%s has no %q", page, listHead)
	}
	if flag.Lookup("rewrite").Value.String() == "true" {
		if err := os.WriteFile(page, []byte(head+listHead+want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if tail != want.String() {
		t.Errorf("%s does not list what supported.txt does; run with -rewrite", page)
	}
}
