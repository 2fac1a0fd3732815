// SPDX-License-Identifier: Apache-2.0

// Package slsa holds the words of build provenance: the SLSA v1 predicate with
// Redoubt's build type, which docs/design describes.
//
// provenance/build writes it and provenance/verify reads it. External
// parameters are read without tolerance: what could have steered the build and
// is not known here must not pass (SLSA v1.2, "Verifying artifacts", step 3).
package slsa

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/provenance/internal/strictjson"
)

// BuildType names the way provenance/build builds, and with it the meaning of
// ExternalParameters.
const BuildType = "https://redoubt.dev/build/v1"

// Predicate is the body of https://slsa.dev/provenance/v1.
type Predicate struct {
	BuildDefinition BuildDefinition `json:"buildDefinition"`
	RunDetails      RunDetails      `json:"runDetails"`
}

// BuildDefinition says what was asked for.
type BuildDefinition struct {
	BuildType            string          `json:"buildType"`
	ExternalParameters   json.RawMessage `json:"externalParameters"`
	InternalParameters   json.RawMessage `json:"internalParameters,omitempty"`
	ResolvedDependencies []Resource      `json:"resolvedDependencies,omitempty"`
}

// Resource names something that went into the build.
type Resource struct {
	URI         string            `json:"uri,omitempty"`
	Name        string            `json:"name,omitempty"`
	Digest      map[string]string `json:"digest,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// RunDetails says who built, and when.
type RunDetails struct {
	Builder struct {
		ID string `json:"id"`
	} `json:"builder"`
	Metadata Metadata `json:"metadata"`
}

// Metadata is the invocation.
type Metadata struct {
	InvocationID string    `json:"invocationId,omitempty"`
	StartedOn    time.Time `json:"startedOn"`
	FinishedOn   time.Time `json:"finishedOn"`
}

// External is everything that the asker of a build chooses.
type External struct {
	Kind   string `json:"kind"` // "go", "rootfs" or "tar"
	Source Source `json:"source"`
	Target string `json:"target"` // "linux/amd64"
	Image  Image  `json:"image"`
}

// Source says where the input lies. Repository is a URI: that of the git
// remote with "git+" before it, or file:// with the absolute path.
type Source struct {
	Repository string `json:"repository"`
	Ref        string `json:"ref,omitempty"`  // branch or tag, "" when detached or without git
	Path       string `json:"path,omitempty"` // inside the repository
}

// Image is the image's configuration.
type Image struct {
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Cmd        []string          `json:"cmd,omitempty"`
	Env        []string          `json:"env,omitempty"`
	User       string            `json:"user,omitempty"`
	WorkDir    string            `json:"workdir,omitempty"`
	Ports      []string          `json:"ports,omitempty"` // "8080/tcp"
	Labels     map[string]string `json:"labels,omitempty"`
}

// SourceName is the Name of the resolved dependency that is the source itself.
const SourceName = "source"

// Parse reads a predicate and its external parameters.
func Parse(raw []byte) (Predicate, External, error) {
	var p Predicate
	var x External
	if err := strictjson.Decode(raw, &p); err != nil {
		return p, x, err
	}
	if p.BuildDefinition.BuildType != BuildType {
		return p, x, &errs.Error{Kind: errs.Denied, Field: "buildType", Expected: BuildType, Seen: p.BuildDefinition.BuildType}
	}
	if err := strictjson.Check(p.BuildDefinition.ExternalParameters); err != nil {
		return p, x, err
	}
	d := json.NewDecoder(bytes.NewReader(p.BuildDefinition.ExternalParameters))
	d.DisallowUnknownFields()
	if err := d.Decode(&x); err != nil {
		return p, x, &errs.Error{Kind: errs.Denied, Field: "externalParameters", Expected: "only parameters of " + BuildType, Err: err}
	}
	return p, x, CheckRepository(x.Source.Repository)
}

// Revision gives the git commit that was built and whether the working tree
// held changes beyond it; revision is "" when the source was not in git.
func (p Predicate) Revision() (revision string, dirty bool) {
	for _, r := range p.BuildDefinition.ResolvedDependencies {
		if r.Name == SourceName {
			return r.Digest["gitCommit"], r.Annotations["dirty"] != "false"
		}
	}
	return "", true
}

// CheckRepository refuses a repository URI that could be read as another than
// the one it looks like: dot segments, escapes, user names, query.
func CheckRepository(uri string) error {
	bad := uri == "" || len(uri) > 1024 || strings.ContainsAny(uri, "\\?#%@") || !strings.Contains(uri, "://")
	for _, r := range uri {
		bad = bad || r <= ' ' || r > '~'
	}
	for _, c := range strings.Split(uri, "/") {
		bad = bad || c == "." || c == ".."
	}
	if bad {
		return &errs.Error{Kind: errs.Denied, Field: "source.repository", Expected: "a plain URI without user, query, escapes or dot segments", Seen: quote(uri)}
	}
	return nil
}

func quote(s string) string {
	if len(s) > 256 {
		s = s[:256] + "…"
	}
	return "\"" + s + "\""
}
