// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"redoubt.dev/api/errs"
	"redoubt.dev/node/manifest"
)

var rewrite = flag.Bool("rewrite", false, "write what the code says into testdata")

var bar = regexp.MustCompile(`(?m)^----\n`)

// wraps are surroundings for the fragments of transcripts.
var wraps = map[string]struct {
	head   string
	indent string
}{
	"container": {"apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  volumes: [{name: data}]\n  containers:\n  - name: c\n    image: registry.example/a/b:1\n", "    "},
	"pod":       {"apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - {name: c, image: \"registry.example/a/b:1\"}\n", "  "},
	"deployment": {"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  selector: {matchLabels: {app: d}}\n  template:\n    metadata: {labels: {app: d}}\n" +
		"    spec: {containers: [{name: c, image: \"registry.example/a/b:1\"}]}\n", "  "},
	"statefulset": {"apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: s}\nspec:\n  selector: {matchLabels: {app: s}}\n  template:\n    metadata: {labels: {app: s}}\n" +
		"    spec: {containers: [{name: c, image: \"registry.example/a/b:1\"}]}\n", "  "},
	"job":           {"apiVersion: batch/v1\nkind: Job\nmetadata: {name: j}\nspec:\n", "  "},
	"service":       {"apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec:\n", "  "},
	"network":       {"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: net}\nspec:\n", "  "},
	"authorization": {"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec:\n", "  "},
	"peer":          {"apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}\nspec:\n", "  "},
	"trust":         {"apiVersion: redoubt.dev/v1alpha1\nkind: TrustPolicy\nmetadata: {name: t}\nspec:\n", "  "},
}

// TestTranscripts runs testdata/*.txt: blocks of "title", "----", manifest,
// "----", what Decode says, parted by "====". A title that ends in "(in x)"
// puts the manifest into the surroundings x.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for block := range strings.SplitSeq(string(b), "====\n") {
			parts := bar.Split(block, -1)
			if len(parts) != 3 {
				t.Fatalf("%s: block %q has %d parts", file, parts[0], len(parts))
			}
			title := strings.TrimSpace(parts[0])
			t.Run(filepath.Base(file)+"/"+title, func(t *testing.T) {
				got := run(t, title, parts[1])
				if got != parts[2] && !*rewrite {
					t.Errorf("got:\n%swant:\n%s", got, parts[2])
				}
				parts[2] = got
			})
			out = append(out, strings.Join(parts, "----\n"))
		}
		if *rewrite {
			if err := os.WriteFile(file, []byte(strings.Join(out, "====\n")), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func run(t *testing.T, title, text string) string {
	if _, in, ok := strings.Cut(title, "(in "); ok {
		w, ok := wraps[strings.TrimSuffix(in, ")")]
		if !ok {
			t.Fatalf("no surroundings %q", in)
		}
		text = w.head + w.indent + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n"+w.indent) + "\n"
	}
	set, err := manifest.Decode([]byte(text), "f.yaml")
	if err != nil {
		for _, k := range []errs.Kind{errs.Invalid, errs.Unsupported, errs.TooLarge, errs.Exists, errs.Conflict, errs.NotFound} {
			if errors.Is(err, k) {
				return err.Error() + "\n"
			}
		}
		t.Errorf("an error without a kind: %v", err)
		return err.Error() + "\n"
	}
	if err := set.Check(); err != nil {
		return "valid, but\n" + err.Error() + "\n"
	}
	return fmt.Sprintf("valid: %v\n", set.Keys())
}
