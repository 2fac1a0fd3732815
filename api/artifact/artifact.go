// SPDX-License-Identifier: Apache-2.0

// Package artifact names what was built: digests and image references, by the
// grammar of the OCI distribution specification 1.1.
package artifact

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"

	"redoubt.dev/api/errs"
)

// Digest is the SHA-256 of some content in the form "sha256:<64 hex digits>".
// The zero Digest is invalid and equals no content's digest.
type Digest struct{ hex string }

// ParseDigest reads "sha256:<hex>". Other algorithms are refused.
func ParseDigest(s string) (Digest, error) {
	h, ok := strings.CutPrefix(s, "sha256:")
	if ok && len(h) == 64 && strings.Trim(h, "0123456789abcdef") == "" {
		return Digest{h}, nil
	}
	if len(s) > 128 {
		s = s[:128] + "…"
	}
	return Digest{}, &errs.Error{Kind: errs.Invalid, Field: "digest", Expected: "sha256: and 64 lower case hex digits", Seen: "\"" + s + "\""}
}

// DigestOf gives the digest of b.
func DigestOf(b []byte) Digest {
	s := sha256.Sum256(b)
	return Digest{hex.EncodeToString(s[:])}
}

func (d Digest) String() string {
	if d.hex == "" {
		return ""
	}
	return "sha256:" + d.hex
}

// Hex gives the 64 hex digits, "" for the zero Digest.
func (d Digest) Hex() string { return d.hex }

// IsZero reports whether d is the zero Digest.
func (d Digest) IsZero() bool { return d.hex == "" }

// MarshalText and UnmarshalText make a Digest a JSON string.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what MarshalText wrote; an empty text is the zero Digest.
func (d *Digest) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*d = Digest{}
		return nil
	}
	v, err := ParseDigest(string(b))
	if err == nil {
		*d = v
	}
	return err
}

// Ref names an image: a repository with a tag, a digest or both. Host is the
// registry ("registry.bank.example", "docker.io" when none was written).
type Ref struct {
	Host       string
	Repository string // e.g. "bank/ledger"
	Tag        string // "" when only a digest was given; "latest" when neither was
	Digest     Digest // zero when only a tag was given
}

var (
	repoRE = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagRE  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	hostRE = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?(:[0-9]{1,5})?$`)
)

// ParseRef reads an image reference as Kubernetes and Docker do.
func ParseRef(s string) (Ref, error) {
	bad := func(what string) (Ref, error) {
		seen := s
		if len(seen) > 256 {
			seen = seen[:256] + "…"
		}
		return Ref{}, &errs.Error{Kind: errs.Invalid, Field: "image", Expected: what, Seen: "\"" + seen + "\""}
	}
	if s == "" || len(s) > 512 {
		return bad("a reference of 1 to 512 characters")
	}
	var r Ref
	rest := s
	if name, dig, ok := strings.Cut(rest, "@"); ok {
		d, err := ParseDigest(dig)
		if err != nil {
			return bad("a sha256 digest after '@'")
		}
		r.Digest, rest = d, name
	}
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		r.Tag, rest = rest[i+1:], rest[:i]
		if !tagRE.MatchString(r.Tag) {
			return bad("a tag of at most 128 letters, digits, '_', '.', '-'")
		}
	}
	if host, repo, ok := strings.Cut(rest, "/"); ok && (strings.ContainsAny(host, ".:") || host == "localhost") {
		// Host names know no case (RFC 4343). One spelling each, or a policy
		// for "registry.bank.example" would not see "Registry.bank.example".
		r.Host, r.Repository = strings.ToLower(host), repo
		if !hostRE.MatchString(host) {
			return bad("a registry host name")
		}
	} else {
		r.Host, r.Repository = "docker.io", rest
	}
	// Docker's short forms: all spellings of an image must give one name.
	if r.Host == "index.docker.io" {
		r.Host = "docker.io"
	}
	if r.Host == "docker.io" && !strings.Contains(r.Repository, "/") {
		r.Repository = "library/" + r.Repository
	}
	if !repoRE.MatchString(r.Repository) || len(r.Repository) > 255 {
		return bad("a repository of lower case path components")
	}
	if r.Tag == "" && r.Digest.IsZero() {
		r.Tag = "latest"
	}
	return r, nil
}

// Name gives host/repository without tag or digest.
func (r Ref) Name() string { return r.Host + "/" + r.Repository }

// String gives the full reference.
func (r Ref) String() string {
	s := r.Name()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if !r.Digest.IsZero() {
		s += "@" + r.Digest.String()
	}
	return s
}

// At gives r pinned to d, without its tag: the only form that may be run.
func (r Ref) At(d Digest) Ref { return Ref{Host: r.Host, Repository: r.Repository, Digest: d} }
