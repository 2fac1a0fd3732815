// SPDX-License-Identifier: Apache-2.0

package build

import (
	"encoding/json"
	"fmt"
	"sort"
	"time"
)

// pkg is one part of an image.
type pkg struct {
	name, version, purl string
	dirHash             string // hexadecimal, Go modules only
}

// packages are the parts, as far as they are known.
type packages struct {
	main string // the Go main module
	all  []pkg
}

func (p *packages) add(v pkg) { p.all = append(p.all, v) }

// The SPDX 2.3 document, as far as it is used here.
type (
	spdxDoc struct {
		Version           string         `json:"spdxVersion"`
		DataLicense       string         `json:"dataLicense"`
		ID                string         `json:"SPDXID"`
		Name              string         `json:"name"`
		DocumentNamespace string         `json:"documentNamespace"`
		CreationInfo      spdxCreation   `json:"creationInfo"`
		Packages          []spdxPackage  `json:"packages"`
		Relationships     []spdxRelation `json:"relationships"`
	}
	spdxCreation struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	spdxPackage struct {
		ID               string         `json:"SPDXID"`
		Name             string         `json:"name"`
		Version          string         `json:"versionInfo,omitempty"`
		DownloadLocation string         `json:"downloadLocation"`
		FilesAnalyzed    bool           `json:"filesAnalyzed"`
		LicenseConcluded string         `json:"licenseConcluded"`
		LicenseDeclared  string         `json:"licenseDeclared"`
		Copyright        string         `json:"copyrightText"`
		Purpose          string         `json:"primaryPackagePurpose,omitempty"`
		Comment          string         `json:"comment,omitempty"`
		Checksums        []spdxChecksum `json:"checksums,omitempty"`
		ExternalRefs     []spdxRef      `json:"externalRefs,omitempty"`
	}
	spdxChecksum struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"checksumValue"`
	}
	spdxRef struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	spdxRelation struct {
		From string `json:"spdxElementId"`
		Type string `json:"relationshipType"`
		To   string `json:"relatedSpdxElement"`
	}
)

// sbom writes the bill of materials. It is the same for the same image: its
// namespace is made of the image's digest, its time is the image's.
func (b *builder) sbom(r *Result) error {
	image := spdxPackage{
		ID: "SPDXRef-Image", Name: "image", Version: r.Digest.String(), Purpose: "CONTAINER",
		Comment: fmt.Sprintf("SHA-256 of the list of its %d files: %s", b.layer.entries, b.layer.files()),
	}
	if b.pkgs.main != "" {
		image.Name = b.pkgs.main
	}
	image.Checksums = []spdxChecksum{{"SHA256", r.Digest.Hex()}}
	doc := spdxDoc{
		Version: "SPDX-2.3", DataLicense: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: image.Name,
		DocumentNamespace: "https://redoubt.dev/spdx/" + r.Digest.Hex(),
		CreationInfo:      spdxCreation{Created: b.epoch().Format(time.RFC3339), Creators: []string{"Tool: redoubt-build"}},
		Packages:          []spdxPackage{unknown(image)},
		Relationships:     []spdxRelation{{"SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image"}},
	}
	sort.Slice(b.pkgs.all, func(i, j int) bool {
		x, y := b.pkgs.all[i], b.pkgs.all[j]
		return x.name < y.name || x.name == y.name && x.version < y.version
	})
	for i, p := range b.pkgs.all {
		id := fmt.Sprintf("SPDXRef-Package-%d", i+1)
		sp := spdxPackage{ID: id, Name: p.name, Version: p.version}
		if p.purl != "" {
			sp.ExternalRefs = []spdxRef{{"PACKAGE-MANAGER", "purl", p.purl}}
		}
		if p.dirHash != "" {
			// The h1 hash is a SHA-256 over the module's file list.
			sp.Checksums = []spdxChecksum{{"SHA256", p.dirHash}}
		}
		doc.Packages = append(doc.Packages, unknown(sp))
		doc.Relationships = append(doc.Relationships, spdxRelation{"SPDXRef-Image", "CONTAINS", id})
	}
	var err error
	if r.SBOM, err = json.Marshal(doc); err != nil {
		return fmt.Errorf("encode SBOM: %w", err)
	}
	return nil
}

// unknown fills what SPDX requires and nobody here can vouch for.
func unknown(p spdxPackage) spdxPackage {
	p.DownloadLocation, p.LicenseConcluded, p.LicenseDeclared, p.Copyright = "NOASSERTION", "NOASSERTION", "NOASSERTION", "NOASSERTION"
	return p
}
