// SPDX-License-Identifier: Apache-2.0

package build

import (
	"encoding/json"
	"strings"
	"testing"
)

// FuzzStatus holds that whatever a root file system puts into dpkg's status,
// the SBOM stays a document that decodes, of plain names.
func FuzzStatus(f *testing.F) {
	f.Add("Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: b\n")
	f.Add("Package: a\nPackage: b\n x\n\n\n:\n")
	f.Fuzz(func(t *testing.T, text string) {
		pkgs, err := parseStatus(strings.NewReader(text), "debian")
		if err != nil {
			return
		}
		for _, p := range pkgs {
			if p.name == "" || p.version == "" || strings.ContainsAny(p.name+p.version+p.purl, "\n\r\x00") || strings.Count(p.purl, "?") != 1 {
				t.Errorf("package %+v", p)
			}
			if _, err := json.Marshal(p.purl); err != nil {
				t.Error(err)
			}
		}
	})
}
